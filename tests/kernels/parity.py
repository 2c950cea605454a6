"""What the parity programs share: one case run by the reference and by the kernel, compared.

A program `parity_<op>.py` is run by test_interpreter.py in a process of its own, since
TRITON_INTERPRET is read when a kernel is decorated; by hand:

    TRITON_INTERPRET=1 python tests/kernels/parity_langevin.py

It ends with `report()`, which prints {"case": [largest difference, allowed difference]}.
"""

from __future__ import annotations

import json
import os

import torch

_results: dict[str, list[float]] = {}


def by_both(call):
    """What `call()` returns with COOPHASH_BACKEND=reference, and with =triton."""
    results = []
    for backend in ("reference", "triton"):
        os.environ["COOPHASH_BACKEND"] = backend
        results.append(call())
    return results


def record(case: str, difference: float, allowed: float) -> None:
    assert case not in _results, f"two cases are called {case!r}"
    _results[case] = [difference, allowed]


def compare(case: str, call, allowed: float = 1e-6) -> None:
    """Record the largest difference between the two backends' tensors.

    call: () -> a tensor or a tuple of tensors. Shapes, dtypes, strides and the places of NaN must
    be equal. allowed: absolute, for float32; bfloat16 is compared in units in the last place
    instead, because the interpreter cuts it off instead of rounding it.
    """
    reference, kernel = by_both(call)
    if isinstance(reference, torch.Tensor):
        reference, kernel = (reference,), (kernel,)
    assert len(reference) == len(kernel), case
    largest = 0.0
    for a, b in zip(reference, kernel, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (case, a.dtype, b.dtype, a.shape, b.shape)
        assert a.stride() == b.stride(), (case, a.stride(), b.stride())
        if not a.dtype.is_floating_point:
            largest = max(largest, float((a != b).sum()))
            continue
        difference = _difference(case, a, b)
        if a.dtype == torch.bfloat16:  # in the scale of `allowed`
            difference = difference / a.double().abs().clamp(min=1e-2) / 2**-7 * allowed
        largest = max(largest, difference.max().item() if difference.numel() else 0.0)
    record(case, largest, allowed)


def _difference(case: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double(), b.double()
    assert torch.equal(a.isnan(), b.isnan()), case
    return torch.where(a == b, 0.0, a - b).nan_to_num().abs()  # equal infinities too


def report() -> None:
    print(json.dumps(_results))
