"""Parity of the class-conditional energy head, forward and backward: see parity.py."""

from __future__ import annotations

import math

import parity
import torch

from coophash.kernels import energy_head, energy_head_and_grad

torch.manual_seed(0)


def head(batch, width, classes, dtype=torch.float32):
    features, weight = torch.randn(batch, width), torch.randn(classes, width) / math.sqrt(width)
    # The classes 0 and classes - 1 are there, a class between them may be missing.
    labels = torch.randint(classes, (batch,)).clamp_(0, classes - 1)
    return features.to(dtype), weight.to(dtype), torch.randn(classes).to(dtype), labels


def first_order(features, weight, bias, labels, slope):
    """Energies and the gradients of a weighted sum of them, of both public functions."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in (features, weight, bias)]
    energies = energy_head(*leaves, labels, slope=slope)
    given = [t for t in leaves if t is not None]
    upstream = torch.linspace(-1, 2, len(labels), dtype=energies.dtype)
    gradients = [g.contiguous() for g in torch.autograd.grad(energies, given, upstream)]
    with torch.no_grad():
        both = energy_head_and_grad(features, weight, bias, labels, slope=slope)
    return energies.detach(), *gradients, *both


def second_order(features, weight, bias, labels, slope):
    """Gradients of a gradient penalty: every op's own backward."""
    leaves = [t.detach().requires_grad_() for t in (features, weight, bias)]
    energies, grad = energy_head_and_grad(*leaves, labels, slope=slope)
    by_hand, by_weight = torch.autograd.grad(
        energies.square().mean(), leaves[:2], create_graph=True
    )
    penalty = (by_hand.square().sum(1) * energies).mean() + by_weight.square().mean()
    penalty = penalty + (grad * grad.flip(0)).sum()
    return torch.autograd.grad(penalty, leaves)


for batch, width, classes in ((1, 1, 1), (3, 7, 2), (33, 100, 5), (70, 256, 10), (65, 1000, 3)):
    for dtype in (torch.float32, torch.bfloat16):
        for slope in (None, 0.1):
            arguments = head(batch, width, classes, dtype)
            parity.compare(
                f"{batch} {width} {classes} {dtype} {slope}",
                lambda a=arguments, s=slope: first_order(*a, s),
                allowed=2e-5,  # sums of `batch` and of `width` terms in another order
            )

for slope in (None, 0.1, 0.0):
    arguments = head(12, 40, 4)
    parity.compare(
        f"second order {slope}", lambda a=arguments, s=slope: second_order(*a, s), allowed=2e-5
    )

features, weight, bias, labels = head(24, 36, 6)
apart = torch.stack([labels, labels + 1], 1)[:, 0]
layouts = {
    "transposed": (features.t().contiguous().t(), weight.t().contiguous().t(), bias, labels),
    "sliced": (features[::2, 1::3], weight[:, ::3], bias, labels[::2]),
    "rows apart": (features[:, :20], weight[:, 16:], bias, apart),
    "expanded": (features[:1].expand(24, -1), weight, bias[:1].expand(6), labels),
    "int32 labels": (features, weight, bias, labels.int()),
    "no bias": (features, weight, None, labels),
    "empty": (features[:0], weight, bias, labels[:0]),
    "no features": (features[:, :0], weight[:, :0], bias, labels),
    "mixed dtypes": (features.bfloat16(), weight, bias, labels),
    "mixed the other way": (features, weight.bfloat16(), bias, labels),
    "float16": (features.half(), weight.half(), bias, labels),
    "float64": (features.double(), weight.double(), bias.double(), labels),
}
for name, arguments in layouts.items():
    for slope in (None, 0.2):
        parity.compare(
            f"{name} {slope}",
            lambda a=arguments, s=slope: first_order(*a, s),
            allowed=1e-2 if name == "float16" else 2e-5,
        )

# More samples than one stage of the weight gradient takes; a class without any of them.
features, weight, bias, labels = head(1100, 5, 4)
arguments = (features, weight, bias, labels.clamp(max=2))
parity.compare("two stages", lambda: first_order(*arguments, 0.1), allowed=1e-4)

# Zeros of both signs, infinities and NaN in front of the activation.
features, weight, bias, labels = head(6, 4, 3)
features[0, 0], features[0, 1], features[1, 2] = 0.0, -0.0, math.nan
features[2, 0], features[3, 1] = math.inf, -math.inf
special = (features, weight, bias, labels)
parity.compare("special values", lambda: first_order(*special, 0.1), allowed=1e-5)

# A label out of range raises on the CPU; on a device it must show, and nowhere else.
labels = labels.clone()
labels[2], labels[4] = 3, -1
features = torch.randn(6, 4)
_, (energies, grad) = parity.by_both(
    lambda: (
        None
        if parity.os.environ["COOPHASH_BACKEND"] == "reference"
        else energy_head_and_grad(features, weight, bias, labels)
    )
)
wrong = torch.zeros(6, dtype=torch.bool)
wrong[[2, 4]] = True
assert torch.equal(energies.isnan(), wrong) and torch.equal(grad.isnan().all(1), wrong)
parity.record("labels out of range", (grad[~wrong] - weight[labels[~wrong]]).abs().max().item(), 0)

parity.report()
