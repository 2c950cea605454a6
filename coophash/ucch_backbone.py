"""Raw images in UCCH: a backbone of timm that is trained along with the rest.

    source = TimmFeatures("vgg11", weights="vgg11.safetensors")
    model = UCCH(64, source.width, 1386, warmup_epochs=5)
    tune_backbone(model, source)
    fit(model, read_pairs("FLICKR-25K.mat"))                    # pairs with pixels

As the authors' code has it: the backbone is frozen, in evaluation mode, in the warm-up epochs;
training sees random crops and flips, encoding the middle of an image. Without `tune_backbone` a
backbone is frozen throughout and its features are made once, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coophash.data.pairs import PairSet
from coophash.errors import require
from coophash.features import Photos, TimmFeatures

if TYPE_CHECKING:
    from coophash.ucch import UCCH, PairEncoder

TRAINED = "timm, trained"  # the kind of source that `config.json` names
AREAS = (0.08, 1.0)  # of a random crop, as a share of the image
RATIOS = (3 / 4, 4 / 3)  # its width over its height


class PixelEncoder(nn.Module):
    """f^x of raw images: backbone, then the layers of a `PairEncoder`.

    Args:
        backbone: (B, C, size, size) -> (B, D).
        head: the `PairEncoder` of D features.
        size: pixels a side that the backbone takes.
        mean, deviation: of each channel, of pixels from 0 to 1.

    Attributes:
        frozen: whether the backbone stays as it is, in evaluation mode.
    """

    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: PairEncoder,
        size: int,
        mean: Any,
        deviation: Any,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.size, self.frozen = backbone, head, size, False
        for name, values in (("pixel_mean", mean), ("pixel_deviation", deviation)):
            channels = torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, channels)

    @property
    def mean(self) -> Tensor:
        """Says where the encoder is and of what type, as that of a `PairEncoder`."""
        return self.pixel_mean

    def freeze(self, frozen: bool) -> None:
        """Leave the backbone as it is, or train it."""
        if frozen != self.frozen:
            self.frozen = frozen
            self.backbone.requires_grad_(not frozen)
            self.train(self.training)

    def train(self, mode: bool = True) -> PixelEncoder:
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, C, H, W) uint8 -> (B, bits), rows of length 1."""
        x = pixels.to(self.pixel_mean) / 255
        x = crop_at_random(x, self.size) if self.training else middle(x, self.size)
        found: Tensor = self.head(self.backbone((x - self.pixel_mean) / self.pixel_deviation))
        return found


def middle(images: Tensor, size: int) -> Tensor:
    """The middle of images, (B, C, size, size): as it is where they are large enough."""
    short = min(images.shape[-2:])
    if short < size:
        scale = size / short
        shape = [max(size, round(n * scale)) for n in images.shape[-2:]]
        images = F.interpolate(images, shape, mode="bilinear", antialias=True)
    top, left = ((n - size) // 2 for n in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def crop_at_random(images: Tensor, size: int) -> Tensor:
    """A random part of each image, of random area and ratio, and its mirror image in half of them.

    Draws from torch's generator of the images' device. (B, C, H, W) -> (B, C, size, size).
    """
    count, device, (height, width) = len(images), images.device, images.shape[-2:]
    draw = torch.rand(5, count, device=device)
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * draw[0]) * height * width
    low, high = (math.log(ratio) for ratio in RATIOS)
    ratio = (low + (high - low) * draw[1]).exp()
    # Shares of the image's sides, centre from -1 to 1, as affine_grid counts.
    across = ((area * ratio).sqrt() / width).clamp(max=1)
    down = ((area / ratio).sqrt() / height).clamp(max=1)
    zero = torch.zeros_like(across)
    mirror = 1 - 2 * (draw[4] < 0.5).to(across)
    x, y = (1 - across) * (2 * draw[2] - 1), (1 - down) * (2 * draw[3] - 1)
    rows = (torch.stack([across * mirror, zero, x], 1), torch.stack([zero, down, y], 1))
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, size, size], align_corners=False)
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)


def tune_backbone(model: UCCH, source: TimmFeatures) -> UCCH:
    """Put a backbone in front of f^x that is trained with it; the model then takes raw images.

    Args:
        model: of features as wide as the source's, `source.width`, and without `standardize` or
            noise and holes on the image's features, of which there are none any more.
        source: the backbone with its weights. It is taken over, not copied.

    Returns:
        The model.

    Raises:
        TypeError, ValueError: the model does not fit, or has a backbone already.
    """
    if not isinstance(source, TimmFeatures):
        raise TypeError(f"source must be a TimmFeatures, got {type(source).__name__}")
    if isinstance(model.image_encoder, PixelEncoder):
        raise ValueError("the model has a backbone already")
    c = model.config
    if c.image_dim != source.width:
        raise ValueError(
            f"image_dim must be the backbone's width, {source.width}, got {c.image_dim}"
        )
    for name, off in (
        ("standardize", False), ("feature_power", 1), ("image_noise", 0), ("image_dropout", 0),
    ):  # fmt: skip
        if getattr(c, name) != off:
            raise ValueError(
                f"{name} must be {off} with a backbone that is trained, got {getattr(c, name)!r}"
            )
    encoder = PixelEncoder(
        source.model, model.image_encoder, source.size, source.mean, source.deviation
    )
    description = {
        "kind": TRAINED, "name": source.name, "size": source.size, "channels": source.channels,
    }  # fmt: skip
    return _attach(model, encoder, description)


def rebuild_backbone(model: UCCH, description: Mapping[str, Any]) -> UCCH:
    """The same for a model that is loaded: all its weights come after."""
    timm = require("timm", "timm", "a backbone")
    backbone = timm.create_model(description["name"], pretrained=False, num_classes=0)
    unknown = [0.0] * int(description["channels"])
    assert not isinstance(model.image_encoder, PixelEncoder)
    encoder = PixelEncoder(
        backbone, model.image_encoder, int(description["size"]), unknown, unknown
    )
    return _attach(model, encoder, description)


def _attach(model: UCCH, encoder: PixelEncoder, description: Mapping[str, Any]) -> UCCH:
    model.image_encoder = encoder.to(model.device).train(model.training)
    model.image_source, model.trained_backbone = None, dict(description)
    return model


def photos_for(size: int, channels: int = 3) -> Photos:
    """What reads files for a backbone of this size: a little larger, which leaves room to crop."""
    return Photos(round(size * 8 / 7), channels)


def pixels_of(images: Any, encoder: PixelEncoder) -> NDArray[np.uint8]:
    """Raw images of a `PairSet`, of an array or of files, uint8 (N, C, H, W).

    Raises:
        TypeError, ValueError: features, or images that cannot be read.
    """
    channels = len(encoder.pixel_mean)
    if isinstance(images, (list, tuple)):
        return photos_for(encoder.size, channels)(images)
    values = images.images if isinstance(images, PairSet) else images
    if (
        not isinstance(values, np.ndarray) or values.dtype != np.uint8 or values.ndim != 4
        or values.shape[1] != channels
    ):  # fmt: skip
        told = f"{values.dtype} {tuple(values.shape)}" if hasattr(values, "dtype") else repr(values)
        raise TypeError(
            f"images must be pixels, uint8 (N, {channels}, H, W), or files: the model has a "
            f"backbone of its own; got {told}"
        )
    return values
