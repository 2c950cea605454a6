"""Spectral normalisation: weights divided by their largest singular value (Miyato et al., 2018).

A layer of leaky ReLUs over such weights stretches no distance, so neighbouring images cannot have
energies far apart, however long the energy is trained. The largest singular value is tracked by
power iteration, as in torch.nn.utils.parametrizations.spectral_norm, but not at each forward pass:
its state moves once in an update, by `advance`, and stands still between. So every pass of an
update, each step of a Langevin chain among them, sees one network, a captured CUDA graph can be
replayed, and a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize


def normalize(*modules: nn.Module) -> None:
    """Normalise the weights of all convolutions and dense layers of some modules, in place.

    `weight` becomes `parametrizations.weight.original` in the state dict, with the two vectors of
    the power iteration beside it. Normalising once more changes nothing.
    """
    for module in modules:
        for layer in list(module.modules()):
            plain = isinstance(layer, (nn.Conv2d, nn.Linear))
            if plain and not parametrize.is_parametrized(layer, "weight"):
                parametrizations.spectral_norm(layer)
        freeze(module)


def freeze(module: nn.Module) -> None:
    """Keep the power iterations of a module where they are, in training mode too."""
    for part in _normalizations(module):
        part.eval()


def settle(module: nn.Module) -> None:
    """`advance` to where the estimate is good for weights that were just put in, such as means."""
    advance(module, 30)


def stands_still(layer: nn.Module, kind: type) -> bool:
    """Whether a layer is of a kind but for its normalised weight, the same at every look."""
    if not parametrize.is_parametrized(layer) or set(layer.parametrizations) != {"weight"}:  # type: ignore[arg-type]
        return False
    steps = list(layer.parametrizations["weight"])  # type: ignore[index,arg-type]
    frozen = [isinstance(s, parametrizations._SpectralNorm) and not s.training for s in steps]
    return all(frozen) and parametrize.type_before_parametrizations(layer) is kind


@torch.no_grad()
def advance(module: nn.Module, iterations: int = 1) -> None:
    """Move the power iterations of a module by some steps. Does nothing where there are none."""
    for layer in module.modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        for part in _normalizations(layer):
            part.train()
            for _ in range(iterations):
                part(layer.parametrizations["weight"].original)  # type: ignore[index,union-attr]
            part.eval()


def _normalizations(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        if isinstance(part, parametrizations._SpectralNorm):
            yield part
