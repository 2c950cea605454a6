"""`ImageSet`: labelled images in memory, as every reader returns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Indices = slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]


@dataclass(frozen=True, repr=False, eq=False)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: uint8, (N, C, H, W), C-contiguous; C is 1 (grey) or 3 (RGB) for every reader here.
        labels: int64, (N,), each from 0 to `classes` - 1.
        class_names: one name per class, in the order of the labels.
        name: what the set is called in reports and errors.
        paths: where each image came from, one per image, where the reader knows.
        ids: int64, (N,): the number of each image in the set that it was first read as, 0 to N - 1
            by default. Kept by `subset`, so a neighbour found in a subset can be traced back.
        skipped: files that the reader was allowed to leave out, each with the reason.

    Raises:
        TypeError, ValueError: a field has the wrong type, shape or range.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str = "images"
    paths: tuple[str, ...] | None = None
    ids: NDArray[np.int64] = None  # type: ignore[assignment]  # counted by __post_init__
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            raise TypeError(
                f"images must be a uint8 array (N, C, H, W), got {_describe(images)}: "
                "pixels from 0 to 255, channels first"
            )
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be an integer array (N,), got {_describe(labels)}")
        count = len(images)
        if labels.shape != (count,):
            mend = ""
            if labels.ndim == 2:
                mend = ": an ImageSet has one label an image; give fit (images, labels) instead"
            raise ValueError(
                f"labels must be ({count},) for {count} images, got {labels.shape}{mend}"
            )
        names = tuple(str(name) for name in self.class_names)
        if count and (int(labels.min()) < 0 or int(labels.max()) >= len(names)):
            raise ValueError(
                f"labels must be from 0 to {len(names) - 1} for {len(names)} class names, "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
        paths = None if self.paths is None else tuple(str(path) for path in self.paths)
        if paths is not None and len(paths) != count:
            raise ValueError(f"paths must be one per image: {count}, got {len(paths)}")
        ids = np.arange(count) if self.ids is None else np.asarray(self.ids)
        if ids.shape != (count,) or ids.dtype.kind not in "iu":
            raise ValueError(f"ids must be integers ({count},), got {_describe(ids)}")
        # Frozen, so the tidied fields go in by the back door, once.
        object.__setattr__(self, "images", np.ascontiguousarray(images))
        object.__setattr__(self, "labels", np.ascontiguousarray(labels, dtype=np.int64))
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "ids", np.ascontiguousarray(ids, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        channels, height, width = self.image_shape
        return (
            f"ImageSet({self.name!r}: {len(self):,} images, {channels} x {height} x {width}, "
            f"{self.classes} classes)"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many classes there are names for."""
        return len(self.class_names)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """int64, (classes,): how many images each class has."""
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)

    def float(self, indices: Indices | None = None) -> NDArray[np.float32]:
        """float32, (B, C, H, W), in [-1, 1]: x / 127.5 - 1 of the images chosen, or of all.

        Raises:
            IndexError: an index is outside the set.
        """
        chosen = self.images if indices is None else self.images[self._rows(indices)]
        out = chosen.astype(np.float32)
        out /= np.float32(127.5)
        out -= np.float32(1)
        return out

    def subset(self, indices: Indices, name: str | None = None) -> ImageSet:
        """The images chosen, in the order given, with their labels, paths and ids.

        Args:
            indices: integers (repeats and negative numbers as in NumPy), a mask (N,) or a slice.
            name: name of the result; that of this set by default.

        Raises:
            IndexError: an index is outside the set.
        """
        rows = self._rows(indices)
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            name=self.name if name is None else name,
            paths=None if self.paths is None else tuple(self.paths[int(row)] for row in rows),
            ids=self.ids[rows],
        )

    def _rows(self, indices: Indices) -> NDArray[np.int64]:
        count = len(self)
        if isinstance(indices, slice):
            return np.arange(count, dtype=np.int64)[indices]
        rows = np.asarray(indices)
        if rows.dtype == np.bool_:
            if rows.shape != (count,):
                raise IndexError(f"a mask must be ({count},) for {self.name!r}, got {rows.shape}")
            return np.flatnonzero(rows).astype(np.int64)
        if rows.size == 0:
            return np.empty(0, dtype=np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise IndexError(
                f"indices must be integers (B,), a mask ({count},) or a slice, "
                f"got {_describe(rows)}"
            )
        if int(rows.min()) < -count or int(rows.max()) >= count:
            raise IndexError(
                f"indices must be from 0 to {count - 1} for {self.name!r}, "
                f"got {int(rows.min())} to {int(rows.max())}"
            )
        return rows.astype(np.int64)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def concatenate(sets: Sequence[ImageSet], name: str) -> ImageSet:
    """The images of several sets one after the other, numbered anew from 0.

    Raises:
        ValueError: no sets, or their image shapes or class names differ.
    """
    if not sets:
        raise ValueError("sets must hold at least one ImageSet, got none")
    first = sets[0]
    for other in sets[1:]:
        if other.image_shape != first.image_shape or other.class_names != first.class_names:
            raise ValueError(
                f"{first!r} and {other!r} must have the same image shape and class names to be put "
                "together: open both with the same image_size and class_names"
            )
    paths: list[str] | None = []
    for part in sets:
        paths = None if paths is None or part.paths is None else [*paths, *part.paths]
    return ImageSet(
        images=np.concatenate([part.images for part in sets]),
        labels=np.concatenate([part.labels for part in sets]),
        class_names=first.class_names,
        name=name,
        paths=None if paths is None else tuple(paths),
        skipped=tuple(file for part in sets for file in part.skipped),
    )


def check_split(split: str) -> tuple[str, ...]:
    """The parts that "train", "test" or "all" stands for."""
    parts = {"train": ("train",), "test": ("test",), "all": ("train", "test")}
    if split not in parts:
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    return parts[split]
