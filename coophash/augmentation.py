"""Random shifts and mirror images of training batches, the same for every method.

They belong to the training loop, not to a method: what they bring, every method that is compared
gets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_STREAM = 0x5F11  # apart from the streams of batches and of the method's draws


def shift_and_flip(
    images: Tensor, shift: int, flip: bool, seed: int, update: int, draw: int = 0
) -> Tensor:
    """Move each image by up to `shift` pixels in each direction, and mirror every second one.

    Args:
        images: (B, C, H, W), on any device.
        shift: largest move in pixels; every move from -shift to shift is equally likely, down and
            across apart. What comes in from outside continues the edge. 0 moves nothing.
        flip: whether to mirror left and right with probability 1/2.
        seed, update, draw: the moves are a function of the three, on every device the same.
            `draw` is 0 for the batch itself; synthetic images beside it take others.

    Returns:
        (B, C, H, W), new; the images themselves when there is nothing to do.
    """
    if not shift and not flip:
        return images
    source = np.random.default_rng([seed, update, _STREAM] + [draw] * (draw > 0))
    count, _, height, width = images.shape
    moves = source.integers(0, 2 * shift + 1, (count, 2, 1))
    columns = np.broadcast_to(np.arange(width), (count, width))
    if flip:
        mirrored = source.random((count, 1)) < 0.5
        columns = np.where(mirrored, columns[:, ::-1], columns)
    rows = torch.from_numpy(moves[:, 0] + np.arange(height)).to(images.device)
    across = torch.from_numpy(moves[:, 1] + columns).to(images.device)
    padded = F.pad(images, (shift,) * 4, mode="replicate") if shift else images
    # One gather with both indices, channels last: (B, H, W, C).
    item = torch.arange(count, device=images.device)[:, None, None]
    taken = padded.permute(0, 2, 3, 1)[item, rows[:, :, None], across[:, None, :]]
    return taken.permute(0, 3, 1, 2).contiguous()
