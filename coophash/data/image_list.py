"""Image lists: one image a line with its labels, as HashNet and DeepHash-pytorch publish splits.

    images/0484_1544502940.jpg 1 0 0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0
    path relative to a root    one zero or one per class: the labels, any number of them

A line may also end in one class number instead (`n01440764/a.jpg 7`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.data.image_folder import read_files
from coophash.data.imageset import ImageSet
from coophash.data.resize import Size, check_channels, check_size

# Parts of a split -> name of the list file that DeepHash-pytorch gives it.
LIST_FILES = {"query": "test.txt", "train": "train.txt", "database": "database.txt"}


@dataclass(frozen=True, repr=False, eq=False)
class ImageList:
    """Images by their paths, with labels, none of them read yet.

    Attributes:
        paths: relative to a root, with `/`; as written in the list.
        labels: bool, (N, C), one column per class; or int64, (N,), classes from 0.
        name: what the list is called in errors.
    """

    paths: tuple[str, ...]
    labels: NDArray[Any]
    name: str = "images"

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if len(labels) != len(self.paths):
            raise ValueError(
                f"labels must be one row per path, {len(self.paths)}, got {labels.shape}"
            )
        if not (labels.ndim == 2 and labels.dtype == np.bool_) and not (
            labels.ndim == 1 and labels.dtype.kind in "iu" and not (labels < 0).any()
        ):
            raise TypeError(
                "labels must be bool (N, C) or classes >= 0 (N,), got "
                f"{labels.dtype} {labels.shape}"
            )
        object.__setattr__(self, "paths", tuple(str(path) for path in self.paths))
        object.__setattr__(self, "labels", labels if labels.ndim == 2 else labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"ImageList({self.name!r}: {len(self):,} images, {self.classes} classes)"

    @property
    def classes(self) -> int:
        """How many classes the labels can name."""
        return int(
            self.labels.shape[1] if self.labels.ndim == 2 else self.labels.max(initial=-1) + 1
        )

    def subset(self, rows: Any, name: str | None = None) -> ImageList:
        """The images chosen by integers, a mask or a slice, in the order given."""
        numbers = np.arange(len(self))[rows]
        return ImageList(
            tuple(self.paths[row] for row in numbers.tolist()),
            self.labels[numbers],
            self.name if name is None else name,
        )

    def files(self, root: str | os.PathLike[str]) -> list[Path]:
        """Where the images are; a leading `/` of a path means the root, as it is put in front."""
        folder = Path(root)
        return [folder / path.lstrip("/") for path in self.paths]

    def missing(self, root: str | os.PathLike[str]) -> list[str]:
        """The paths that are no files under `root`."""
        found = zip(self.paths, self.files(root), strict=True)
        return [path for path, file in found if not file.is_file()]

    def check_files(self, root: str | os.PathLike[str]) -> None:
        """Find out before a long run, not in the middle of it, that files are missing.

        Raises:
            FileNotFoundError: some are, saying how many and which first.
        """
        missing = self.missing(root)
        if missing:
            raise FileNotFoundError(
                f"{len(missing):,} of the {len(self):,} images of {self.name} are not under "
                f"{os.fspath(root)!r}, the first is {missing[0]!r}: the paths of the list are "
                "relative to that folder"
            )

    def read(
        self,
        root: str | os.PathLike[str],
        rows: Any = slice(None),
        size: Size | None = None,
        channels: int = 3,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.uint8]:
        """Images of the rows chosen, uint8 (B, C, H, W), resized as `read_image_folder` does.

        A large set is read in pieces: `rows=slice(0, 1000)`, and so on. Needs Pillow.

        Raises:
            FileNotFoundError: files are missing, with their number; before any is read.
            ValueError: a damaged image, or different sizes and no `size`.
        """
        chosen = self.subset(rows)
        chosen.check_files(root)
        wanted, channels = check_size(size, "size"), check_channels(channels)
        files = chosen.files(root)
        pictures, skipped = read_files(files, wanted, channels, progress)
        if skipped:
            file, reason = next(iter(skipped.items()))
            others = f" (and {len(skipped) - 1:,} more)" if len(skipped) > 1 else ""
            raise ValueError(f"cannot read {file}: {reason}{others}; mend it or fetch it again")
        if not pictures:
            return np.empty((0, channels, *(wanted or (0, 0))), np.uint8)
        for file, picture in zip(files, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise ValueError(
                    f"images of {self.name} must be of one size: {files[0]} is "
                    f"{pictures[0].shape[1]} x {pictures[0].shape[2]}, {file} is "
                    f"{picture.shape[1]} x {picture.shape[2]}; give size=(height, width)"
                )
        return np.stack(pictures)

    def image_set(
        self,
        root: str | os.PathLike[str],
        size: Size | None = None,
        channels: int = 3,
        class_names: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ImageSet:
        """All images in memory as an `ImageSet`, where each has exactly one label.

        Raises:
            FileNotFoundError, ValueError: as `read`; also where an image has no label or several.
        """
        labels = self.labels
        if labels.ndim == 2:
            several = np.flatnonzero(labels.sum(axis=1) != 1)
            if several.size:
                raise ValueError(
                    f"{several.size:,} of the {len(self):,} images of {self.name} have no label or "
                    f"several, {self.paths[several[0]]!r} first: an ImageSet has one label an "
                    "image; use read() and labels"
                )
            labels = labels.argmax(axis=1)
        names = tuple(map(str, range(self.classes))) if class_names is None else tuple(class_names)
        images = self.read(root, size=size, channels=channels, progress=progress)
        return ImageSet(images, labels, names, self.name, tuple(map(str, self.files(root))))


def read_image_list(path: str | os.PathLike[str], classes: int | None = None) -> ImageList:
    """Read a list file: lines `path label label ...`, zeros and ones, or `path class`.

    Args:
        path: the text file, UTF-8.
        classes: how many labels a line has. By default as many zeros and ones as the first line
            ends in; needed only where paths have blanks in them and end in a word 0 or 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no list; the message names the file and the line.
    """
    if classes is not None and (isinstance(classes, bool) or classes < 1):
        raise ValueError(f"classes must be an integer >= 1 or None, got {classes!r}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image list at {str(path)!r}")
    try:
        lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no image list: it is not UTF-8 text ({error})") from None
    if lines == [""]:
        raise ValueError(f"{path} is an empty image list")
    width = _width(lines[0]) if classes is None else classes
    if width == 0:
        raise ValueError(
            f"{path}, line 1: expected a path and zeros and ones, or a path and a class number, "
            f"got {_short(lines[0])}"
        )
    if width == 1 and classes is None:
        return _read_classes(path, lines)
    paths, rows = [], []
    for number, line in enumerate(lines, 1):
        name, *labels = line.rsplit(None, width) or [""]
        row = "".join(labels)
        if len(labels) != width or len(row) != width or row.strip("01"):
            raise ValueError(
                f"{path}, line {number}: expected a path and {width} zeros and ones, got "
                f"{_short(line)}"
            )
        if classes is None and name[-2:] in (" 0", " 1"):
            raise ValueError(
                f"{path}, line {number}: {_width(line)} labels, line 1 has {width}: {_short(line)}"
            )
        paths.append(name.strip())
        rows.append(row)
    bits = np.frombuffer("".join(rows).encode("ascii"), np.uint8).reshape(len(rows), width)
    return ImageList(tuple(paths), bits == ord("1"), str(path))


def read_image_lists(
    folder: str | os.PathLike[str], names: Mapping[str, str] = LIST_FILES
) -> dict[str, ImageList]:
    """The lists of a split, from a folder: `test.txt` (query), `train.txt`, `database.txt`.

    Args:
        folder: for instance `data/coco` of DeepHash-pytorch.
        names: part -> name of its file.

    Raises:
        FileNotFoundError: lists are missing; the message names all of them.
        ValueError: a list is malformed, or they differ in their number of classes.
    """
    folder = Path(folder)
    missing = [name for name in names.values() if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"no {' and no '.join(missing)} in {str(folder)!r}")
    lists = {part: read_image_list(folder / name) for part, name in names.items()}
    kinds = {part: each.labels.shape[1:] for part, each in lists.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(
            f"{names[part]} has {lists[part].classes if kind else 'class numbers'}"
            for part, kind in kinds.items()
        )
        raise ValueError(f"the lists in {folder} differ in their number of classes: {told}")
    return lists


def _width(line: str) -> int:
    """How many zeros and ones a line ends in, behind its first word."""
    words = line.split()[1:]
    count = 0
    while count < len(words) and words[-1 - count] in ("0", "1"):
        count += 1
    return count if count or not words or not words[-1].isdecimal() else 1


def _read_classes(path: Path, lines: list[str]) -> ImageList:
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        name, *rest = line.rsplit(None, 1) or [""]
        if len(rest) != 1 or not rest[0].isdecimal() or len(rest[0]) > 9:
            raise ValueError(
                f"{path}, line {number}: expected a path and a class number, got {_short(line)}"
            )
        paths.append(name.strip())
        labels.append(int(rest[0]))
    return ImageList(tuple(paths), np.array(labels, np.int64), str(path))


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else f"{line[:40]} ... {line[-15:]}")
