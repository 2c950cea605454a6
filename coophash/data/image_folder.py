"""Images in folders, one folder per class."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coophash.data.imageset import ImageSet
from coophash.data.resize import Size, check_channels, check_size, to_array
from coophash.errors import require

EXTENSIONS = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


def read_image_folder(
    path: str | os.PathLike[str],
    size: Size | None = None,
    channels: int = 3,
    skip_damaged: bool = False,
    class_names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read `path/<class>/**/<image>`.

    Classes and files come in natural order (img2 before img10), the same on every machine. Files
    without a known image extension and hidden files are passed over. Needs Pillow.

    Args:
        path: the folder that holds the class folders.
        size: (H, W) or one number: the image is scaled until its shorter side fits, and the middle
            is cut out. None takes the images as they are, and all must be of one size.
        channels: 3 for RGB, 1 for grey.
        skip_damaged: leave out files that cannot be read, with one warning; they are listed in
            `skipped` of the result.
        class_names: the classes and their order, where they must agree with another folder; one
            without a folder here has no images. By default the folders found.
        progress: called as progress(done, total) after each file.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, a class without images, a damaged image, different sizes.
        ImportError: Pillow is not installed.
    """
    root = Path(path)
    wanted, channels = check_size(size, "size"), check_channels(channels)
    folders = find_classes(root)
    names = folders if class_names is None else [str(name) for name in class_names]
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        raise ValueError(f"{root} has the folder {unknown[0]!r}, which is not in class_names")
    if not folders:
        raise ValueError(f"{root} has no class folders: expected {root}/<class>/<image>.png")
    files = [
        (file, label)
        for label, name in enumerate(names)
        if name in folders
        for file in _image_files(root / name)
    ]
    pictures, skipped = read_files([file for file, _ in files], wanted, channels, progress)
    if skipped and not skip_damaged:
        file, reason = next(iter(skipped.items()))
        others = f" (and {len(skipped) - 1:,} more)" if len(skipped) > 1 else ""
        raise ValueError(
            f"cannot read {file}: {reason}{others}; mend or remove it, or leave out such files "
            "with skip_damaged=True"
        )
    kept = [(file, label) for file, label in files if file not in skipped]
    empty = set(folders) - {names[label] for _, label in kept}
    if empty:
        raise ValueError(
            f"class folder {root / min(empty, key=natural_order)} holds no readable image: add "
            f"images ({', '.join(sorted(EXTENSIONS))}) or remove the folder"
        )
    if skipped:
        listed = ", ".join(str(file) for file in list(skipped)[:5])
        warnings.warn(
            f"left out {len(skipped):,} of {len(files):,} images that cannot be read: {listed}"
            f"{', ...' if len(skipped) > 5 else ''}",
            stacklevel=2,
        )
    _check_one_size(root, [file for file, _ in kept], pictures)
    return ImageSet(
        images=np.stack(pictures),
        labels=np.array([label for _, label in kept], dtype=np.int64),
        class_names=tuple(names),
        name=root.resolve().name,
        paths=tuple(str(file) for file, _ in kept),
        skipped=tuple(f"{file}: {reason}" for file, reason in skipped.items()),
    )


def find_classes(root: Path) -> list[str]:
    """Names of the folders in `root`, hidden ones aside, in natural order."""
    if not root.is_dir():
        what = "is a file, expected a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {what}: give the folder that holds one folder per class")
    found = (entry.name for entry in root.iterdir() if entry.is_dir())
    return sorted((name for name in found if not name.startswith(".")), key=natural_order)


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that reads digits as numbers: img2 < img10; ties by the name itself."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(x), "") if x[0] in "0123456789" else (1, 0, x) for x in pieces], name


def has_images(folder: Path) -> bool:
    """Whether there is a file with an image's extension in the folder or below."""
    return any(
        Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )


def _image_files(folder: Path) -> list[Path]:
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=natural_order)
        for name in sorted(names, key=natural_order):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                files.append(Path(place, name))
    return files


def read_files(
    files: list[Path],
    size: tuple[int, int] | None,
    channels: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[NDArray[np.uint8]], dict[Path, str]]:
    """The pictures that can be read, in order, and why the others cannot."""

    pillow = require("PIL.Image", "train", "reading images")

    def read(file: Path) -> NDArray[np.uint8] | str:
        try:
            with pillow.open(file) as image:
                return to_array(image, size, channels)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error
            return str(error) or type(error).__name__

    pictures: list[NDArray[np.uint8]] = []
    skipped: dict[Path, str] = {}
    # Pillow lets go of the interpreter while it decodes and scales.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for done, (file, result) in enumerate(zip(files, pool.map(read, files), strict=True), 1):
            if isinstance(result, str):
                skipped[file] = result
            else:
                pictures.append(result)
            if progress is not None:
                progress(done, len(files))
    finally:  # Ctrl-C does not wait for the files that are left
        pool.shutdown(cancel_futures=True)
    return pictures, skipped


def _check_one_size(root: Path, files: list[Path], pictures: list[NDArray[np.uint8]]) -> None:
    first = pictures[0].shape[1:]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape[1:] != first:
            raise ValueError(
                f"images in {root} must be of one size: {files[0]} is {first[0]} x {first[1]}, "
                f"{file} is {picture.shape[1]} x {picture.shape[2]}; give size=(height, width)"
            )
