"""The Triton kernel that packs signs, and its launcher. The op is in signs.py.

A thread makes one cell: where the layout allows it a word, 32 outputs read in pieces of 16 bytes,
else a byte. It adds the bits in registers; nothing is exchanged between threads. NaN is told by
whichever thread meets one: all write the same 1, no atomics.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels._backend import interpreting
from coophash.kernels.cubins import Variant


@triton.jit
def _load(ptrs, reading):
    x = tl.load(ptrs, reading, -1.0)
    if ptrs.dtype.element_ty.primitive_bitwidth == 16:
        x = x.to(tl.float32)  # the interpreter compares the bits of a bfloat16
    return x


@triton.jit
def sign_pack_kernel(
    outputs_ptr, codes_ptr, nan_ptr,
    cells, cells_in_row,
    bits, row_stride, column_stride,
    CELL: tl.constexpr,  # outputs of a cell: 32, or 8 for any layout
    PIECE: tl.constexpr,  # neighbouring outputs read together; 1 for any layout
    FLAT: tl.constexpr,  # rows without gaps between them or spare bits: one run of outputs
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < cells
    if not WIDE:
        cell = cell.to(tl.int32)
    if FLAT:
        start = cell.to(tl.int64) * CELL
    else:
        first = (cell % cells_in_row) * CELL
        start = (cell // cells_in_row).to(tl.int64) * row_stride
        start += first.to(tl.int64) * column_stride
    code = tl.zeros([BLOCK], tl.int32)
    lost = tl.zeros([BLOCK], tl.int32)
    for piece in tl.static_range(0, CELL, PIECE):
        if PIECE == 1:
            offset = start + tl.cast(piece, tl.int64) * column_stride
            x = _load(outputs_ptr + offset, inside & (first + piece < bits))
            code += (x >= 0).to(tl.int32) << piece
            lost += (x != x).to(tl.int32)
        else:
            j = (piece + tl.arange(0, PIECE))[None, :]
            x = _load(outputs_ptr + start[:, None] + j, inside[:, None] & (j < CELL))
            code += tl.sum((x >= 0).to(tl.int32) << j, axis=1)
            lost += tl.sum((x != x).to(tl.int32), axis=1)
    tl.store(codes_ptr + cell, code.to(codes_ptr.dtype.element_ty), inside)
    tl.store(nan_ptr + tl.zeros_like(cell), 1, lost > 0)


def launch_shape(cells: int) -> tuple[int, int]:
    """(BLOCK, warps): a cell a thread. Chosen by instruction and register counts, not yet by a
    measurement."""
    if interpreting():  # its time goes by programs
        return max(16, min(triton.next_power_of_2(cells), 1 << 15)), 1
    return (128, 4) if cells >= 1 << 15 else (32, 1)


def sign_pack(outputs: Tensor, nan_flag: Tensor) -> Tensor:
    """Op `sign_pack` on a device."""
    rows, bits = outputs.shape
    width = (bits + 7) // 8
    codes = outputs.new_empty((rows, width), dtype=torch.uint8)
    if rows == 0:
        return codes
    row_stride, column_stride = outputs.stride()
    flat = bits % 8 == 0 and outputs.is_contiguous() and codes.numel() % 4 == 0
    words = flat or (bits % 32 == 0 and column_stride == 1 and row_stride % 16 == 0)
    cells = codes.view(-1).view(torch.int32) if words else codes
    n = cells.numel()
    block, warps = launch_shape(n)
    with torch.cuda.device(outputs.device) if outputs.is_cuda else contextlib.nullcontext():
        sign_pack_kernel[(triton.cdiv(n, block),)](
            outputs, cells, nan_flag, n, width // 4 if words else width,
            bits, row_stride, column_stride,
            CELL=32 if words else 8, PIECE=16 // outputs.element_size() if words else 1,
            FLAT=flat, WIDE=n >= 1 << 31, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return codes


def cubin_variants() -> list[Variant]:
    """As launched on many outputs: contiguous, in rows apart, with spare bits."""

    def variant(dtype: str, layout: str, itemsize: int) -> Variant:
        words = layout != "spare bits"
        block, warps = launch_shape(1 << 20)
        types = {"outputs_ptr": f"*{dtype}", "codes_ptr": "*i32" if words else "*u8"}
        types |= {"nan_ptr": "*i32"}
        types |= dict.fromkeys(("cells", "cells_in_row", "bits", "row_stride"), "i32")
        return Variant(
            f"sign_pack {dtype} {layout}",
            sign_pack_kernel,
            types,
            {"column_stride": 1, "CELL": 32 if words else 8, "FLAT": layout == "contiguous"}
            | {"PIECE": 16 // itemsize if words else 1, "WIDE": False, "BLOCK": block},
            warps,
            32 if words else 8,
            ("row_stride",) if words else (),
        )

    return [
        variant("fp32", "contiguous", 4),
        variant("bf16", "contiguous", 2),
        variant("fp64", "contiguous", 8),
        variant("fp32", "rows apart", 4),
        variant("bf16", "spare bits", 2),
    ]
