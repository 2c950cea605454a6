"""Parity of energies over several classes with their gradient: see parity.py."""

from __future__ import annotations

import math

import parity
import torch

from coophash.kernels import energy_head_and_grad

torch.manual_seed(0)


def head(batch, width, classes, dtype=torch.float32):
    features, weight = torch.randn(batch, width), torch.randn(classes, width) / math.sqrt(width)
    return features.to(dtype), weight.to(dtype), torch.randn(classes).to(dtype)


def multi_hot(batch, classes):
    labels = torch.rand(batch, classes) < 0.3
    labels[torch.arange(batch), torch.arange(batch) % classes] = True
    return labels


def compare(case, arguments, labels, allowed=2e-5, **options):
    parity.compare(
        case, lambda: energy_head_and_grad(*arguments, labels, **options), allowed=allowed
    )


for batch, width, classes in ((1, 1, 1), (7, 33, 3), (40, 256, 10), (33, 100, 21), (5, 64, 128)):
    for dtype in (torch.float32, torch.bfloat16):
        arguments = head(batch, width, classes, dtype)
        name = f"{batch} {width} {classes} {dtype}"
        for slope in (None, 0.1):
            compare(f"{name} {slope} marginal", arguments, None, slope=slope, temperature=0.7)
            compare(f"{name} {slope} labels", arguments, multi_hot(batch, classes), slope=slope)

features, weight, bias = head(20, 36, 6)
labels = multi_hot(20, 6)
layouts = {
    "transposed": (features.t().contiguous().t(), weight.t().contiguous().t(), bias),
    "sliced": (features[:, 1::3], weight[:, ::3], bias),
    "expanded": (features[:1].expand(20, -1), weight, bias[:1].expand(6)),
    "no bias": (features, weight, None),
    "no features": (features[:, :0], weight[:, :0], bias),
    "mixed dtypes": (features.bfloat16(), weight, bias),
    "float16": (features.half(), weight.half(), bias),
    "float64": (features.double(), weight.double(), bias.double()),
    "many classes": head(20, 12, 129),
    "wide": head(20, 4097, 2),
}
for name, arguments in layouts.items():
    allowed = 1e-2 if name == "float16" else 2e-5
    hot = labels if len(arguments[1]) == 6 else multi_hot(20, len(arguments[1]))
    compare(f"{name} marginal", arguments, None, allowed, slope=0.2)
    compare(f"{name} labels", arguments, hot.t().contiguous().t(), allowed, slope=0.2)
compare("empty", (features[:0], weight, bias), None)
compare("weights for labels", (features, weight, bias), labels * torch.rand(20, 6))
compare("integer labels", (features, weight, bias), labels.long())
compare("cold", (features, weight, bias), None, temperature=1e-3)

# Energies beyond what exp can hold, infinite ones, NaN.
compare("large", (100 * features, weight, bias), None, allowed=2e-3)
special = features.clone()
special[0, 0], special[1, 1] = math.nan, math.inf
compare("special values", (special, weight.abs(), bias), None)
compare("an infinite bias", (features, weight, torch.tensor([math.inf, 0, 1, 2, 3, 4])), None)

parity.report()
