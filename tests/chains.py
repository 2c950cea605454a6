"""An energy and its chains, for the tests of chains as graphs: on a tape (test_chain_graph.py) and
on a GPU (test_chain_gpu.py). Loaded by path, as tests are no package.
"""

from __future__ import annotations

import torch

from coophash import langevin

OPTIONS = {"steps": 4, "step_size": 0.3, "clamp": (-2.0, 2.0)}


class Descriptor(torch.nn.Module):
    """A class-conditional energy, with what a graph may get wrong."""

    def __init__(self, norm=False, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4) if norm else torch.nn.Identity()
        self.drop = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(4, 3)
        self.temperature = 1.0
        self.calls = 0

    def forward(self, x, labels):
        features = self.norm(self.conv(x)).tanh().mean((2, 3))
        energies = self.head(self.drop(features)).gather(1, labels[:, None])[:, 0]
        return energies * 20 / self.temperature

    energy = forward


def inputs(seed=0, batch=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, 8, 8, generator=generator)
    return x, torch.randint(0, 3, (batch,), generator=generator)


def both(energy, x, labels=None, **options):
    """By the graph and by the loop."""
    options = OPTIONS | {"return_energies": True} | options
    return langevin(energy, x, labels, **options), langevin(
        energy, x, labels, graph=False, **options
    )


def assert_same(pair):
    for ours, loop in zip(*pair, strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-5, atol=1e-5)


def warm(energy, x, labels=None, **options):
    for _ in range(2):
        langevin(energy, x, labels, **OPTIONS | {"return_energies": True} | options)
