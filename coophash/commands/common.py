"""What several commands share: options, reading data sets, models and codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from coophash.data import ImageSet
    from coophash.hasher import ImageHasher

Split = Literal["train", "test", "all"]
Device = Literal["auto", "cpu", "cuda"]

DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Folder of image folders, one per class; or CIFAR or MNIST idx files; or a list of "
        "images with their labels, a .txt file.",
    ),
]
SplitOption = Annotated[
    Split, typer.Option(help="Which part of data that come in parts (CIFAR-10, MNIST).")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-damaged", help="Leave out image files that cannot be read.")
]
FitOption = Annotated[
    bool,
    typer.Option("--fit", help="Bring CIFAR-10 or MNIST to another shape that the model takes."),
]
DeviceOption = Annotated[
    Device, typer.Option(help="Where the network runs; auto takes a GPU that torch finds.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]

console = Console(highlight=False)


def say(text: str) -> None:
    """Print a line as it is: no markup, and no break in the middle of a path."""
    console.print(text, markup=False, soft_wrap=True)


def read_images(
    path: Path,
    split: Split,
    image_size: int | tuple[int, int] | None,
    channels: int | None = None,
    skip_damaged: bool = False,
) -> ImageSet:
    """A data set in any of the layouts that `coophash.data.open_dataset` knows."""
    from tqdm import tqdm

    from coophash.data import open_dataset

    with tqdm(desc="read", unit="image", dynamic_ncols=True, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return open_dataset(path, split, image_size, channels, skip_damaged, progress)


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One image file brought to the shape that a model takes: (1, C, H, W).

    Raises:
        ValueError: it cannot be read as an image.
    """
    from coophash.data.resize import to_array
    from coophash.errors import require

    pillow = require("PIL.Image", "train", "reading images")
    try:
        with pillow.open(path) as image:
            return to_array(image, shape[1:], shape[0])[None]
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error
        raise ValueError(f"cannot read {str(path)!r} as an image: {error}") from None


def place(model: ImageHasher, device: Device) -> ImageHasher:
    """The model, moved to the device.

    Raises:
        ValueError: there is no such device.
    """
    return model.to(torch_device(device))


def torch_device(device: Device) -> str:
    """The device that an option stands for, "cpu" or "cuda".

    Raises:
        ValueError: there is no such device.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ValueError(
            "--device cuda: torch finds no CUDA device (`coophash doctor` says why); leave the "
            "option out to use the CPU"
        )
    return "cuda" if there and device != "cpu" else "cpu"


def encode_images(model: ImageHasher, images: ImageSet, batch_size: int = 512) -> NDArray[np.uint8]:
    """Codes of images, with a bar that shows the time left: (N, ceil(bits / 8))."""
    from tqdm import tqdm

    parts = []
    with tqdm(total=len(images), desc="encode", unit="image", dynamic_ncols=True) as bar:
        for start in range(0, len(images), batch_size):
            part = images.float(slice(start, start + batch_size))
            parts.append(model.encode(part))
            bar.update(len(part))
    return np.concatenate(parts)


def model_data(
    model: ImageHasher, path: Path, split: Split, fit: bool = False, skip_damaged: bool = False
) -> ImageSet:
    """Images in the shape that a model takes.

    Image files are brought to it. CIFAR-10 and MNIST have a shape of their own, which must be that
    of the model, unless `fit` says to bring them to it too: a model of digits would encode photos
    without a word, and the codes would mean nothing.

    Raises:
        ValueError: another shape.
    """
    from coophash.data.cifar10 import find_cifar10
    from coophash.data.cifar100 import find_cifar100
    from coophash.data.idx import find_mnist

    channels, height, width = model.config.image_shape
    fixed = path.is_dir() and any(
        find(path) is not None for find in (find_cifar10, find_cifar100, find_mnist)
    )
    if not fixed or fit:
        return read_images(path, split, (height, width), channels, skip_damaged)
    images = read_images(path, split, None)
    if images.image_shape != model.config.image_shape:
        got = " x ".join(map(str, images.image_shape))
        raise ValueError(
            f"the model takes images of {channels} x {height} x {width} (channels, height, width), "
            f"{str(path)!r} has {got}: use a model for such images, or bring them to it with --fit"
        )
    return images


def new_table(*columns: str, title: str | None = None) -> Table:
    """A plain table: the first column to the left, the others to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table
