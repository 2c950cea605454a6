"""CIFAR-10 in its published binary layout (Krizhevsky 2009)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

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
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORD = 1 + 3 * 32 * 32  # one label, then the red, green and blue planes, row by row
_SOURCE = "the published archive is cifar-10-binary.tar.gz"


def find_cifar10(path: str | os.PathLike[str]) -> Path | None:
    """The folder at or in `path` that holds CIFAR-10's binary files, if one does."""
    for folder in (Path(path), Path(path) / FOLDER):
        if any((folder / name).is_file() for names in FILES.values() for name in names):
            return folder
    return None


def read_cifar10(
    path: str | os.PathLike[str], split: str = "train", images_per_file: int | None = 10_000
) -> ImageSet:
    """Read `data_batch_1.bin` to `data_batch_5.bin` ("train"), `test_batch.bin` ("test") or all.

    Args:
        path: the folder `cifar-10-batches-bin`, or the one that it is in.
        split: "train" (50,000 images), "test" (10,000) or "all", train first.
        images_per_file: how many images each file must hold, so that a file cut short is noticed;
            None takes any whole number, for small files of one's own in this layout.

    Returns:
        3 x 32 x 32 images in the order of the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's size is wrong or a label is not from 0 to 9.
    """
    wanted = [name for part in check_split(split) for name in FILES[part]]
    folder = find_cifar10(path)
    if folder is None:
        python = any(
            (Path(path) / sub / "data_batch_1").is_file() for sub in ("", "cifar-10-batches-py")
        )
        reason = (
            "found the python layout, whose files are pickles and are not read"
            if python
            else f"looked for {wanted[0]} there and in {FOLDER}/"
        )
        raise FileNotFoundError(f"no CIFAR-10 binary files in {path}: {reason}; {_SOURCE}")
    records = [_read_file(folder / name, images_per_file) for name in wanted]
    whole = np.concatenate(records)
    return ImageSet(
        images=whole[:, 1:].reshape(-1, 3, 32, 32),
        labels=whole[:, 0].astype(np.int64),
        class_names=CLASS_NAMES,
        name="CIFAR-10" if split == "all" else f"CIFAR-10 {split}",
    )


def _read_file(path: Path, images: int | None) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_SOURCE}")
    size = path.stat().st_size
    if size == 0 or size % _RECORD or (images is not None and size != images * _RECORD):
        expected = (
            f"a multiple of {_RECORD:,}"
            if images is None
            else f"{images * _RECORD:,} ({images:,} images)"
        )
        raise ValueError(
            f"{path} has {size:,} bytes, expected {expected}: it is damaged or of another layout; "
            f"unpack it again ({_SOURCE})"
        )
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, _RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASS_NAMES))
    if wrong.size:
        raise ValueError(
            f"{path}: image {wrong[0]} has label {records[wrong[0], 0]}, expected 0 to 9: the file "
            f"is damaged or of another layout; unpack it again ({_SOURCE})"
        )
    return records
