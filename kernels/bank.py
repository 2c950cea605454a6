"""UCCH's memory bank after a step: its rows moved towards new outputs, their signs packed again.

    u = (h^x + h^y) / 2,   v <- δ v + (1 - δ) u,   code <- sgn(v)

(Hu et al., TPAMI 2023, Eq. 5.) As in the authors' code, u and the result are brought to length 1
unless `normalize=False`, which is the paper's form. One pass over the rows of a batch, in place,
where plain PyTorch takes a dozen.

The Triton kernel is in bank_triton.py, the byte count in kernels/README.md. Check it, time it:
pytest tests/kernels/test_bank.py && pytest benchmarks/bench_bank.py
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from coophash.kernels._bank_arguments import (
    check_floating,
    check_outputs,
    check_packed,
    check_range,
    check_rows,
    check_tensors,
)
from coophash.kernels._library import register
from coophash.kernels.signs import sign_pack_reference


def bank_update_reference(
    values: Tensor,
    codes: Tensor,
    rows: Tensor,
    outputs: Tensor,
    momentum: float,
    normalize: bool = True,
) -> None:
    """The update in plain PyTorch: the truth of the tests, the CPU path.

    values: (n, L), codes: (n, ceil(L / 8)), both changed in place; rows: (B,); outputs: (S, B, L).
    Computes in float32 (float64 for float64 values).
    """
    compute = torch.float64 if values.dtype == torch.float64 else torch.float32
    check_range("rows", rows, "values", len(values))
    last = {row: place for place, row in enumerate(rows.tolist())}  # of equal rows, the last one
    if len(last) < len(rows):
        places = torch.tensor(list(last.values()), device=rows.device)
        rows, outputs = rows[places], outputs[:, places]
    first, *others = outputs.to(compute).unbind()
    u = first.clone() if not others else first + others[0]
    for other in others[1:]:
        u += other
    if not u.sum().isfinite():
        raise ValueError("outputs must be finite, got NaN or infinity: look for it in the encoders")
    rows = rows.long()
    u.mul_((1.0 - momentum) / (_length(u) if normalize else len(outputs)))
    if momentum != 0.0:
        u.add_(values.index_select(0, rows).to(compute), alpha=momentum)
    if normalize:
        u.div_(_length(u))
    v = u.to(values.dtype)
    values.index_copy_(0, rows, v)
    codes.index_copy_(0, rows, sign_pack_reference(v))


def _length(u: Tensor) -> Tensor:
    """(B, 1), to divide by: as torch.nn.functional.normalize does."""
    length: Tensor = torch.linalg.vector_norm(u, dim=1, keepdim=True)
    return length.clamp_min_(1e-12)


def _fake(values: Tensor, codes: Tensor, rows: Tensor, outputs: Tensor, *rest: Any) -> None:
    return None


_bank_update = register(
    "bank_update(Tensor(a!) values, Tensor(b!) codes, Tensor rows, Tensor outputs, "
    "float momentum, bool normalize) -> ()",
    reference=bank_update_reference,
    triton="coophash.kernels.bank_triton:bank_update",
    fake=_fake,
)


def bank_update(
    values: Tensor,
    codes: Tensor,
    rows: Tensor,
    outputs: Tensor,
    *,
    momentum: float,
    normalize: bool = True,
) -> None:
    """Momentum update of some rows of a memory bank and of their packed signs, in place.

    Args:
        values: (n, L) floating point, v. Computed in float32 (float64 for float64).
        codes: (n, ceil(L / 8)) uint8, the signs of values: those of the rows are written anew. A
            zero counts as +1.
        rows: (B,) int32 or int64. Each should be there once. Where one comes several times, its
            last occurrence is the one that counts, from the values before the call.
        outputs: (B, L), or (S, B, L) whose mean over S is taken: UCCH's h^x and h^y stacked, as
            `bank_contrast` takes them. No gradient is recorded.
        momentum: δ in 0 … 1. At 0, UCCH's warm-up, the old values are not read.
        normalize: bring u and the result to length 1, as the authors' code does; a zero stays one.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range. Rows
            outside the bank and outputs that are not finite are found on the CPU alone; a CUDA
            kernel, which cannot raise without waiting, leaves out the former, and from the latter
            makes values that are NaN.
    """
    check_tensors("values", values=values, codes=codes, rows=rows, outputs=outputs)
    check_floating("values", values)
    batch, bits = check_outputs("outputs", outputs)
    check_packed(codes, bits)
    if values.shape != (codes.shape[0], bits):
        raise ValueError(
            f"values must be ({codes.shape[0]}, {bits}), as codes and outputs are, "
            f"got {tuple(values.shape)}"
        )
    check_rows("rows", rows, (batch,))
    for name, tensor in (("values", values), ("codes", codes)):
        if any(n > 1 and s == 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True)):
            raise ValueError(f"{name} must own each of its elements, got an expanded tensor")
    if values.requires_grad:
        raise ValueError("values must not require a gradient: they are changed in place")
    if not isinstance(momentum, Real):
        raise TypeError(f"momentum must be a number, got {type(momentum).__name__}")
    if not 0.0 <= float(momentum) <= 1.0:
        raise ValueError(f"momentum must be in 0 … 1, got {momentum!r}")
    sets = outputs.detach()
    sets = sets if sets.dim() == 3 else sets[None]
    _bank_update(values, codes, rows, sets, float(momentum), bool(normalize))
