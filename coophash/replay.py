"""The replay memory: images in which Langevin chains stopped, by class, for later chains to go on.

A chain of some steps from the generator is short; chains that go on across updates are long ones
cut into pieces (persistent contrastive divergence; JEM, Grathwohl et al., ICLR 2020). With a
generator a share of the chains goes on from here and the rest starts from x+
(`CoopHashConfig.replay`); without one (`coophash.ablation`) all of them do, but for a few anew.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from coophash import label_sets

REPLAY = 100  # images of a class


class Places(NamedTuple):
    """Where in the memory each of B chains stops: no two in one place.

    A batch with more than REPLAY chains of a class has some without a place of their own.
    """

    labels: Tensor  # (B,)
    rows: Tensor  # (B,)
    own: Tensor  # (B,) bool


def new_memory(
    classes: int, image_shape: tuple[int, int, int], seed: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images, (classes, REPLAY, C, H, W) of uniform noise in [-1, 1]; and that none was written."""
    noise = torch.Generator().manual_seed(seed)
    images = 2 * torch.rand((classes, REPLAY, *image_shape), generator=noise) - 1
    return images, torch.zeros(classes, REPLAY, dtype=torch.bool)


class Memory:
    """A view of a model's buffers, which `write` changes.

    Args:
        images: (classes, REPLAY, C, H, W).
        filled: (classes, REPLAY) bool, what was written; None where that does not matter.
    """

    def __init__(self, images: Tensor, filled: Tensor | None = None) -> None:
        self.images, self.filled = images, filled

    def choose(self, labels: Tensor, source: torch.Generator) -> Places:
        """Places for chains under labels (B,), from an offset that is drawn.

        Of several labels an image, (B, classes) multi-hot, one is drawn.
        """
        if labels.dim() == 2:
            labels = label_sets.one_of(labels, source)
        size = self.images.shape[1]
        one_hot = F.one_hot(labels, len(self.images))
        rank = (one_hot.cumsum(0) * one_hot).sum(1) - 1
        offset = torch.randint(size, (1,), generator=source, device=labels.device)
        return Places(labels, (rank + offset) % size, rank < size)

    def read(self, places: Places) -> Tensor:
        """What is at some places: (B, C, H, W)."""
        return self.images[places.labels, places.rows]

    def write(self, places: Places, images: Tensor) -> None:
        """Put images (B, C, H, W) at their places; those without one are left out."""
        labels, rows, own = places
        self.images[labels[own], rows[own]] = images[own].to(self.images.dtype)
        if self.filled is not None:
            self.filled[labels[own], rows[own]] = True

    def starts(
        self, generated: Tensor, labels: Tensor, share: float, source: torch.Generator
    ) -> tuple[Tensor, Places]:
        """Where the chains of an update start, and the places that their ends go to.

        Args:
            generated: x+, (B, C, H, W); labels: c, (B,) or (B, classes).
            share: probability that a chain goes on from the memory, where that was written to.

        Returns:
            (B, C, H, W), and the places.
        """
        assert self.filled is not None
        places = self.choose(labels, source)
        drawn = torch.rand(len(labels), generator=source, device=labels.device) < share
        old = drawn & places.own & self.filled[places.labels, places.rows]
        return torch.where(old[:, None, None, None], self.read(places), generated), places
