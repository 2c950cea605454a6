"""`PairSet`: image-text pairs in memory, as every reader of them returns it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 1 << 53  # up to which float64 has every whole number


@dataclass(frozen=True, repr=False, eq=False)
class PairSet:
    """N image-text pairs: row i of the images belongs to row i of the texts.

    Attributes:
        images: features (N, image_dim), float32; or raw images (N, C, H, W), uint8.
        texts: features (N, text_dim), float32.
        labels: classes, int64 (N,), from 0; or several labels each, bool (N, C); None when not
            known. Training does not look at them.
        class_names: in the order of the labels; None when not known.
        name: what the set is called in reports and errors.
        paths: where each image came from; None when not known.
        captions: each text as it can be read; None when not known.
        ids: int64, (N,): number of each pair in the set that it was first read as. Kept by
            `subset`.

    Raises:
        TypeError, ValueError: a field has the wrong type, shape or range, or holds NaN.
    """

    images: NDArray[Any]
    texts: NDArray[np.float32]
    labels: NDArray[Any] | None = None
    class_names: tuple[str, ...] | None = None
    name: str = "pairs"
    paths: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    ids: NDArray[np.int64] = None  # type: ignore[assignment]  # counted by __post_init__

    def __post_init__(self) -> None:
        images, texts = np.asarray(self.images), np.asarray(self.texts)
        if images.ndim == 4 and images.dtype == np.uint8:
            images = np.ascontiguousarray(images)
        else:
            images = feature_matrix(images, "images")
        texts = feature_matrix(texts, "texts")
        count = len(images)
        if len(texts) != count:
            raise ValueError(
                f"images and texts must have a row for each pair, got {count:,} and {len(texts):,} "
                "rows: row i of one belongs to row i of the other"
            )
        names = None if self.class_names is None else tuple(str(n) for n in self.class_names)
        labels = None
        if self.labels is not None:
            labels = label_array(self.labels, count, "labels")
            highest = _highest(labels)
            if names is not None and highest >= len(names):
                raise ValueError(
                    f"labels must be from 0 to {len(names) - 1} for {len(names)} class names, got "
                    f"up to {highest}"
                )
        ids = np.arange(count) if self.ids is None else np.asarray(self.ids)
        if ids.shape != (count,) or ids.dtype.kind not in "iu":
            raise ValueError(f"ids must be integers ({count},), got {ids.dtype} {ids.shape}")
        for field in ("paths", "captions"):
            value = getattr(self, field)
            if value is not None and len(value) != count:
                raise ValueError(f"{field} must be one per pair: {count}, got {len(value)}")
            told = None if value is None else tuple(str(text) for text in value)
            object.__setattr__(self, field, told)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "texts", texts)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "ids", np.ascontiguousarray(ids, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        images = " x ".join(str(n) for n in self.images.shape[1:])
        known = "no labels"
        if self.labels is not None:
            several = "" if self.labels.ndim == 1 else ", several each"
            known = f"{self.classes} classes{several}"
        return (
            f"PairSet({self.name!r}: {len(self):,} pairs, images {images}, texts {self.text_dim}, "
            f"{known})"
        )

    @property
    def raw(self) -> bool:
        """Whether the images are pixels, not features."""
        return bool(self.images.ndim == 4)

    @property
    def image_dim(self) -> int:
        """Width of the image features.

        Raises:
            TypeError: the images are pixels.
        """
        if self.raw:
            raise TypeError(f"{self!r} has raw images: their features come from a backbone")
        return int(self.images.shape[1])

    @property
    def text_dim(self) -> int:
        """Width of the text features."""
        return int(self.texts.shape[1])

    @property
    def classes(self) -> int:
        """How many classes there are; 0 without labels."""
        if self.class_names is not None:
            return len(self.class_names)
        return 0 if self.labels is None else _highest(self.labels) + 1

    def with_features(self, image: Callable[[Any], Any]) -> PairSet:
        """The pairs with features in place of raw images.

        Args:
            image: uint8 (N, C, H, W) -> (N, image_dim), e.g. `coophash.features.TimmFeatures`.

        Raises:
            TypeError, ValueError: the images are features already, or what came is not.
        """
        if not self.raw:
            raise TypeError(f"{self!r} has features of images already")
        return replace(self, images=source_features(image, self.images, "image"))

    def subset(self, rows: Any, name: str | None = None) -> PairSet:
        """The pairs chosen, in the order given: integers, a mask (N,) or a slice.

        Raises:
            IndexError: an index is outside the set, or a mask of another length.
        """
        index = np.arange(len(self))[rows]
        return replace(
            self,
            # Raw images are gigabytes: a range of them is not copied.
            images=self.images[rows if self.raw and isinstance(rows, slice) else index],
            texts=self.texts[index],
            labels=None if self.labels is None else self.labels[index],
            name=self.name if name is None else name,
            paths=None if self.paths is None else tuple(self.paths[i] for i in index),
            captions=None if self.captions is None else tuple(self.captions[i] for i in index),
            ids=self.ids[index],
        )


def feature_matrix(values: Any, name: str) -> NDArray[np.float32]:
    """Features as float32 (N, D), C-contiguous.

    Raises:
        TypeError: they are not real numbers.
        ValueError: not two-dimensional, no columns, or with NaN or infinity; it says where.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers (N, D), got {array.dtype} {array.shape}")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} must be features (N, D), one row for each pair, got {array.shape}"
        )
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(features).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(features)))
        count = int((~np.isfinite(features)).any(axis=1).sum())
        raise ValueError(
            f"{name} must be finite in float32, got {array[row, column]} in row {row}, column "
            f"{column} ({count:,} of {len(array):,} rows have such values): repair them or leave "
            "these pairs out"
        )
    return features


def source_features(source: Callable[[Any], Any], items: Any, kind: str) -> NDArray[Any]:
    """What a callable makes of files or texts: float32 (N, D), a row for each.

    Raw images, uint8 (N, C, H, W), stay as they are. Tensors may be on any device and may want
    gradients.

    Raises:
        TypeError, ValueError: they are no finite features, or not a row for each.
    """
    found = source(items)
    if hasattr(found, "detach"):
        found = found.detach().cpu().numpy()
    features = np.asarray(found)
    if features.ndim != 4 or features.dtype != np.uint8 or kind != "image":
        features = feature_matrix(found, f"the features of {kind}s")
    if len(features) != len(items):
        raise ValueError(
            f"the {kind} source must return a row for each of {len(items):,} {kind}s, got "
            f"{features.shape}"
        )
    return features


def label_array(values: Any, count: int, name: str) -> NDArray[Any]:
    """Labels as int64 classes (N,), or bool (N, C) where an item may have several.

    A column (N, 1) or a row (1, N) of classes, as MATLAB keeps a list, is taken as (N,); zeros and
    ones (N, C) with exactly one 1 in every row stay (N, C).

    Raises:
        TypeError: they are not whole numbers.
        ValueError: another shape or number of rows, negative classes, or a matrix of other numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be whole numbers, got {array.dtype} {array.shape}")
    if array.ndim == 2 and array.size == count and array.shape in ((count, 1), (1, count)):
        array = array.reshape(count)
    if array.ndim not in (1, 2) or len(array) != count:
        hint = ""
        if array.ndim == 2 and array.shape[1] == count:
            hint = f": turn them, {name}.T"
        raise ValueError(
            f"{name} must be classes ({count},) or zeros and ones ({count}, C), got {array.shape}"
            + hint
        )
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise ValueError(f"{name} must be whole numbers, got fractions or NaN")
    for extreme in (array.max(), array.min()) if array.size else ():
        if not -_LARGEST < extreme < _LARGEST:
            raise ValueError(f"{name} must be whole numbers below 2**53, got {extreme}")
    if array.ndim == 2:
        if not array.shape[1]:
            raise ValueError(f"{name} {array.shape} must have a column for each class, got none")
        if not np.isin(array, (0, 1)).all():
            raise ValueError(
                f"{name} ({array.shape[0]}, {array.shape[1]}) must be zeros and ones, one column a "
                f"class, got values from {array.min():g} to {array.max():g}: write 0 for a class "
                f"that a pair has not, or give class numbers as ({count},)"
            )
        return np.ascontiguousarray(array, dtype=np.bool_)
    if count and int(array.min()) < 0:
        raise ValueError(f"{name} must be classes from 0, got {int(array.min())}")
    return np.ascontiguousarray(array, dtype=np.int64)


def _highest(labels: NDArray[Any]) -> int:
    if labels.ndim == 2:
        return int(labels.shape[1]) - 1
    return int(labels.max()) if len(labels) else -1
