"""The optimisers that each kind of model is trained with."""

from __future__ import annotations

from typing import TypeVar

import torch

from coophash.coop import CooperativeOptimizers, CoopHash
from coophash.hasher import ImageHasher
from coophash.supervised import SupervisedOptimizers

BETAS = (0.5, 0.999)  # of Adam, as in every released cooperative network


def make_optimizers(
    model: ImageHasher, rate: float, generator_rate: float
) -> CooperativeOptimizers | SupervisedOptimizers:
    """Adam for each network of the model, with the rates as `initial_lr` for a schedule."""
    if isinstance(model, CoopHash):
        return _cooperative(model, rate, generator_rate)
    optimizers = SupervisedOptimizers(torch.optim.Adam(model.parameters(), rate, betas=BETAS))
    return _note_rates(optimizers)


def _cooperative(model: CoopHash, rate: float, generator_rate: float) -> CooperativeOptimizers:
    """Adam for each network; the energy head has a rate of its own.

    Adam's step does not depend on the scale of a gradient, so a small weight of the energy loss
    does not slow a head that sees no other loss: at the full rate energies were seen to run off.
    """
    head = list(model.descriptor.energy_head.parameters())
    rest = [p for n, p in model.descriptor.named_parameters() if not n.startswith("energy_head.")]
    energy_rate = rate * model.config.energy_rate
    groups = [{"params": rest, "lr": rate}, {"params": head, "lr": energy_rate}]
    optimizers = CooperativeOptimizers(
        torch.optim.Adam(groups, betas=BETAS),
        torch.optim.Adam(model.generator.parameters(), generator_rate, betas=BETAS),
    )
    return _note_rates(optimizers)


Optimizers = TypeVar("Optimizers", CooperativeOptimizers, SupervisedOptimizers)


def _note_rates(optimizers: Optimizers) -> Optimizers:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
