"""Parity of bank_update: see parity.py."""

from __future__ import annotations

import os

import parity
import torch

from coophash import pack
from coophash.kernels import bank_update


def compare(case, values, rows, outputs, allowed=5e-7, codes=None, **options):
    def updated():
        v, c = values.clone(), pack(values) if codes is None else codes.clone()
        bank_update(v, c, rows, outputs, **{"momentum": 0.4} | options)
        return v, c

    parity.compare(case, updated, allowed)


torch.manual_seed(0)
rows = torch.tensor([3, 9, 0, 12, 5])
for bits in (1, 13, 64, 257, 1030):
    values = torch.nn.functional.normalize(torch.randn(13, bits), dim=1)
    outputs = torch.nn.functional.normalize(torch.randn(2, 5, bits), dim=2)
    for dtype in (torch.float32, torch.bfloat16):
        name = f"{bits} {str(dtype).removeprefix('torch.')}"
        v, h = values.to(dtype), outputs.to(dtype)
        compare(name, v, rows, h)
        compare(f"{name} warm-up", v, rows, h, momentum=0)
        compare(f"{name} paper", v, rows.int(), h, normalize=False)
compare("repeated rows", values, torch.tensor([3, 9, 3, 9, 3]), outputs)
compare("more rows than are compared at a time", torch.randn(600, 5),
        torch.arange(1050) % 600, torch.randn(1050, 5))  # fmt: skip
compare("one set", values, rows, outputs[0])
compare("three sets", values, rows, torch.randn(3, 5, 1030))
compare("mixed dtypes", values, rows, outputs.bfloat16())
compare("float16", values.half(), rows, outputs.half(), allowed=1e-3)
compare("float64", values.double(), rows, outputs.double(), allowed=0.0)
compare("zeros", values * 0, rows, outputs * 0)
compare("underflow to a zero", (values * 0).half(), rows, -1e-9 * outputs.abs(), normalize=False)
compare("no rows", values, rows[:0], outputs[:, :0])
old = torch.full((13, 1030), float("nan"))
compare("warm-up over NaN", old, rows, outputs, momentum=0.0, codes=pack(values))


def strided():
    v, c = torch.zeros(40, 26).T[::2], torch.zeros(5, 26, dtype=torch.uint8).T[::2]
    h = torch.arange(400.0).view(40, 5, 2).permute(2, 1, 0) - 170
    bank_update(v, c, torch.stack([rows, rows]).T[:, 0], h, momentum=0.3)
    return v.contiguous(), c.contiguous()


parity.compare("strides", strided, 1e-6)


def bit_by_bit():
    """Offsets beyond 32 bits. Memory that nobody touches is not there."""
    n = 2**31 // 4000
    v, c = torch.empty(4096, n, dtype=torch.bfloat16).T, torch.empty(512, n, dtype=torch.uint8).T
    few = torch.tensor([1, n - 1])
    bank_update(v, c, few, torch.linspace(-1, 1, 8192).view(2, 4096), momentum=0.0)
    return v[few].contiguous(), c[few].contiguous()


parity.compare("stored bit by bit", bit_by_bit, 8e-3)


def outside():
    v, c = values.clone(), pack(values)
    bank_update(v, c, torch.tensor([13, -1, 2**40]), outputs[:, :3], momentum=0.4)
    return float((v != values).sum() + (c != pack(values)).sum())


os.environ["COOPHASH_BACKEND"] = "triton"  # the reference raises
parity.record("rows outside are left out", outside(), 0.0)

parity.report()
