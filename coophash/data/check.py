"""Whether a folder holds a known data set: what is there, what is missing, what differs.

Nothing is downloaded and nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from coophash.data import cifar10, cifar100
from coophash.data.check_lists import check_lists
from coophash.data.check_pairs import PAIR_FACTS, check_pairs
from coophash.data.finding import Finding, digest
from coophash.data.idx import find_mnist, missing_files, read_mnist
from coophash.data.imageset import ImageSet
from coophash.data.known import KnownSet, known_set

Part = Literal["train", "test"]
_PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found.

    Attributes:
        known: the set that was looked for.
        root: where.
        findings: in the order of reading.
    """

    known: KnownSet
    root: Path
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing and nothing differs; notes do not count."""
        return not any(finding.level in ("missing", "differs") for finding in self.findings)


def check_dataset(
    root: str | os.PathLike[str],
    name: str,
    lists: str | os.PathLike[str] | None = None,
    images: int = 1000,
) -> Report:
    """Compare a folder with what is published of a data set.

    Counted are items of each part and class; sizes of images, labels out of range, duplicates and
    items that are queries and database at once are looked for, by path and by content.

    Args:
        root: the folder of the data.
        name: a set of `coophash.data.known.KNOWN`.
        lists: for sets that come with list files, the folder that they are in; `root` by default.
        images: how many of the images that lists name are opened for their size, spread evenly.

    Raises:
        ValueError: no such set.
    """
    known = known_set(name)
    folder = Path(root)
    if images < 0:
        raise ValueError(f"images must be an integer >= 0, got {images}")
    if known.layout == "pairs" and folder.exists():
        return Report(known, folder, tuple(check_pairs(folder, PAIR_FACTS.get(known.name))))
    if lists is not None and known.layout != "lists":
        raise ValueError(f"{known.name} comes without list files: leave `lists` out")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        findings = iter([Finding("missing", "folder", f"{folder} {what}")])
    elif known.layout == "lists":
        findings = check_lists(folder, folder if lists is None else Path(lists), known, images)
    else:
        findings = _check_pooled(folder, known)
    return Report(known, folder, tuple(findings))


def _check_pooled(root: Path, known: KnownSet) -> Iterator[Finding]:
    """Sets that come as a training and a test part in few large files."""
    reader = _READERS[known.layout]
    found = reader.locate(root)
    if found is None:
        yield Finding("missing", "files", f"none of {known.title} in {root} ({known.expects})")
        return
    folder, layout = found
    yield Finding("ok", "files", f"{folder}, {layout}")
    sets: dict[str, ImageSet] = {}
    for part in _PARTS:
        missing = reader.missing(folder, layout, part)
        if missing:
            yield Finding("missing", part, ", ".join(missing))
            continue
        try:
            sets[part] = reader.read(folder, part)
        except (ValueError, OSError) as error:
            yield Finding("differs", part, str(error))
            continue
        yield from _check_part(sets[part], part, known)
    yield from _check_twins(sets)


def _check_part(images: ImageSet, part: str, known: KnownSet) -> Iterator[Finding]:
    shape = " x ".join(map(str, images.image_shape))
    expected = known.parts[part]
    counts = images.class_counts
    told = f"{len(images):,} images of {shape}"
    if len(images) != expected:
        yield Finding("differs", part, f"{told}; {expected:,} are published")
        return
    if known.image_shape is not None and images.image_shape != known.image_shape:
        right = " x ".join(map(str, known.image_shape))
        yield Finding("differs", part, f"{told}; published are {right} (channels, height, width)")
        return
    if images.classes != known.classes:
        yield Finding("differs", part, f"{told}, {images.classes} classes, not {known.classes}")
        return
    published = np.broadcast_to(np.array(known.per_class[part]), counts.shape)
    wrong = np.flatnonzero(counts != published)
    if wrong.size:
        first = int(wrong[0])
        yield Finding(
            "differs", part,
            f"{told}; {wrong.size} of {known.classes} classes have another number of images than "
            f"published, class {first} {counts[first]:,} and not {published[first]:,}",
        )  # fmt: skip
        return
    low, high = int(counts.min()), int(counts.max())
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    yield Finding("ok", part, f"{told}, {each} of each of {known.classes} classes")


def _check_twins(sets: dict[str, ImageSet]) -> Iterator[Finding]:
    """Images that are there twice, byte for byte."""
    if not sets:
        return
    first: dict[bytes, tuple[str, int]] = {}
    within = across = 0
    example = ""
    for part, images in sets.items():
        for row, image in enumerate(images.images):
            twin = first.setdefault(digest(image.tobytes()), (part, row))
            if twin == (part, row):
                continue
            across += twin[0] != part
            within += twin[0] == part
            example = example or f"{twin[0]} {twin[1]:,} and {part} {row:,}"
    if within or across:
        yield Finding(
            "note", "duplicates",
            f"{within + across:,} images are there before, byte for byte, {across:,} of them in "
            f"the other part (first {example}): a query may have its twin in the database",
        )  # fmt: skip
    else:
        yield Finding("ok", "duplicates", "no image is there twice, byte for byte")


@dataclass(frozen=True)
class _Reader:
    """How a layout is found, which files of a part are missing, and how it is read."""

    locate: Callable[[Path], tuple[Path, str] | None]
    missing: Callable[[Path, str, Part], list[str]]
    read: Callable[[Path, Part], ImageSet]


def _absent(folder: Path, names: tuple[str, ...] | list[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _locate_mnist(root: Path) -> tuple[Path, str] | None:
    folder = find_mnist(root)
    return None if folder is None else (folder, "idx files")


def _cifar100_files(folder: Path, layout: str, part: Part) -> list[str]:
    wanted = [f"{part}.bin", "fine_label_names.txt"] if layout == "binary" else [part, "meta"]
    return _absent(folder, wanted)


_READERS = {
    "cifar10": _Reader(
        cifar10.locate_cifar10,
        lambda folder, layout, part: _absent(folder, cifar10.files(layout)[part]),
        cifar10.read_cifar10,
    ),
    "cifar100": _Reader(cifar100.find_cifar100, _cifar100_files, cifar100.read_cifar100),
    "mnist": _Reader(
        _locate_mnist, lambda folder, _, part: missing_files(folder, part), read_mnist
    ),
}
