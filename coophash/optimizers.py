"""The optimisers that each kind of model is trained with."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

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
    groups = _groups(model, model.config, rate)
    optimizers = SupervisedOptimizers(torch.optim.Adam(groups, betas=BETAS))
    return _note_rates(optimizers)


def _cooperative(model: CoopHash, rate: float, generator_rate: float) -> CooperativeOptimizers:
    """Adam for each network; the energy head has a rate of its own.

    Adam's step does not depend on the scale of a gradient, so a small weight of the energy loss
    does not slow a head that sees no other loss: at the full rate energies were seen to run off.
    """
    head = list(model.descriptor.energy_head.parameters())
    energy_rate = rate * model.config.energy_rate
    groups = _groups(model.descriptor, model.config, rate, leave_out="energy_head.")
    groups.insert(1, {"params": head, "lr": energy_rate})
    optimizers = CooperativeOptimizers(
        torch.optim.Adam(groups, betas=BETAS),
        torch.optim.Adam(model.generator.parameters(), generator_rate, betas=BETAS),
    )
    return _note_rates(optimizers)


def _groups(
    module: nn.Module, config: Any, rate: float, leave_out: str | None = None
) -> list[dict[str, Any]]:
    """Parameters with their rates; those of a backbone, which may know a lot, have their own."""
    backbone: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if leave_out is None or not name.startswith(leave_out):
            (backbone if name.startswith("base.backbone.") else rest).append(parameter)
    groups: list[dict[str, Any]] = [{"params": rest, "lr": rate}]
    if backbone:
        groups.append({"params": backbone, "lr": rate * config.backbone_rate})
    return groups


Optimizers = TypeVar("Optimizers", CooperativeOptimizers, SupervisedOptimizers)


def _note_rates(optimizers: Optimizers) -> Optimizers:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
