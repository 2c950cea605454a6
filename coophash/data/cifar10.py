"""CIFAR-10 in both of its published layouts, binary and python (Krizhevsky 2009)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coophash.data.cifar_python import read_batch
from coophash.data.imageset import ImageSet, check_split

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
FOLDER = "cifar-10-batches-bin"
PYTHON_FOLDER = "cifar-10-batches-py"
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_PIXELS = 3 * 32 * 32  # the red, green and blue planes, row by row
_SOURCE = "the published archives are cifar-10-binary.tar.gz and cifar-10-python.tar.gz"


def find_cifar10(path: str | os.PathLike[str]) -> Path | None:
    """The folder at or in `path` that holds CIFAR-10's files, binary or python, if one does."""
    found = locate_cifar10(path)
    return None if found is None else found[0]


def locate_cifar10(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """The same folder, with its layout: "binary" (looked for first) or "python"."""
    root = Path(path)
    for layout, inner in (("binary", FOLDER), ("python", PYTHON_FOLDER)):
        for folder in (root, root / inner):
            if any((folder / name).is_file() for names in files(layout).values() for name in names):
                return folder, layout
    return None


def files(layout: str) -> dict[str, tuple[str, ...]]:
    """Names of the files of each part in a layout, "binary" or "python"."""
    if layout == "binary":
        return FILES
    return {part: tuple(name.removesuffix(".bin") for name in FILES[part]) for part in FILES}


def read_cifar10(
    path: str | os.PathLike[str], split: str = "train", images_per_file: int | None = 10_000
) -> ImageSet:
    """Read CIFAR-10, the binary or the python version, whichever is there (binary first).

    The files of the python version are pickles; they are read as plain data, and one that wants to
    run anything is refused.

    Args:
        path: the folder `cifar-10-batches-bin` or `cifar-10-batches-py`, or the one that it is in.
        split: "train" (50,000 images: `data_batch_1` to `data_batch_5`), "test" (10,000:
            `test_batch`) or "all", train first.
        images_per_file: how many images each file must hold, so that a file cut short is noticed;
            None takes any whole number, for small files of one's own in this layout.

    Returns:
        3 x 32 x 32 images in the order of the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or no plain data, or a label is not from 0 to 9.
    """
    parts = check_split(split)
    found = locate_cifar10(path)
    if found is None:
        raise FileNotFoundError(
            f"no CIFAR-10 files in {path}: looked for {FILES[parts[0]][0]} and the same without "
            f".bin, there, in {FOLDER}/ and in {PYTHON_FOLDER}/; {_SOURCE}"
        )
    folder, layout = found
    wanted = [folder / name for part in parts for name in files(layout)[part]]
    classes = len(CLASS_NAMES)
    if layout == "python":
        batches = [read_batch(file, "labels", classes, images_per_file, _SOURCE) for file in wanted]
        images = np.concatenate([pixels for pixels, _ in batches])
        labels = np.concatenate([of_batch for _, of_batch in batches])
    else:
        whole = np.concatenate(
            [read_records(file, (classes,), images_per_file, _SOURCE) for file in wanted]
        )
        images, labels = whole[:, 1:].reshape(-1, 3, 32, 32), whole[:, 0].astype(np.int64)
    name = "CIFAR-10" if split == "all" else f"CIFAR-10 {split}"
    return ImageSet(images, labels, CLASS_NAMES, name)


def read_records(
    path: Path, classes: Sequence[int], images: int | None, source: str
) -> NDArray[np.uint8]:
    """The records of a CIFAR binary file: label bytes, then 3 x 32 x 32 pixels, uint8 (N, bytes).

    Args:
        classes: for each label byte of a record, how many classes there are.
        images: how many records there must be; None for any number.
        source: for the messages, where the file comes from.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {source}")
    record = len(classes) + _PIXELS
    size = path.stat().st_size
    if size == 0 or size % record or (images is not None and size != images * record):
        expected = (
            f"a multiple of {record:,}"
            if images is None
            else f"{images * record:,} ({images:,} images)"
        )
        raise ValueError(
            f"{path} has {size:,} bytes, expected {expected}: it is damaged or of another layout; "
            f"unpack it again ({source})"
        )
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, record)
    for column, number in enumerate(classes):
        wrong = np.flatnonzero(records[:, column] >= number)
        if wrong.size:
            raise ValueError(
                f"{path}: image {wrong[0]} has label {records[wrong[0], column]}, expected 0 to "
                f"{number - 1}: the file is damaged or of another layout; unpack it again "
                f"({source})"
            )
    return records
