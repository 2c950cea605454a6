"""CoopHash's multipurpose descriptor (Sec. 3.3): a base f0 and the heads on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coophash import _descriptor_gradient, losses, spectral
from coophash._chain_energy import StepArguments, by_autograd
from coophash.backbone import make_base
from coophash.coop_config import CoopHashConfig
from coophash.kernels.energy import energy_head


def draw_latent(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """z~ of q(z | x) = N(mean, exp(log_std)^2), reparameterised: three of (B, d) -> (B, d).

    noise is standard normal. Above `losses.LOG_STD_LIMIT` the spread grows no further.
    """
    return mean + log_std.clamp(max=losses.LOG_STD_LIMIT).exp() * noise


class Descriptor(nn.Module):
    """One shared base f0 and four light heads: energy, inference, category and hash (Sec. 3.3)."""

    def __init__(self, config: CoopHashConfig) -> None:
        super().__init__()
        self.base: Any = make_base(config)
        self.energy_head = nn.Linear(config.features, config.classes)  # one output per class
        self.inference_head = nn.Linear(config.features, 2 * config.latent_dim)
        self.category_head = nn.Linear(config.features, config.classes)
        self.hash_head = nn.Linear(config.features, config.bits)

    def normalize(self, parts: str) -> None:
        """Spectral normalisation of the base, the energy head or both: `coophash.spectral`."""
        modules: dict[str, list[nn.Module]] = {
            "base": [self.base], "energy_head": [self.energy_head]
        }  # fmt: skip
        spectral.normalize(*modules.get(parts, [self.base, self.energy_head]))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """f_E(x, c), Eq. 3: (B, C, H, W), (B,) or multi-hot (B, classes) -> (B,)."""
        return self.energy(self.base(images), labels)

    def energy_and_grad(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and df_E/dx, without a graph and without gradients of the weights.

        By hand (`_descriptor_gradient.py`) while the layers are as made here, else by autograd.
        """
        if _descriptor_gradient.applies(self.base, self.energy_head, images):
            with torch.no_grad():
                return _descriptor_gradient.energy_and_grad(
                    self.base, self.energy_head, images, labels
                )
        return by_autograd(lambda x: self(x, labels), images)

    def energy_and_update(self, images: Tensor, labels: Tensor, step: StepArguments) -> Any:
        """Energies (B,) and the images after one Langevin step, fused; or NotImplemented."""
        if not (
            _descriptor_gradient.fuses(images)
            and _descriptor_gradient.applies(self.base, self.energy_head, images)
        ):
            return NotImplemented
        with torch.no_grad():
            return _descriptor_gradient.energy_and_update(
                self.base, self.energy_head, images, labels, step
            )

    def energy(self, features: Tensor, labels: Tensor) -> Tensor:
        """h_E(c, f0(x)): (B, features), labels -> (B,); lower is likelier (Eq. 3)."""
        head = self.energy_head
        energies: Tensor = energy_head(features, head.weight, head.bias, labels)
        return energies

    def plain_energy(self, images: Tensor, labels: Tensor) -> Tensor:
        """f_E(x, c) as `forward` has it, in operations that can be differentiated twice."""
        of_classes = F.linear(self.base(images), self.energy_head.weight, self.energy_head.bias)
        hot = labels if labels.dim() == 2 else F.one_hot(labels, of_classes.shape[1])
        return (of_classes * hot).sum(1) / hot.sum(1)

    def train(self, mode: bool = True) -> Descriptor:
        """As of every module; power iterations stand still: `coophash.spectral`."""
        super().train(mode)
        spectral.freeze(self)
        return self

    def infer(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | x): (B, features) -> two of (B, d)."""
        mean, log_std = self.inference_head(features).chunk(2, dim=1)
        return mean, log_std
