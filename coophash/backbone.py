"""The base of a descriptor: `ConvBase` for small images, or any backbone of timm for larger ones.

With a backbone the images are larger than a generator can be trained to make within reason, so that
it makes them at a lower resolution, `CoopHashConfig.generator_shape`, and they are enlarged
bilinearly in front of the backbone. Our reading:

    chain        moves x~ at the generator's resolution; the gradient comes back through enlarging
    energy, z~   of real images that were reduced to that resolution and enlarged again, so that the
                 energy tells what is in an image and not how sharp it is
    hash head, category head
                 of real images as they are, and of synthetic ones
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coophash.errors import require
from coophash.networks import ConvBase, Shape


def make_base(config: Any) -> nn.Module:
    """The base that a `CoopHashConfig` or `SupervisedHashConfig` asks for.

    Raises:
        ImportError: a backbone without timm.
        FileNotFoundError, ValueError: weights that are not there or do not fit, an unknown name, or
            a backbone that does not take such images.
    """
    c = config
    if c.backbone is None:
        return ConvBase(c.image_shape, c.base_channels, c.features)
    return BackboneBase(c.backbone, c.image_shape, c.features, c.backbone_weights)


class BackboneBase(nn.Module):
    """f0(x; theta_0): a timm model without its classifier, then one dense layer.

    The backbone is trained in evaluation mode: its batch norms keep the statistics that it came
    with and learn gain and bias alone, and nothing is dropped. So the energy of an image does not
    depend on its batch, nor does it change between two looks.

    Args:
        name: of the model, as timm knows it.
        image_shape: (C, H, W) that smaller images are enlarged to. One channel is repeated.
        features: width of the output.
        weights: `.safetensors` or `.pth` file of its state dict; None leaves them random.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `make_base`.
    """

    slope = 0.1  # leaky ReLU, as in ConvBase
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, name: str, image_shape: Shape, features: int, weights: str | None = None
    ) -> None:
        super().__init__()
        timm = require("timm", "timm", "a backbone")
        try:
            self.backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
        except RuntimeError as error:  # how timm reports a name that it does not know
            raise ValueError(f"backbone must be a model of timm, got {name!r}: {error}") from None
        if weights is not None:
            fill_backbone(self.backbone, Path(weights), name)
        settings = timm.data.resolve_model_data_config(self.backbone)
        # Images are in [-1, 1], the backbone's normalisation is of [0, 1].
        for buffer, values, offset in (
            ("mean", settings["mean"], 1),
            ("deviation", settings["std"], 0),
        ):
            column = 2 * torch.tensor(values)[:, None, None] - offset
            self.register_buffer(buffer, column, persistent=False)
        self.size = tuple(image_shape[1:])
        self.backbone.eval()
        try:
            with torch.no_grad():
                found = self.backbone(self._prepare(torch.zeros(1, *image_shape)))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"{name} does not take images of {self.size[0]} x {self.size[1]} ({error}): resize "
                f"them to {' x '.join(map(str, settings['input_size'][1:]))}"
            ) from None
        if found.dim() != 2:
            raise ValueError(
                f"{name} gives {tuple(found.shape)} for one image, expected pooled features "
                "(1, D): take a model that pools"
            )
        self.dense = nn.Linear(found.shape[1], features)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) in [-1, 1], of any size -> (B, features)."""
        return F.leaky_relu(self.dense(self.backbone(self._prepare(x))), self.slope)

    def train(self, mode: bool = True) -> BackboneBase:
        """As of every module, but for the backbone, which stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def _prepare(self, x: Tensor) -> Tensor:
        x = enlarge(x, self.size)
        return (x.expand(-1, len(self.mean), -1, -1) - self.mean) / self.deviation


def enlarge(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; the images themselves where that is their size."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def reduce(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """The same towards a smaller size: each pixel is a mean, with triangular weights."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def fill_backbone(model: Any, path: Path, name: str) -> None:
    """Load a state dict, whose classifier is left out, into a timm model without one.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is none of this model's weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no backbone_weights at {str(path)!r}")
    if path.suffix == ".safetensors":
        from coophash.checkpoints import read_tensors

        state: Any = read_tensors(path)[0]
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of a damaged file torch.load raises anything
            raise ValueError(
                f"{path} is no file of weights alone ({type(error).__name__}): give the state dict "
                "that torch.save wrote, or a .safetensors file"
            ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no state dict but {type(state).__name__}")
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {key: v for key, v in state.items() if not key.startswith(tuple(f"{h}." for h in heads))}
    try:
        model.load_state_dict(kept)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {name}: {error}") from None
