"""Features of raw images and texts: what stands between a photo or a sentence and `UCCH`.

A source is any callable from a list of image files, or of texts, to (N, D) numbers: a sentence
encoder fits as it is. Those here take pixels, uint8 (N, C, H, W), for files too. Those that can be
described in JSON are saved with the model:

    Pixels          small pictures, with nothing but Pillow
    Photos          images as they are, for `coophash.ucch_backbone`; not saved
    TimmFeatures    any backbone of timm, frozen, as the paper's VGG-19 is
    BagOfWords      of `coophash.data`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash._options import check_integer
from coophash.data.bag_of_words import BagOfWords
from coophash.data.resize import to_array
from coophash.errors import require

Source = Callable[[Sequence[Any]], Any]
File = str | os.PathLike[str]


class Pixels:
    """Images as their own pixels, scaled down: (N, channels * size * size) float32 in [-1, 1].

    Args:
        size: pixels a side; the middle of an image is cut out.
        channels: 1 (grey) or 3 (RGB).
    """

    def __init__(self, size: int = 16, channels: int = 3) -> None:
        check_integer("size", size, 1)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        self.size, self.channels = int(size), int(channels)

    def __call__(self, files: Sequence[File]) -> NDArray[np.float32]:
        shape = (self.size, self.size)
        _check_listed(files)
        pixels = [read_pixels(file, shape, self.channels) for file in files]
        width = self.channels * self.size * self.size
        stacked = np.array(pixels, np.float32).reshape(len(pixels), width)
        return np.asarray(stacked / np.float32(127.5) - 1, np.float32)

    def describe(self) -> dict[str, Any]:
        """What `make_source` makes it from."""
        return {"kind": "pixels", "size": self.size, "channels": self.channels}


class Photos:
    """Images as they are, for a backbone that is trained along: uint8 (N, channels, size, size).

    Args:
        size: pixels a side; an image is scaled until it just covers it and the middle is cut out.
        channels: 1 (grey) or 3 (RGB).
    """

    def __init__(self, size: int = 256, channels: int = 3) -> None:
        self.pixels = Pixels(size, channels)

    def __call__(self, files: Sequence[File]) -> NDArray[np.uint8]:
        side, channels = self.pixels.size, self.pixels.channels
        _check_listed(files)
        out = np.empty((len(files), channels, side, side), np.uint8)
        for row, file in enumerate(files):
            out[row] = read_pixels(file, (side, side), channels)
        return out


class TimmFeatures:
    """Images through a backbone of timm without its classifier, in evaluation mode, not trained.

    Args:
        name: of the model, as timm knows it, e.g. "vgg19" or "resnet50".
        weights: a `.safetensors` or `.pth` file of its state dict, with its classifier or without;
            None takes `pretrained`.
        pretrained: let timm fetch its published weights where it keeps them. False with no
            `weights` leaves random weights, which is refused.
        size: pixels a side; None takes what the model was trained with.
        batch_size: images at a time.
        device: of torch.

    Attributes:
        model, size, channels: the backbone, and what it takes.
        mean, deviation: of each channel, of pixels from 0 to 1: (channels, 1, 1).

    Raises:
        ImportError: timm is not installed.
        FileNotFoundError: there is no such file of weights.
        TypeError, ValueError: no weights were named or they do not fit, timm knows no such model,
            or size or batch_size is below 1.
    """

    def __init__(
        self,
        name: str,
        weights: File | None = None,
        pretrained: bool = False,
        size: int | None = None,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        if weights is None and not pretrained:
            raise ValueError(
                f"{name} needs weights: give a file as weights, or pretrained=True, which lets "
                "timm fetch them"
            )
        check_integer("batch_size", batch_size, 1)
        if size is not None:
            check_integer("size", size, 1)
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(f"no weights at {str(weights)!r}")
        timm = require("timm", "timm", "a backbone")
        self.name, self.pretrained, self.batch_size, self.device = (
            name, pretrained, batch_size, device,
        )  # fmt: skip
        self.weights = None if weights is None else str(weights)
        try:
            self.model = timm.create_model(
                name, pretrained=pretrained and weights is None, num_classes=0
            )
        except RuntimeError as error:  # how timm reports a name that it does not know
            raise ValueError(f"name must be a model of timm, got {name!r}: {error}") from None
        if weights is not None:
            from coophash.backbone import fill_backbone

            fill_backbone(self.model, Path(weights), name)
        self.model.eval().to(device)
        settings = timm.data.resolve_model_data_config(self.model)
        channels, height, _ = settings["input_size"]
        self.size, self.channels = size or int(height), int(channels)
        as_column = (channels, 1, 1)
        self.mean = np.array(settings["mean"], np.float32).reshape(as_column)
        self.deviation = np.array(settings["std"], np.float32).reshape(as_column)

    @property
    def width(self) -> int:
        """Of its features."""
        return int(getattr(self.model, "head_hidden_size", self.model.num_features))

    def __call__(self, files: Sequence[File]) -> NDArray[np.float32]:
        import torch

        shape, parts = (self.size, self.size), []
        _check_listed(files)
        for start in range(0, len(files), self.batch_size):
            pixels = [
                read_pixels(file, shape, self.channels)
                for file in files[start : start + self.batch_size]
            ]
            batch = (np.array(pixels, np.float32) / 255 - self.mean) / self.deviation
            with torch.no_grad():
                found = self.model(torch.from_numpy(batch).to(self.device))
            parts.append(found.float().cpu().numpy())
        if not parts:
            return np.empty((0, self.width), np.float32)
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """What `make_source` makes it from; the weights stay where they are."""
        return {
            "kind": "timm", "name": self.name, "weights": self.weights,
            "pretrained": self.pretrained, "size": self.size,
        }  # fmt: skip


_KINDS: dict[str, Callable[..., Source]] = {
    "pixels": Pixels, "timm": TimmFeatures, "words": BagOfWords
}  # fmt: skip


def make_source(description: Mapping[str, Any] | None) -> Source | None:
    """The source that `describe` stands for; None for None.

    Raises:
        ValueError: it is no such description.
    """
    if description is None:
        return None
    kind = description.get("kind") if isinstance(description, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"a source must be of a kind in {sorted(_KINDS)}, got {description!r}")
    return _KINDS[kind](**{name: value for name, value in description.items() if name != "kind"})


def describe_source(source: Source | None) -> dict[str, Any] | None:
    """What is saved of a source: None for a callable that cannot be described."""
    describe = getattr(source, "describe", None)
    return None if describe is None else dict(describe())


def _check_listed(files: object) -> None:
    if isinstance(files, (str, bytes, os.PathLike)):
        raise TypeError(f"files must be a list of image files, got one: give [{files!r}]")


def read_pixels(
    file: File | NDArray[np.uint8], size: tuple[int, int], channels: int
) -> NDArray[np.uint8]:
    """One image, a file or pixels (C, H, W), as (channels, *size) uint8.

    Raises:
        TypeError, ValueError: it cannot be read as an image.
    """
    pillow = require("PIL.Image", "train", "reading images")
    if isinstance(file, np.ndarray):
        if file.dtype != np.uint8 or file.ndim != 3 or file.shape[0] not in (1, 3):
            raise TypeError(
                f"pixels must be uint8 (C, H, W) of 1 or 3 channels, got {file.dtype} {file.shape}"
            )
        shown = file[0] if len(file) == 1 else file.transpose(1, 2, 0)
        return to_array(pillow.fromarray(np.ascontiguousarray(shown)), size, channels)
    path = Path(file)
    try:
        with pillow.open(path) as image:
            return to_array(image, size, channels)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything
        raise ValueError(f"cannot read {str(path)!r} as an image: {error}") from None
