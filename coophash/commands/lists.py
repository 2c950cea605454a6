"""Image lists on the command line: `path label label ...`, as NUS-WIDE and COCO are published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

if TYPE_CHECKING:
    from coophash.data import ImageList, ImageSet
    from coophash.encoded import EncodedSet
    from coophash.hasher import ImageHasher

ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="FOLDER", help="DATA is a list: where its paths start, else beside it."
    ),
]
Several = tuple[NDArray[np.uint8], NDArray[np.bool_]]  # images, multi-hot labels

PIECE = 1000  # images in memory at a time while encoding


def is_list(path: Path) -> bool:
    """Whether the data are named by a list: a text file, where all else is a folder."""
    return path.is_file() and path.suffix == ".txt"


def check_options(path: Path, images: Path | None, skip_damaged: bool, split: str | None) -> None:
    """Raise for an option that means nothing for these data. `split`: None where not given."""
    if not is_list(path):
        if images is not None:
            raise ValueError(f"--images is for a list of images (.txt), not for {str(path)!r}")
    elif skip_damaged or split is not None:
        flag = "--skip-damaged" if skip_damaged else "--split"
        raise ValueError(f"{flag} is not for a list of images: take lines out of the list instead")


def read_listed(
    path: Path, root: Path | None, size: int | None, channels: int | None
) -> ImageSet | Several:
    """All images of a list: an `ImageSet` where each has one label, else images and labels.

    Raises:
        FileNotFoundError, ValueError: as `ImageList.read`; or no size.
    """
    listed, folder = _open(path, root)
    if size is None:
        raise ValueError("a list needs --image-size: the pixels a side that images are brought to")
    channels = 3 if channels is None else channels
    if listed.labels.ndim == 1 or (listed.labels.sum(1) == 1).all():
        return listed.image_set(folder, size, channels)
    return listed.read(folder, size=size, channels=channels), listed.labels


def hold_out_several(
    data: Several, fraction: float, labels_per_class: int | None, seed: int
) -> tuple[Several, Several | None]:
    """Split into training and validation images, drawn without regard to their labels.

    Raises:
        ValueError: `labels_per_class`, which several labels an image do not have; or nothing left.
    """
    if labels_per_class is not None:
        raise ValueError("--labels-per-class is for one label an image: leave it out")
    images, labels = data
    order = np.random.RandomState(seed).permutation(len(labels))  # NEP 19 freezes its stream
    held = round(fraction * len(labels))
    if fraction and not 2 <= held <= len(labels) - 2:
        raise ValueError(
            f"--validation-fraction {fraction} holds {held} of {len(labels)} images out: at least "
            "2 must be held out and 2 be left"
        )
    kept, out = np.sort(order[held:]), np.sort(order[:held])
    return (images[kept], labels[kept]), (images[out], labels[out]) if held else None


def encode_listed(
    model: ImageHasher, path: Path, root: Path | None, place: Path, progress: Any = None
) -> EncodedSet:
    """Codes of all images of a list, with their labels and paths, read piece by piece.

    place: folder of the model, which tells what it was trained on.
    """
    from coophash.commands.learned import are_learned
    from coophash.encoded import EncodedSet

    listed, folder = _open(path, root)
    listed.check_files(folder)
    channels, height, width = model.config.image_shape
    codes, learned = [], []
    for start in range(0, len(listed), PIECE):
        rows = slice(start, start + PIECE)
        images = listed.read(folder, rows, (height, width), channels)
        codes.append(model.encode(images))
        if (known := are_learned(place, images)) is not None:
            learned.append(known)
        if progress is not None:
            progress(len(codes[-1]))
    labels = listed.labels
    if labels.ndim == 2 and (labels.sum(1) == 1).all() and not getattr(model, "multi_label", False):
        labels = labels.argmax(1)
    names = model.class_names
    if names is None and labels.ndim == 1:
        names = tuple(map(str, range(model.config.classes)))
    return EncodedSet(
        np.concatenate(codes), model.config.bits, np.arange(len(listed)), labels, names,
        listed.paths, learned=np.concatenate(learned) if learned else None,
    )  # fmt: skip


def _open(path: Path, root: Path | None) -> tuple[ImageList, Path]:
    from coophash.data import read_image_list

    return read_image_list(path), path.parent if root is None else root
