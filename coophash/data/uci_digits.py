"""The 1,797 handwritten digits of UCI that come inside scikit-learn: another collection of digits.

Other writers, another scanner and 8 x 8 pixels beside MNIST's 28 x 28: codes learned on one are
queried with the other (`coophash.evaluation.evaluate_collections`).
"""

from __future__ import annotations

import numpy as np

from coophash.data.imageset import ImageSet
from coophash.data.resize import adapt_images
from coophash.errors import require


def read_uci_digits(size: int = 28, margin: int = 4) -> ImageSet:
    """UCI's "optical recognition of handwritten digits", test part (Alpaydin and Kaynak 1998).

    Args:
        size: height and width, pixels.
        margin: black pixels on each side around the scaled 8 x 8 digit. MNIST fits its digits into
            20 x 20 of 28 x 28 pixels, so 4 makes the two alike; 0 fills the image.

    Returns:
        1,797 images, 1 x size x size, about 180 of each digit; white on black as in MNIST, scaled
        from 8 x 8 bilinearly.

    Raises:
        ImportError: scikit-learn (with the extra `demo`) or Pillow (`train`) is not installed.
        ValueError: nothing is left within the margin, or this scikit-learn holds something else.
    """
    inner = size - 2 * margin
    if margin < 0 or inner < 8:
        raise ValueError(
            f"size must leave at least 8 pixels within the margin, got {size} with margin {margin}"
        )
    found = require("sklearn.datasets", "demo", "reading UCI's digits").load_digits()
    if found.images.shape != (1797, 8, 8) or found.images.max() != 16:
        raise ValueError(
            f"sklearn.datasets.load_digits gave {found.images.shape} up to {found.images.max():g}, "
            "expected (1797, 8, 8) up to 16"
        )
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    digits = ImageSet(pixels, found.target.astype(np.int64), tuple("0123456789"), name="UCI digits")
    images = np.zeros((len(digits), 1, size, size), np.uint8)
    rows = slice(margin, size - margin)
    images[:, :, rows, rows] = adapt_images(digits, inner).images
    return ImageSet(images, digits.labels, digits.class_names, name=digits.name)
