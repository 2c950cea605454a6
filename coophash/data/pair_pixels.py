"""Pixels in the feature files of cross-modal hashing, brought to (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHANNELS = (1, 3)


def rows_first(pixels: NDArray[Any], pairs: int, name: str) -> NDArray[np.uint8]:
    """Raw images as uint8 (N, C, H, W), a view of what was given.

    DCMH (jiangqy/DCMH-CVPR2017) and DJSRH (zs-zhong/DJSRH) keep them as MATLAB arrays
    (H, W, C, N); files that were written again by Python have (N, C, H, W) or (N, H, W, C).

    Args:
        pixels: as `load_arrays` gives them.
        pairs: N, from the texts.
        name: of the variable, for errors.

    Raises:
        ValueError: no such array, or not uint8.
    """
    shape = pixels.shape
    if len(shape) == 4 and shape[0] == pairs and shape[1] in _CHANNELS:
        turned = pixels
    elif len(shape) == 4 and shape[3] == pairs and shape[2] in _CHANNELS:
        turned = pixels.transpose(3, 2, 0, 1)
    elif len(shape) == 4 and shape[0] == pairs and shape[3] in _CHANNELS:
        turned = pixels.transpose(0, 3, 1, 2)
    else:
        raise ValueError(
            f"{name} must be features ({pairs}, width), or pixels (H, W, C, {pairs}) as MATLAB "
            f"shows them, ({pairs}, C, H, W) or ({pairs}, H, W, C), a row for each of the "
            f"{pairs:,} texts; got {shape}"
        )
    if turned.dtype != np.uint8:
        raise ValueError(
            f"{name} must be uint8 pixels, got {turned.dtype} {shape}: store them as they were "
            "read, with nothing subtracted"
        )
    return turned
