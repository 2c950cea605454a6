"""The arguments that the ops on a memory bank share, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coophash.codes import MAX_BITS, width_of

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_ROWS = (torch.int32, torch.int64)


def check_tensors(first: str, **tensors: Any) -> None:
    """All are tensors, on the device of the one called `first`."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    device = tensors[first].device
    for name, value in tensors.items():
        if value.device != device:
            raise ValueError(
                f"{name} must be on the device of {first}, {device}, got {value.device}: "
                f"call {name}.to({first}.device) first"
            )


def check_floating(name: str, value: Tensor) -> None:
    if value.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float32, bfloat16, float16 or float64, got {value.dtype}: "
            f"call {name}.float() first"
        )


def check_outputs(name: str, outputs: Tensor) -> tuple[int, int]:
    """(B, L) of one set of outputs, or of several."""
    check_floating(name, outputs)
    if outputs.dim() not in (2, 3) or not 1 <= outputs.shape[-1] <= MAX_BITS:
        raise ValueError(
            f"{name} must be (B, L) or (S, B, L) of 1 to {MAX_BITS} bits, "
            f"got {tuple(outputs.shape)}"
        )
    return outputs.shape[-2], outputs.shape[-1]


def check_packed(codes: Tensor, bits: int) -> None:
    if codes.dtype != torch.uint8 or codes.dim() != 2 or codes.shape[1] != width_of(bits):
        raise (ValueError if codes.dtype == torch.uint8 else TypeError)(
            f"codes must be uint8 (n, {width_of(bits)}) for {bits} bits, "
            f"got {codes.dtype} {tuple(codes.shape)}: call coophash.pack(codes) first"
        )
    if not 1 <= codes.shape[0] < 1 << 31:  # len() would fix the number in an exported graph
        raise ValueError(f"codes must have 1 to 2**31 - 1 rows, got {codes.shape[0]}")


def check_rows(name: str, rows: Tensor, shape: tuple[int, ...]) -> None:
    if rows.dtype not in _ROWS:
        raise TypeError(f"{name} must be int32 or int64, got {rows.dtype}: call {name}.long()")
    if rows.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(rows.shape)}")


def check_range(name: str, rows: Tensor, bank: str, count: int) -> None:
    """Row numbers below `count`. Looks at them: for references, not in front of kernels."""
    if not rows.numel():
        return
    low, high = (int(bound) for bound in rows.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            f"{name} must be rows of {bank}, 0 … {count - 1}, got {low if low < 0 else high}"
        )
