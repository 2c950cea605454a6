"""IDX files, and the MNIST layout made of them (LeCun, Cortes and Burges)."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from coophash.data.imageset import ImageSet, check_split, concatenate

# Third byte of the header -> type of the elements, big-endian in the file.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 20
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read one IDX file, plain or gzipped (told by its first bytes, not by its name).

    Returns:
        An array of the shape and type that the header gives, in the machine's byte order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an IDX file, damaged, cut short, or longer than its header says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no IDX file at {path}")
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if gzipped:
                with gzip.open(raw) as stream:
                    return _read_stream(stream, path)
            return _read_stream(raw, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}): fetch it again") from None


def _read_stream(stream: IO[bytes] | gzip.GzipFile, path: Path) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
        raise ValueError(
            f"{path} is not an IDX file: its first bytes are {magic.hex(' ') or 'missing'}, "
            "expected 00 00, a type from 08 to 0e and the number of dimensions"
        )
    header = stream.read(4 * magic[3])
    shape = tuple(np.frombuffer(header[: len(header) // 4 * 4], dtype=">u4").tolist())
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    # In pieces, so that a damaged header cannot ask for memory that the file does not fill.
    data = bytearray()
    while len(data) <= expected and (piece := stream.read(min(_CHUNK, expected + 1 - len(data)))):
        data += piece
    if len(shape) < magic[3] or len(data) != expected:
        found = "more" if len(data) > expected else f"{len(data):,}"
        raise ValueError(
            f"{path} should hold {expected:,} bytes for shape {shape}, has {found}: it is damaged "
            "or cut short; fetch it again"
        )
    return np.frombuffer(bytes(data), dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))


def find_mnist(path: str | os.PathLike[str]) -> Path | None:
    """The folder at or in `path` that holds files of the MNIST layout, if one does."""
    for folder in (Path(path), Path(path) / "raw", Path(path) / "MNIST" / "raw"):
        if any(_find_file(folder, part, "images") for part in _PREFIX):
            return folder
    return None


def read_mnist(path: str | os.PathLike[str], split: str = "train") -> ImageSet:
    """Read the MNIST layout, which Fashion-MNIST, KMNIST and others share.

    Args:
        path: the folder of `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the `t10k-`
            pair; plain or with `.gz`, also written `.idx3-ubyte`; or a folder with `raw/` or
            `MNIST/raw/` in it.
        split: "train", "test" (the t10k files) or "all", train first.

    Returns:
        1 x H x W images; the classes are named by their numbers, from 0 to the highest in either
        part.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or images and labels do not fit each other.
    """
    parts = check_split(split)
    folder = find_mnist(path)
    if folder is None:
        raise FileNotFoundError(
            f"no files of the MNIST layout in {path}: looked for {_PREFIX[parts[0]]}-images-"
            "idx3-ubyte and the same with .gz, there, in raw/ and in MNIST/raw/"
        )
    read = [_read_part(folder, part) for part in parts]
    highest = [int(labels.max(initial=0)) for _, labels in read]
    highest += [_highest_label(folder, part) for part in _PREFIX if part not in parts]
    classes = max(2, 1 + max(highest))
    names = tuple(map(str, range(classes)))
    title = Path(path).resolve().name or "idx files"
    sets = [
        ImageSet(images, labels, names, f"{title} {part}")
        for part, (images, labels) in zip(parts, read, strict=True)
    ]
    return concatenate(sets, title) if len(sets) > 1 else sets[0]


def _highest_label(folder: Path, part: str) -> int:
    """Of a part that is not read itself, so that both parts have the same classes; 0 without it."""
    path = _find_file(folder, part, "labels")
    return 0 if path is None else int(read_idx(path).max(initial=0))


def missing_files(folder: Path, part: str) -> list[str]:
    """Names of the files of a part, "train" or "test", that are not in the folder."""
    return [
        f"{_PREFIX[part]}-{kind}-idx{dimensions}-ubyte (or .gz)"
        for kind, dimensions in (("images", 3), ("labels", 1))
        if _find_file(folder, part, kind) is None
    ]


def _find_file(folder: Path, part: str, kind: str) -> Path | None:
    dimensions = 3 if kind == "images" else 1
    for joint in ("-", "."):
        for ending in ("", ".gz"):
            name = f"{_PREFIX[part]}-{kind}{joint}idx{dimensions}-ubyte{ending}"
            if (folder / name).is_file():
                return folder / name
    return None


def _read_part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    arrays = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        path = _find_file(folder, part, kind)
        if path is None:
            raise FileNotFoundError(
                f"{_PREFIX[part]}-{kind}-idx{dimensions}-ubyte (or .gz) is missing in {folder}"
            )
        array = read_idx(path)
        if array.dtype != np.uint8 or array.ndim != dimensions or array.size == 0:
            raise ValueError(
                f"{path} must hold uint8 {kind} of {dimensions} dimensions, got {array.dtype} "
                f"{array.shape}"
            )
        arrays.append(array)
    images, labels = arrays
    if len(images) != len(labels):
        raise ValueError(
            f"{folder} has {len(images):,} {part} images and {len(labels):,} labels: the files are "
            "not of one set"
        )
    return images[:, None], labels.astype(np.int64)
