"""The Triton kernel of the memory bank's update and its launcher. The op is in bank.py.

A program takes one row: two norms, and the eight signs of a byte side by side.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels.bank import bank_update_reference
from coophash.kernels.cubins import Variant

LEAST = tl.constexpr(1e-12)  # of a norm to divide by, as in torch.nn.functional.normalize


@triton.jit
def _normalized(x):
    squares = tl.sum(tl.sum(x * x, axis=1), axis=0)
    return x / tl.maximum(tl.sqrt(squares), LEAST)


@triton.jit(do_not_specialize=["batch", "rows", "momentum"])
def bank_update_kernel(
    values_ptr, codes_ptr, rows_ptr, outputs_ptr, batch, rows, L, sets,
    row_stride, bit_stride, code_stride, byte_stride, set_stride, sample_stride, output_stride,
    momentum,
    NORMALIZE: tl.constexpr, BYTES: tl.constexpr, COMPARED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = tl.load(rows_ptr + program).to(tl.int64)
    later = 0  # how often the row comes again: then it is left to the last
    for start in range(0, batch, COMPARED):
        place = start + tl.arange(0, COMPARED)
        other = tl.load(rows_ptr + place, place < batch, -1)
        later += tl.sum(((other == row) & (place > program)).to(tl.int32), axis=0)
    if (row >= 0) & (row < rows) & (later == 0):
        byte = tl.arange(0, BYTES)
        bit = tl.arange(0, 8)[None, :]
        place = byte[:, None] * 8 + bit
        inside = place < L
        wide = place.to(tl.int64)  # a bank that is stored bit by bit has strides of n
        output = outputs_ptr + program.to(tl.int64) * sample_stride + wide * output_stride
        u = tl.load(output, inside, 0.0).to(tl.float32)
        for _ in range(1, sets):
            output += set_stride
            u += tl.load(output, inside, 0.0).to(tl.float32)
        u /= sets
        if NORMALIZE:
            u = _normalized(u)
        value = values_ptr + row * row_stride + wide * bit_stride
        old = tl.load(value, inside & (momentum != 0.0), 0.0).to(tl.float32)
        v = u * (1.0 - momentum) + old * momentum
        if NORMALIZE:
            v = _normalized(v)
        v = v.to(values_ptr.dtype.element_ty)
        tl.store(value, v, inside)
        # Of the stored value: rounding may have made a zero of a small negative number.
        ones = ((v.to(tl.float32) >= 0.0) & inside).to(tl.int32) << bit
        code = codes_ptr + row * code_stride + byte.to(tl.int64) * byte_stride
        tl.store(code, tl.sum(ones, axis=1).to(tl.uint8), byte * 8 < L)


def bank_update(
    values: Tensor, codes: Tensor, rows: Tensor, outputs: Tensor, momentum: float, normalize: bool
) -> None:
    """Op `bank_update` on a device."""
    if values.dtype == torch.float64:  # for checks alone; the kernel computes in float32
        bank_update_reference(values, codes, rows, outputs, momentum, normalize)
        return
    sets, batch, bits = outputs.shape
    if batch == 0 or sets == 0:
        return
    rows = rows.contiguous()
    with torch.cuda.device(values.device) if values.is_cuda else contextlib.nullcontext():
        bank_update_kernel[(batch,)](
            values, codes, rows, outputs, batch, len(values), bits, sets,
            *values.stride(), *codes.stride(), *outputs.stride(), momentum,
            NORMALIZE=normalize, BYTES=triton.next_power_of_2(codes.shape[1]),
            COMPARED=256, num_warps=_warps(bits),
        )  # fmt: skip


def _warps(bits: int) -> int:
    """Each thread has four values or more of a row."""
    return 1 if bits <= 128 else 2 if bits <= 256 else 4


def cubin_variants() -> list[Variant]:
    """Of the kernel, for a batch of 256."""

    def variant(values: str, outputs: str, bits: int) -> Variant:
        types = {"values_ptr": f"*{values}", "codes_ptr": "*u8", "rows_ptr": "*i64"}
        types |= {"outputs_ptr": f"*{outputs}", "momentum": "fp32"}
        integers = ("batch", "rows", "L", "sets")
        strides = ("row_stride", "code_stride", "set_stride", "sample_stride")
        types |= dict.fromkeys((*integers, *strides), "i32")
        constants = {"NORMALIZE": True, "BYTES": bits // 8, "COMPARED": 256}
        constants |= dict.fromkeys(("bit_stride", "byte_stride", "output_stride"), 1)
        return Variant(
            f"bank_update {values} {outputs} {bits} bits", bank_update_kernel, types, constants,
            _warps(bits), bits // (32 * _warps(bits)), ("L", *strides),
        )  # fmt: skip

    return [variant("fp32", "fp32", 128), variant("fp32", "bf16", 512)]
