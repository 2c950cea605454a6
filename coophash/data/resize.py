"""Bringing images to one size and one number of channels, with Pillow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coophash.data.imageset import ImageSet
from coophash.errors import require

if TYPE_CHECKING:
    from PIL import Image

Size = int | tuple[int, int]
_MODES = {1: "L", 3: "RGB"}


def adapt_images(
    images: ImageSet, size: Size | None = None, channels: int | None = None
) -> ImageSet:
    """The set with images of this size and number of channels; itself if they are so already.

    Args:
        size: (H, W), or one number for both; None keeps the size.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB); None keeps them.
    """
    now, *extent = images.image_shape
    height, width = check_size(size) or tuple(extent)
    target = now if channels is None else check_channels(channels)
    if (target, height, width) == images.image_shape:
        return images
    if now not in _MODES:
        raise ValueError(f"{images!r} must have 1 or 3 channels to be resized, got {now}")
    pillow = require("PIL.Image", "train", "resizing images")
    out = np.empty((len(images), target, height, width), dtype=np.uint8)
    for row, pixels in enumerate(images.images):
        image = pillow.fromarray(pixels[0] if now == 1 else pixels.transpose(1, 2, 0))
        out[row] = to_array(image, (height, width), target)
    return replace(images, images=out)


def to_array(image: Image.Image, size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    """A Pillow image as uint8, (C, H, W).

    The camera's rotation mark is applied and transparent parts show white. With a size, the image
    is scaled until it just covers it (bilinear, with antialiasing) and the middle is cut out.

    Raises:
        ValueError: the image has more than 8 bits per channel, which would be clipped.
    """
    ops = require("PIL.ImageOps", "train", "reading images")
    image = ops.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(f"it has more than 8 bits per channel (mode {image.mode})")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        pillow = require("PIL.Image", "train", "reading images")
        image = image.convert("RGBA")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    image = image.convert(_MODES[channels])
    if size is not None and image.size != (size[1], size[0]):
        image = ops.fit(image, (size[1], size[0]), method=2)  # 2 is PIL.Image.BILINEAR
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def check_size(size: Any, name: str = "image_size") -> tuple[int, int] | None:
    """(H, W) of a size given as one number, two or None."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, (int, np.integer)) else size
    if (
        isinstance(size, (bool, str))
        or not hasattr(pair, "__len__")
        or len(pair) != 2
        or not all(isinstance(x, (int, np.integer)) and 0 < x <= 65_535 for x in pair)
    ):
        raise ValueError(f"{name} must be a number of pixels or (height, width), got {size!r}")
    return int(pair[0]), int(pair[1])


def check_channels(channels: Any) -> int:
    if channels not in _MODES:
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    return int(channels)
