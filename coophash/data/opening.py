"""One entry point for every layout that coophash reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from coophash.data.cifar10 import find_cifar10, read_cifar10
from coophash.data.cifar100 import find_cifar100, read_cifar100
from coophash.data.idx import find_mnist, read_mnist
from coophash.data.image_folder import find_classes, has_images, natural_order, read_image_folder
from coophash.data.imageset import ImageSet, check_split, concatenate
from coophash.data.resize import Size, adapt_images, check_channels, check_size

_LAYOUTS = """
  - CIFAR-10: data_batch_1.bin ... and test_batch.bin (or cifar-10-batches-bin/), or the python
    version: data_batch_1 ... and test_batch (or cifar-10-batches-py/)
  - CIFAR-100, the same: train.bin and test.bin, or train and test (or cifar-100-binary/,
    cifar-100-python/)
  - MNIST idx files: train-images-idx3-ubyte ... and t10k-images-idx3-ubyte ..., plain or .gz
  - an image folder by class: <class>/<image>.png, or train/<class>/... and test/<class>/..."""


def open_dataset(
    path: str | os.PathLike[str],
    split: str = "train",
    image_size: Size | None = None,
    channels: int | None = None,
    skip_damaged: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read labelled images from a folder whose layout is recognised by its files.

    Args:
        path: a folder of CIFAR-10 or CIFAR-100 files (binary or python version), of MNIST idx
            files, or of one folder per class, possibly under `train/` and `test/`.
        split: "train", "test" or "all", train first. A class folder without `train/` and `test/`
            is one set: "train" and "all" give all of it, to be parted by `split_indices`.
        image_size: (H, W) or one number that images are brought to: scaled until the shorter side
            fits, the middle cut out. None keeps their size.
        channels: 1 (grey) or 3 (RGB); None keeps those of CIFAR and MNIST, and is 3 for image
            folders.
        skip_damaged, progress: for image folders, see `read_image_folder`.

    Raises:
        FileNotFoundError: no such folder, or a file or part of the layout is missing.
        ValueError: none of the layouts, a damaged file, or a wrong argument.
        ImportError: Pillow is needed and not installed.
    """
    root = Path(path)
    parts = check_split(split)
    check_size(image_size)
    if channels is not None:
        check_channels(channels)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {what}: give the folder that holds one of{_LAYOUTS}")
    if find_cifar10(root) is not None:
        return adapt_images(read_cifar10(root, split), image_size, channels)
    if find_cifar100(root) is not None:
        return adapt_images(read_cifar100(root, split), image_size, channels)
    if find_mnist(root) is not None:
        return adapt_images(read_mnist(root, split), image_size, channels)

    def read_folder(folder: Path, classes: list[str] | None) -> ImageSet:
        return read_image_folder(
            folder, image_size, 3 if channels is None else channels, skip_damaged, classes, progress
        )

    halves = {part: root / part for part in ("train", "test") if _is_class_folder(root / part)}
    if not halves:
        if not _is_class_folder(root):
            raise ValueError(f"{root} holds none of the layouts that are read:{_LAYOUTS}")
        if split == "test":
            raise FileNotFoundError(
                f"{root} has no test/ folder: read all of it with split='all' and part it with "
                "coophash.data.split_indices"
            )
        return read_folder(root, None)
    # Classes are numbered alike in both parts, whichever is read; one part may lack some, as in
    # retrieval of classes unseen in training.
    classes = sorted(
        {name for half in halves.values() for name in find_classes(half)}, key=natural_order
    )
    for part in parts:
        if part not in halves:
            raise FileNotFoundError(f"{root} has no {part}/ folder of class folders")
    sets = [read_folder(halves[part], classes) for part in parts]
    return concatenate(sets, root.resolve().name) if len(sets) > 1 else sets[0]


def _is_class_folder(folder: Path) -> bool:
    """Whether the folder has folders and one of them has images."""
    return folder.is_dir() and any(has_images(folder / name) for name in find_classes(folder))
