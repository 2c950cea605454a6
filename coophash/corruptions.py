"""Corruptions of images at five strengths: covariate shift made to measure.

    shifted = corrupt(images, "gaussian_noise", strength=3, seed=0)
    spoilt, observed = spoil(images, "occlusion", strength=3)   # what `CoopHash.recover` mends

What happens to an image is a function of the kind, the strength, the seed and the image's number
alone, so neither its batch nor the other images matter. Draws are shared by the five strengths: the
same pixels are hidden or moved, more of them or further.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coophash._options import check_integer
from coophash.data import ImageSet
from coophash.data.checks import check_images
from coophash.errors import require

Images = NDArray[np.float32]

# One row a kind: what strengths 1 to 5 mean.
# ImageNet-C and CIFAR-10-C: Hendrycks and Dietterich, ICLR 2019, github.com/hendrycks/robustness.
# Kinds that know no pixel size take ImageNet-C's numbers, the others CIFAR-10-C's (32 pixels).
STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # deviation, pixels 0 to 1; ImageNet-C
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of black and white; ImageNet-C
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # deviation in pixels, of 32; CIFAR-10-C
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to the value V of HSV; ImageNet-C
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor about the channel's mean; ImageNet-C
    "occlusion": (0.1, 0.2, 0.3, 0.4, 0.5),  # share of the pixels in a hidden rectangle; ours
    "rotation": (6.0, 12.0, 18.0, 24.0, 30.0),  # degrees, to either side; ours
    "shift": (0.04, 0.08, 0.12, 0.16, 0.2),  # share of the side, in any direction; ours
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # size of the small image; CIFAR-10-C
    "jpeg": (25, 18, 15, 10, 7),  # quality; ImageNet-C
}
KINDS = tuple(STRENGTHS)
LEVELS = (1, 2, 3, 4, 5)
SPOILING = ("occlusion", "impulse_noise")  # kinds that leave the other pixels as they are


def corrupt(
    images: Any, kind: str, strength: int, seed: int = 0, numbers: ArrayLike | None = None
) -> Images:
    """Corrupted copies of images.

    Args:
        images: an `ImageSet`, or (N, C, H, W) float in [-1, 1] or uint8; C 1 or 3 for brightness
            and jpeg.
        kind: one of `KINDS`. "occlusion" hides a rectangle of random place and shape, wholly inside
            the image, under mid-grey; "impulse_noise" turns whole pixels black or white. What comes
            in at the edges by rotation and shift repeats the edge.
        strength: 1 to 5; `STRENGTHS` says what that means.
        seed: of every draw.
        numbers: (N,), the numbers that the draws of each image depend on; the `ids` of an
            `ImageSet`, else 0, 1, ...

    Returns:
        float32, (N, C, H, W), in [-1, 1].

    Raises:
        ImportError: blur, rotation and shift need SciPy, pixelate and jpeg Pillow: both come with
            the extra `train`.
        TypeError, ValueError: no such kind or strength, or images of another form.
    """
    pixels, order = _checked(images, numbers)
    value = _value(kind, strength)
    check_integer("seed", seed, 0)
    if kind in SPOILING:
        return _spoil(pixels, kind, value, seed, order)[0]
    draws = _draws(kind, seed, order, _drawn(kind, pixels.shape[1:]))
    shifted = _FUNCTIONS[kind](pixels, value, draws) if len(pixels) else pixels
    clipped: Images = np.clip(shifted, -1, 1).astype(np.float32)
    return clipped


def spoil(
    images: Any, kind: str, strength: int, seed: int = 0, numbers: ArrayLike | None = None
) -> tuple[Images, NDArray[np.bool_]]:
    """`corrupt` by a kind that leaves the other pixels as they are, and which those are.

    Args:
        kind: "occlusion" or "impulse_noise".
        images, strength, seed, numbers: as `corrupt`.

    Returns:
        The images of `corrupt`, and which pixels are observed: bool (N, 1, H, W), False where a
        pixel is hidden or was replaced.

    Raises:
        TypeError, ValueError: as `corrupt`, or another kind.
    """
    if kind not in SPOILING:
        raise ValueError(f"kind must be one of {', '.join(SPOILING)}, got {kind!r}")
    pixels, order = _checked(images, numbers)
    value = _value(kind, strength)
    check_integer("seed", seed, 0)
    return _spoil(pixels, kind, value, seed, order)


def _checked(images: Any, numbers: ArrayLike | None) -> tuple[Images, NDArray[np.int64]]:
    if isinstance(images, ImageSet):
        order = images.ids if numbers is None else np.asarray(numbers)
        pixels = images.float()
    else:
        pixels = np.asarray(check_images(images))
        order = np.arange(len(pixels)) if numbers is None else np.asarray(numbers)
    if order.shape != (len(pixels),) or order.dtype.kind not in "iu" or (order < 0).any():
        raise ValueError(
            f"numbers must be {len(pixels)} integers of at least 0, one for each image, got "
            f"{order.dtype} {order.shape}"
        )
    return pixels, order.astype(np.int64)


def _value(kind: str, strength: int) -> float:
    if kind not in STRENGTHS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if isinstance(strength, bool) or strength not in LEVELS:
        raise ValueError(f"strength must be 1, 2, 3, 4 or 5, got {strength!r}")
    return STRENGTHS[kind][int(strength) - 1]


def _drawn(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what is drawn for each image."""
    return {"gaussian_noise": shape, "rotation": (1,), "shift": (1,)}.get(kind, (0,))


def _draws(
    kind: str, seed: int, numbers: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Normal draws of noise, else uniform ones on [0, 1): (N, *shape), a stream for each image."""
    out = np.empty((len(numbers), *shape))
    if out.size:
        for row, number in enumerate(numbers):
            source = np.random.default_rng([seed, KINDS.index(kind), int(number)])
            noise = kind == "gaussian_noise"
            out[row] = source.standard_normal(shape) if noise else source.random(shape)
    return out


def _spoil(
    images: Images, kind: str, share: float, seed: int, numbers: NDArray[np.int64]
) -> tuple[Images, NDArray[np.bool_]]:
    if kind == "occlusion":
        observed = _observed(images.shape, share, seed, numbers)
        return np.where(observed, images, np.float32(0)), observed
    draws = _draws(kind, seed, numbers, (2, 1, *images.shape[2:]))
    observed = draws[:, 0] >= share
    return np.where(
        observed, images, np.where(draws[:, 1] < 0.5, -1, 1).astype(np.float32)
    ), observed


def _observed(
    shape: tuple[int, ...], share: float, seed: int, numbers: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(N, 1, H, W): False in the hidden rectangle."""
    count, _, height, width = shape
    observed = np.ones((count, 1, height, width), dtype=bool)
    for row, (a, y, x) in enumerate(_draws("occlusion", seed, numbers, (3,))):
        ratio = 2.0 ** (2 * a - 1)  # height over width, from 1/2 to 2, in units of the sides
        ratio = min(max(ratio, share), 1 / share)  # so that both sides fit
        tall = max(1, round(height * (share * ratio) ** 0.5))
        wide = max(1, round(width * (share / ratio) ** 0.5))
        top, left = int(y * (height - tall + 1)), int(x * (width - wide + 1))
        observed[row, 0, top : top + tall, left : left + wide] = False
    return observed


def _noise(images: Images, deviation: float, draws: NDArray[np.float64]) -> Any:
    return images + 2 * deviation * draws  # pixels span 2


def _blur(images: Images, deviation: float, _: Any) -> Any:
    ndimage = require("scipy.ndimage", "train", "blurring images")
    sigma = deviation * max(images.shape[2:]) / 32
    return ndimage.gaussian_filter(images, sigma=(0, 0, sigma, sigma), mode="nearest")


def _brightness(images: Images, added: float, _: Any) -> Any:
    # HSV with another V: the channels keep their ratios; black has none and turns grey.
    unit = (images + 1) / 2
    value = unit.max(axis=1, keepdims=True)
    after = np.minimum(value + added, 1)
    dark = value < 1 / 512
    return 2 * np.where(dark, after, unit * (after / np.where(dark, 1, value))) - 1


def _contrast(images: Images, factor: float, _: Any) -> Any:
    mean = images.mean(axis=(2, 3), keepdims=True)
    return (images - mean) * factor + mean


def _rotation(images: Images, degrees: float, draws: NDArray[np.float64]) -> Any:
    ndimage = require("scipy.ndimage", "train", "rotating images")
    out = np.empty_like(images)
    for row, (image, draw) in enumerate(zip(images, draws[:, 0], strict=True)):
        angle = degrees if draw < 0.5 else -degrees
        out[row] = ndimage.rotate(image, angle, (1, 2), False, order=1, mode="nearest")
    return out


def _shift(images: Images, share: float, draws: NDArray[np.float64]) -> Any:
    ndimage = require("scipy.ndimage", "train", "shifting images")
    out, length = np.empty_like(images), share * max(images.shape[2:])
    for row, (image, draw) in enumerate(zip(images, draws[:, 0], strict=True)):
        by = length * np.sin(2 * np.pi * draw), length * np.cos(2 * np.pi * draw)
        out[row] = ndimage.shift(image, (0, *by), order=1, mode="nearest")
    return out


def _by_pillow(change: Callable[[Any, Any, float], Any]) -> Callable[..., Any]:
    """A corruption of Pillow images as one of arrays."""

    def corruption(images: Images, value: float, _: Any) -> Any:
        pillow = require("PIL.Image", "train", "corrupting images")
        grey = images.shape[1] == 1
        if not grey and images.shape[1] != 3:
            raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
        out = np.empty_like(images)
        bytes_ = np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8)
        for row, pixels in enumerate(bytes_):
            image = pillow.fromarray(pixels[0] if grey else pixels.transpose(1, 2, 0))
            made = np.asarray(change(pillow, image, value), np.float32) / 127.5 - 1
            out[row] = made[None] if grey else made.transpose(2, 0, 1)
        return out

    return corruption


def _pixelate(pillow: Any, image: Any, scale: float) -> Any:
    small = tuple(max(1, int(side * scale)) for side in image.size)
    box = pillow.Resampling.BOX
    return image.resize(small, box).resize(image.size, box)


def _jpeg(pillow: Any, image: Any, quality: float) -> Any:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(quality))
    return pillow.open(buffer)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "gaussian_noise": _noise, "blur": _blur, "brightness": _brightness, "contrast": _contrast,
    "rotation": _rotation, "shift": _shift, "pixelate": _by_pillow(_pixelate),
    "jpeg": _by_pillow(_jpeg),
}  # fmt: skip
