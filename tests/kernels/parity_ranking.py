"""Parity of ranking_loss and its gradient: see parity.py."""

from __future__ import annotations

import parity
import torch

from coophash.kernels import ranking_loss


def compare(case, similarity, allowed=3e-6, **options):
    """The losses and their gradients; each loss has another upstream."""
    options = {"margin": 0.2, "shift": 0.3} | options

    def both():
        leaf = similarity.detach().requires_grad_()
        losses = ranking_loss(leaf, reduction="none", **options)
        upstream = torch.linspace(-1, 2, losses.numel()).view(losses.shape)
        (slope,) = torch.autograd.grad(losses, leaf, upstream)
        assert slope.is_contiguous()
        return losses.detach(), slope

    parity.compare(case, both, allowed)


torch.manual_seed(0)
for batch in (1, 2, 15, 16, 33, 64, 130, 300):
    x, y = (torch.nn.functional.normalize(torch.randn(batch, 8), dim=1) for _ in range(2))
    m = x @ y.T
    for dtype in (torch.float32, torch.bfloat16):
        name = f"{batch} {str(dtype).removeprefix('torch.')}"
        compare(name, m.to(dtype))
        compare(f"{name} sharp", m.to(dtype), shift=1.0, kappa=0.05, allowed=2e-5)
compare("no shift", m, shift=0.0)
compare("no margin", m, margin=0.0)
compare("transposed", m.T)
compare("sliced", m[::2, ::2])
compare("expanded", m[:1].expand(300, 300))
compare("float16", m.half(), allowed=3e-3)
compare("float64", m.double(), allowed=0.0)
compare("large", 1e4 * m[:40, :40], allowed=5e-3)
m = m[:40, :40].clone()
m[3, 5] = float("nan")
compare("nan", m)


def mean_of_two():
    leaf = x.clone().requires_grad_()
    loss = ranking_loss(leaf @ y.T, margin=0.2, shift=0.1)
    loss.backward()
    return loss.detach(), leaf.grad


parity.compare("mean", mean_of_two, 1e-6)

parity.report()
