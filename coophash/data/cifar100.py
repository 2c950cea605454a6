"""CIFAR-100 in both of its published layouts (Krizhevsky 2009)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from coophash.data.cifar10 import read_records
from coophash.data.cifar_python import read_batch, read_names
from coophash.data.imageset import ImageSet, check_split, concatenate

Labels = Literal["fine", "coarse"]
FOLDERS = {"binary": "cifar-100-binary", "python": "cifar-100-python"}
IMAGES = {"train": 50_000, "test": 10_000}
_CLASSES = {"coarse": 20, "fine": 100}  # in the order of the two label bytes of a record
_SOURCE = "the published archives are cifar-100-binary.tar.gz and cifar-100-python.tar.gz"


def find_cifar100(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """The folder at or in `path` that holds CIFAR-100, with its layout: "binary" or "python"."""
    root = Path(path)
    for folder in (root, *(root / name for name in FOLDERS.values())):
        if (folder / "fine_label_names.txt").is_file() and _any(folder, ".bin"):
            return folder, "binary"
        if (folder / "meta").is_file() and _any(folder, ""):
            return folder, "python"
    return None


def read_cifar100(
    path: str | os.PathLike[str],
    split: str = "train",
    labels: Labels = "fine",
    whole: bool = True,
) -> ImageSet:
    """Read CIFAR-100, the binary or the python version, whichever is there (binary first).

    Args:
        path: the folder `cifar-100-binary` or `cifar-100-python`, or the one that it is in.
        split: "train" (50,000 images), "test" (10,000) or "all", train first.
        labels: "fine" for the 100 classes, "coarse" for the 20 superclasses.
        whole: the files must hold all images, so that one cut short is noticed; False takes any
            number, for small files of one's own in this layout.

    Returns:
        3 x 32 x 32 images in the order of the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or a label out of range.
    """
    parts = check_split(split)
    if labels not in _CLASSES:
        raise ValueError(f"labels must be 'fine' or 'coarse', got {labels!r}")
    found = find_cifar100(path)
    if found is None:
        raise FileNotFoundError(
            f"no CIFAR-100 in {path}: looked for train.bin with fine_label_names.txt and for train "
            f"with meta, there, in {FOLDERS['binary']}/ and in {FOLDERS['python']}/; {_SOURCE}"
        )
    folder, layout = found
    classes = _CLASSES[labels]
    names: tuple[str, ...]
    if layout == "python":
        names = read_names(folder / "meta", f"{labels}_label_names", classes)
    else:
        listed = folder / f"{labels}_label_names.txt"
        if not listed.is_file():
            raise FileNotFoundError(f"{listed} is missing: {_SOURCE}")
        names = tuple(listed.read_text(encoding="utf-8").split())
        if len(names) != classes:
            raise ValueError(f"{listed} has {len(names)} names, expected {classes}")
    sets = []
    for part in parts:
        count = IMAGES[part] if whole else None
        if layout == "python":
            images, values = read_batch(folder / part, f"{labels}_labels", classes, count, _SOURCE)
        else:
            column = list(_CLASSES).index(labels)
            records = read_records(folder / f"{part}.bin", tuple(_CLASSES.values()), count, _SOURCE)
            images = records[:, 2:].reshape(-1, 3, 32, 32)
            values = records[:, column].astype(np.int64)
        sets.append(ImageSet(images, values, names, f"CIFAR-100 {part}"))
    return concatenate(sets, "CIFAR-100") if len(sets) > 1 else sets[0]


def _any(folder: Path, ending: str) -> bool:
    return any((folder / f"{part}{ending}").is_file() for part in IMAGES)
