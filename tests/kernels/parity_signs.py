"""Parity of sign_pack: see parity.py."""

from __future__ import annotations

import math

import numpy as np
import parity
import torch

from coophash.kernels import sign_pack

torch.manual_seed(0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def with_zeros(rows, bits, dtype=torch.float32):
    outputs = torch.randn(rows, bits).to(dtype)
    outputs[torch.rand(rows, bits) < 0.1] = 0.0
    outputs[torch.rand(rows, bits) < 0.1] = -0.0
    outputs[torch.rand(rows, bits) < 0.1] = math.inf
    outputs[torch.rand(rows, bits) < 0.1] = -math.inf
    return outputs


def packed(outputs):
    """Codes and flag; of the kernel's codes also what NumPy makes of the signs."""
    flag = torch.zeros(1, dtype=torch.int32)
    codes = sign_pack(outputs, nan_flag=flag)
    assert codes.is_contiguous()
    expected = np.packbits((outputs.double() >= 0).numpy(), axis=1, bitorder="little")
    assert np.array_equal(codes, expected)
    return codes, flag


def compare(case, outputs):
    parity.compare(case, lambda: packed(outputs), allowed=0)


for bits in (1, 7, 8, 9, 16, 31, 32, 33, 48, 64, 100, 128, 4096):
    for dtype in DTYPES:
        compare(f"{bits} {dtype}", with_zeros(6 if bits == 4096 else 37, bits, dtype))

for dtype in DTYPES:
    outputs = with_zeros(40, 96, dtype)
    layouts = {
        "transposed": outputs.t(),
        "rows apart": outputs[:, :64],
        "rows apart, from the middle": outputs[:, 32:64],
        "every other row": outputs[::2],
        "every other bit": outputs[:, ::2],
        "expanded": outputs[:1].expand(40, -1),
        "one bit expanded": outputs[:, :1].expand(-1, 64),
        "off the grid of 16 bytes": outputs.reshape(-1)[1 : 1 + 39 * 96].view(39, 96),
        "one row": outputs[:1],
        "no rows": outputs[:0],
    }
    for name, view in layouts.items():
        compare(f"{name} {dtype}", view)

# A NaN anywhere sets the flag, in every path; a flag that is set stays so.
for bits in (5, 32, 48):
    for dtype in DTYPES:
        for place in (0, bits - 1):
            outputs = with_zeros(20, bits, dtype)
            outputs[7, place] = math.nan
            compare(f"NaN {bits} {dtype} {place}", outputs)
            for backend, flag in zip(
                ("reference", "triton"),
                parity.by_both(lambda o=outputs: packed(o)[1]),
                strict=True,
            ):
                parity.record(f"flag {bits} {dtype} {place} {backend}", abs(int(flag) - 1), 0)


def twice():
    flag = torch.zeros(1, dtype=torch.int32)
    for outputs in (torch.full((3, 32), math.nan), torch.ones(3, 32)):
        sign_pack(outputs, nan_flag=flag)
    return flag


for backend, flag in zip(("reference", "triton"), parity.by_both(twice), strict=True):
    parity.record(f"the flag stays {backend}", abs(int(flag) - 1), 0)

parity.report()
