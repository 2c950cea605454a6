"""`ImageHasher`: what every model of images here can do once it is trained."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from coophash._options import check_integer
from coophash.codes import width_of
from coophash.coop_config import check_range
from coophash.data import ImageSet
from coophash.data.checks import check_images
from coophash.kernels.signs import raise_for_nan, sign_pack


class HasherConfig(Protocol):
    """The settings that every model has; each has a frozen dataclass of its own."""

    @property
    def bits(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...


_GLOBAL_GENERATOR = threading.Lock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators of the CPU and of the device, seeded within the block.

    For layers that draw from no other: initial weights, dropout. Afterwards the generators are as
    they were. One thread at a time, so that draws are a function of the seed whatever runs beside.
    """
    devices = [device] if device.type == "cuda" else []
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices):
        # torch.manual_seed would seed every GPU too, which the fork does not undo.
        torch.default_generator.manual_seed(seed)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def seeded_weights(seed: object) -> Iterator[None]:
    """Initial weights drawn within the block are a function of the seed.

    Raises:
        TypeError, ValueError: the seed is no integer of at least 0.
    """
    with seeded(check_integer("seed", seed, 0), torch.get_default_device()):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode: what it gives for an image does not depend on the batch.

    Afterwards each module is in the mode it was in. A model in evaluation mode is not touched, so
    that several threads may use it.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class ImageHasher(nn.Module):
    """A network from images to codes: encoding and saving. `CoopHash` and `SupervisedHash` are two.

    Attributes:
        config: the settings, a dataclass.
        class_names: names in the order of the labels; None when not known.
    """

    config: Any  # a HasherConfig; each model narrows it
    class_names: tuple[str, ...] | None

    @property
    def method(self) -> str:
        """What the model is called in progress bars and tables."""
        raise NotImplementedError

    @property
    def learning_rate(self) -> float:
        """What `fit` trains it with, unless told otherwise: of Adam, for images of 8 to 64 pixels.

        Chosen on validation, 500 digits: a comparison at one rate for all flatters some method.
        With a backbone, which may know a lot, 1e-3.
        """
        return self._learning_rate if self.config.backbone is None else 1e-3

    _learning_rate = 3e-3

    def base_features(self, images: Tensor) -> Tensor:
        """Base network: (B, C, H, W) -> (B, features)."""
        raise NotImplementedError

    def hash_outputs(self, features: Tensor) -> Tensor:
        """Hash head: (B, features) -> (B, bits) real; the code is their signs."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, images: Any, batch_size: int = 512) -> Any:
        """Packed codes: base network and hash head alone, then the signs.

        Args:
            images: an `ImageSet`; or (N, C, H, W) NumPy or torch, float in [-1, 1] or uint8.
            batch_size: images at a time.

        Returns:
            uint8, (N, ceil(bits / 8)); torch for torch input, else NumPy.

        Raises:
            TypeError, ValueError: images of another shape, dtype or range, or with NaN.
        """
        nan_flag = torch.zeros(1, dtype=torch.int32, device=next(self.parameters()).device)
        with evaluating(self):
            parts = [
                sign_pack(self.hash_outputs(f), nan_flag=nan_flag)
                for f in self._features(images, batch_size)
            ]
        raise_for_nan(nan_flag)  # once: a look at each batch would wait for the device
        none = torch.empty((0, width_of(self.config.bits)), dtype=torch.uint8)
        codes = torch.cat(parts) if parts else none
        return codes if isinstance(images, Tensor) else codes.cpu().numpy()

    @torch.no_grad()
    def outputs(self, images: Any, batch_size: int = 512) -> Tensor:
        """Real-valued hash outputs, before the sign: (N, bits) float32. Arguments as `encode`."""
        with evaluating(self):
            heads = [self.hash_outputs(f) for f in self._features(images, batch_size)]
        return torch.cat(heads) if heads else torch.empty(0, self.config.bits)

    def _features(self, images: Any, batch_size: int) -> Iterator[Tensor]:
        device = next(self.parameters()).device
        check_range("batch_size", batch_size, 1, None)
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            part = images.float(rows) if isinstance(images, ImageSet) else images[rows]
            part = check_images(part, self.config.image_shape, "images")
            yield self.base_features(torch.as_tensor(part, device=device))

    def _check_labels(self, name: str, labels: Any, count: int | None = None) -> Tensor:
        """int64 (B,), or float32 (B, classes) of multi-hot labels."""
        if isinstance(labels, np.ndarray):  # of any byte order, direction and width
            wide = np.int64 if labels.dtype.kind in "iu" else labels.dtype.newbyteorder("=")
            labels = np.ascontiguousarray(labels, dtype=wide)
        checked: Tensor = torch.as_tensor(labels)
        classes = self.config.classes
        if checked.dtype in (torch.uint16, torch.uint32, torch.uint64):
            checked = checked.to(torch.int64)  # torch has no minimum of these
        if checked.ndim == 2:
            if checked.shape[1] != classes or not ((checked == 0) | (checked == 1)).all():
                raise ValueError(
                    f"{name} must be classes (B,) or multi-hot (B, {classes}) of 0 and 1, "
                    f"got {checked.dtype} {tuple(checked.shape)}"
                )
        elif checked.ndim != 1 or checked.is_floating_point() or checked.dtype == torch.bool:
            raise ValueError(
                f"{name} must be integer classes (B,) or multi-hot (B, {classes}), got "
                f"{checked.dtype} {tuple(checked.shape)}"
            )
        if count is not None and len(checked) != count:
            expected = (count,) if checked.ndim == 1 else (count, classes)
            raise ValueError(f"{name} must be {expected}, got {tuple(checked.shape)}")
        if checked.ndim == 2:
            return checked.to(torch.float32)
        if len(checked) and not 0 <= int(checked.min()) <= int(checked.max()) < self.config.classes:
            raise ValueError(
                f"{name} must be from 0 to {self.config.classes - 1}, "
                f"got {int(checked.min())} to {int(checked.max())}"
            )
        return checked.to(torch.int64)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into the folder, made if it is missing."""
        from coophash.checkpoints import save_model

        save_model(self, folder)


def check_options(options: dict[str, Any], config: type, model: str) -> None:
    """Raise TypeError for an option that the model's config does not have."""
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"unknown option {unknown[0]!r}; {model} has {sorted(known)}")


def defaults_of(config: Any) -> dict[str, Any]:
    """The settings of a config that have a default, with it."""
    return {
        field.name: field.default
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING
    }


def settings_of(config: Any) -> dict[str, Any]:
    """The settings of a config as a record: those that came later only where they are in use.

    A field with `metadata={"later": True}` was added after records were made; without it, while it
    has its default, a run is what it was and keeps its hash.
    """
    later = {f.name for f in dataclasses.fields(config) if f.metadata.get("later")}
    defaults = defaults_of(config)
    return {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in later or value != defaults[name]
    }


def check_class_names(
    names: tuple[str, ...] | None, classes: int
) -> tuple[str, ...] | None:  # fmt: skip
    """The names as a tuple of str; ValueError unless there is one for each class."""
    if names is not None and len(names) != classes:
        raise ValueError(f"class_names must be {classes} names, got {len(names)}")
    return None if names is None else tuple(str(name) for name in names)
