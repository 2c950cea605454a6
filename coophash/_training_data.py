"""What `fit` checks of its data and settings before the first update."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coophash._options import check_number
from coophash.data import ImageSet
from coophash.data.checks import check_images
from coophash.hasher import ImageHasher

Pixels = Callable[[NDArray[np.int64]], Any]  # rows -> (B, C, H, W) float in [-1, 1]
_DIGEST_BLOCK = 1 << 24  # values that are turned to grey levels at a time


def labelled(model: ImageHasher, data: Any, name: str) -> tuple[Pixels, NDArray[Any]]:
    """A function that gives the pixels of some rows of a data set, and the labels of all.

    Labels are int64 (N,), or float32 (N, classes) where the model takes several for an image.
    """
    if isinstance(data, ImageSet):
        images, labels = data.images, data.labels
    elif isinstance(data, Sequence) and len(data) == 2:
        images, labels = data
    else:
        raise TypeError(
            f"{name} must be an ImageSet or (images, labels), got {type(data).__name__}"
        )
    if labels is None:
        raise TypeError(f"{name} has no labels: give (images, labels)")
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images)} images but {len(labels)} labels")
    if len(labels) < 2:
        raise ValueError(f"{name} has {len(labels)} images; training needs at least 2")
    checked = model._check_labels(f"{name} labels", labels)
    # Once over everything, in blocks: a NaN in the last image must not wait for its epoch.
    least = 0.0
    for start in range(0, len(images), 4096):
        block = images[start : start + 4096]
        check_images(block, model.config.image_shape, f"{name} images")
        least = min(least, -1.0 if "uint8" in str(block.dtype) else float(block.min()))
    if least >= 0:
        warnings.warn(
            f"{name} images have no value below 0: they seem to be from 0 to 1, where -1 to 1 is "
            "expected. Give x * 2 - 1, or uint8",
            stacklevel=3,
        )

    def pixels(rows: NDArray[np.int64]) -> Any:
        index = torch.from_numpy(rows) if isinstance(images, Tensor) else rows
        return check_images(images[index], model.config.image_shape, f"{name} images")

    return pixels, checked.cpu().numpy()


def digest_of(data: Any, labels: NDArray[Any]) -> str:
    """Tells a resumed run that its images or labels are others, or in another order.

    Of grey levels, so that an image has one digest as uint8 and as float, on any device; floats
    that differ by less than a level are taken for the same.

    Args:
        data: an `ImageSet` or (images, labels), checked by `labelled`.
        labels: of all its images, as `labelled` gives them.
    """
    images = data.images if isinstance(data, ImageSet) else data[0]
    told = hashlib.blake2b(f"{tuple(images.shape)} {labels.shape}".encode(), digest_size=8)
    rows = max(1, _DIGEST_BLOCK // math.prod(images.shape[1:]))
    for start in range(0, len(images), rows):
        block = images[start : start + rows]
        if isinstance(block, Tensor):
            block = block.detach().cpu()
            block = (block if block.dtype == torch.uint8 else block.float()).numpy()
        if block.dtype != np.uint8:
            block = np.rint((block.astype(np.float32) + 1) * 127.5).clip(0, 255).astype(np.uint8)
        told.update(np.ascontiguousarray(block).data)
    told.update(np.ascontiguousarray(labels).data)
    return told.hexdigest()


def halves(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the two halves of validation images: of classes each has half of each class."""
    order = np.argsort(labels, kind="stable") if labels.ndim == 1 else np.arange(len(labels))
    return order[0::2], order[1::2]


def check_validation(labels: NDArray[Any]) -> None:
    """Raise unless some image of one half has a label in common with one of the other."""
    one, other = (labels[rows] for rows in halves(labels))
    if labels.ndim == 1:
        if not np.isin(one, other).any():
            raise ValueError(
                "validation has no two images of one class, so that nothing can be found in it: "
                "give at least two of each class"
            )
    elif not (one.any(0) & other.any(0)).any():
        raise ValueError(
            "validation has no two images that share a label, one of them in an even row and one "
            "in an odd one, so that nothing can be found in it: give more images"
        )


def check_classes(
    classes: int, labels: NDArray[Any], names: tuple[str, ...] | None = None
) -> None:  # fmt: skip
    """Raise unless every class has two training images, without which it has no pair.

    Several labels an image: one image each will do, since images are similar by any of theirs.
    """
    least = 2 if labels.ndim == 1 else 1
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=classes)
    else:
        counts = labels.sum(0).astype(np.int64)
    for label in np.flatnonzero(counts < least):
        named = f" ({names[label]!r})" if names else ""
        raise ValueError(
            f"class {label}{named} has {counts[label]} training image"
            f"{'s' if counts[label] != 1 else ''}; training needs at least {least} of each "
            "class: add images, or leave the class out"
        )


def check_settings(
    *,
    updates: int,
    batch_size: int,
    learning_rate: float,
    generator_learning_rate: float,
    schedule: str,
    averaging: float,
    validate_every: int,
    checkpoint_every: int,
    time_limit: float | None = None,
) -> None:
    """Raise TypeError or ValueError, by name, for a setting of `fit` that is out of range."""
    for name, value, low in (
        ("updates", updates, 0), ("batch_size", batch_size, 2),
        ("validate_every", validate_every, 1), ("checkpoint_every", checkpoint_every, 1),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    # Adam looks at its own rate alone, not at those of its groups: below 0 it would climb.
    for name, rate, expected in (
        ("learning_rate", learning_rate, "above 0"),
        ("generator_learning_rate", generator_learning_rate, "at least 0"),  # 0: it stays as it is
    ):
        check_number(name, rate, expected)
        if not 0 <= rate < math.inf or (rate == 0 and expected == "above 0"):
            raise ValueError(f"{name} must be finite and {expected}, got {rate!r}: try 1e-3")
    check_number("averaging", averaging, "of at least 0 and below 1")
    if not 0 <= averaging < 1:
        raise ValueError(f"averaging must be at least 0 and below 1, got {averaging!r}")
    if time_limit is not None:
        check_number("time_limit", time_limit, "of at least 0")
        if not time_limit >= 0:
            raise ValueError(f"time_limit must be at least 0, got {time_limit!r}")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule must be 'cosine' or 'constant', got {schedule!r}")


def check_augmentation(shift: int, flip: bool, image_shape: tuple[int, int, int]) -> None:
    """Raise unless the shift leaves more than half of an image and flip is a bool."""
    most = (min(image_shape[1:]) - 1) // 2
    if isinstance(shift, bool) or not isinstance(shift, (int, np.integer)) or shift < 0:
        raise ValueError(f"shift must be an integer of at least 0, got {shift!r}")
    if shift > most:
        raise ValueError(
            f"shift must be at most {most} pixels for images of {image_shape[1]} x "
            f"{image_shape[2]}, got {shift}"
        )
    if not isinstance(flip, bool):
        raise TypeError(f"flip must be bool, got {flip!r}")
