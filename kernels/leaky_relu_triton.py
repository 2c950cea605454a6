"""The Triton kernels of bias + leaky ReLU with packed signs. The ops are in leaky_relu.py.

Both see the tensor as the matrix (rows, unit) whose rows are packed: (B · C, H · W) for row-major
maps, (B · H · W, C) where the channel is innermost. A program owns ROWS x UNIT of it, so whole
bytes of bits: no byte is shared, whatever the sizes.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels import leaky_relu as op
from coophash.kernels._backend import interpreting
from coophash.kernels.cubins import Variant

NO_SUM, SUM_OF_ROWS, SUM_OF_COLUMNS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def pack_last(bits, ROWS: tl.constexpr, UNIT: tl.constexpr):
    """(ROWS, UNIT) of bool -> (ROWS, UNIT / 8) of uint8, bit j of a row in byte j // 8."""
    shifted = tl.reshape(bits.to(tl.int32), (ROWS, UNIT // 8, 8)) << tl.arange(0, 8)[None, None, :]
    return tl.sum(shifted, 2).to(tl.uint8)


@triton.jit
def unpack_last(packed, ROWS: tl.constexpr, UNIT: tl.constexpr):
    """(ROWS, UNIT / 8) of uint8 -> (ROWS, UNIT) of int32, 0 or 1."""
    bits = (packed.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, (ROWS, UNIT))


@triton.jit
def bias_leaky_relu_kernel(
    x_ptr, bias_ptr, y_ptr, bits_ptr,
    rows, vectors, channels, slope,
    BY_CHANNEL: tl.constexpr,  # a column is a channel; else a row is of channel row % channels
    VECTOR: tl.constexpr, ROWS: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    unit = vectors * VECTOR  # the compiler sees a multiple, and so the alignment of every row
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    column = tl.program_id(1) * UNIT + tl.arange(0, UNIT)
    here = first + row < rows
    inside = here[:, None] & (column < unit)[None, :]
    offset = (row * unit)[:, None] + column[None, :]
    z = tl.load(x_ptr + first * unit + offset, inside).to(tl.float32)
    if bias_ptr is not None:
        if BY_CHANNEL:
            z += tl.load(bias_ptr + column, column < unit).to(tl.float32)[None, :]
        else:
            # In 32 bits: a 64-bit remainder is a call.
            channel = ((tl.program_id(0) % channels) * ROWS + row) % channels
            z += tl.load(bias_ptr + channel).to(tl.float32)[:, None]
    positive = z > 0
    y = tl.where(positive, z, z * slope)
    tl.store(y_ptr + first * unit + offset, y.to(y_ptr.dtype.element_ty), inside)
    width = (unit + 7) // 8
    byte = tl.program_id(1) * (UNIT // 8) + tl.arange(0, UNIT // 8)
    packed = pack_last(positive & inside, ROWS, UNIT)
    place = (row * width)[:, None] + byte[None, :]
    tl.store(bits_ptr + first * width + place, packed, here[:, None] & (byte < width)[None, :])


@triton.jit
def leaky_relu_backward_kernel(
    grad_ptr, bits_ptr, out_ptr,
    sums_ptr,  # (rows, programs 1) of SUM_OF_ROWS, (programs 0, unit) of SUM_OF_COLUMNS, or None
    rows, vectors, slope,
    SUM: tl.constexpr, TILES: tl.constexpr,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    unit = vectors * VECTOR
    width = (unit + 7) // 8
    row = tl.arange(0, ROWS)
    column = tl.program_id(1) * UNIT + tl.arange(0, UNIT)
    byte = tl.program_id(1) * (UNIT // 8) + tl.arange(0, UNIT // 8)
    offset = (row * unit)[:, None] + column[None, :]
    place = (row * width)[:, None] + byte[None, :]
    summed = tl.zeros((ROWS, UNIT), tl.float32)
    for tile in range(TILES):
        first = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS
        here = first + row < rows
        inside = here[:, None] & (column < unit)[None, :]
        g = tl.load(grad_ptr + first * unit + offset, inside, other=0.0).to(tl.float32)
        owned = here[:, None] & (byte < width)[None, :]
        packed = tl.load(bits_ptr + first * width + place, owned, other=0)
        passed = tl.where(unpack_last(packed, ROWS, UNIT) != 0, g, g * slope)
        tl.store(out_ptr + first * unit + offset, passed.to(out_ptr.dtype.element_ty), inside)
        if SUM == SUM_OF_ROWS:
            at = (first + row) * tl.num_programs(1) + tl.program_id(1)
            tl.store(sums_ptr + at, tl.sum(passed, 1), here)
        elif SUM == SUM_OF_COLUMNS:
            summed += passed
    if SUM == SUM_OF_COLUMNS:
        at = tl.program_id(0).to(tl.int64) * unit + column
        tl.store(sums_ptr + at, tl.sum(summed, 0), column < unit)


# The grid has at most 65,535 programs along a unit, of 1,024 elements where it is long; offsets
# inside a tile have 32 bits, enough for more.
LONGEST_UNIT = 65_535 * 1024


def launch_shape(rows: int, unit: int) -> tuple[int, int, int]:
    """(ROWS, UNIT, warps): 16 elements a thread, at most an eighth of them outside where possible.

    Chosen by instruction and register counts, not yet by a measurement.
    """
    covering = max(8, triton.next_power_of_2(unit))
    fitting = [u for u in (1024, 512, 256, 128, 64, 32) if -(-unit // u) * u * 7 <= unit * 8]
    columns = fitting[0] if fitting else min(covering, 1024)
    if interpreting():  # its time goes by programs
        columns = min(covering, 1 << 15)
        return max(1, min((1 << 16) // columns, triton.next_power_of_2(rows))), columns, 1
    return 2048 // columns, columns, 4


def _too_long(x: Tensor, innermost: bool) -> bool:
    unit = x.shape[1] if innermost else math.prod(x.shape[2:])
    return unit > LONGEST_UNIT


def _rows(x: Tensor, bits: Tensor) -> tuple[int, int]:
    rows = math.prod(bits.shape[:-1])
    return rows, x.numel() // rows


def _on(x: Tensor) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def bias_leaky_relu(x: Tensor, bias: Tensor | None, slope: float) -> tuple[Tensor, Tensor]:
    """Op `bias_leaky_relu` on a device."""
    # float64 is for checks alone: the kernel computes in float32.
    x = op.dense(x)
    if x.dtype == torch.float64 or _too_long(x, op.channel_is_innermost(x)):
        return op.run_reference(x, bias, slope)
    y = torch.empty_like(x)
    bits = torch.empty(op.bits_shape(x), dtype=torch.uint8, device=x.device)
    if x.numel() == 0:
        return y, bits
    rows, unit = _rows(x, bits)
    high, wide, warps = launch_shape(rows, unit)
    vector = math.gcd(unit, 16)
    with _on(x):
        bias_leaky_relu_kernel[(triton.cdiv(rows, high), triton.cdiv(unit, wide))](
            x, None if bias is None else bias.contiguous(), y, bits,
            rows, unit // vector, x.shape[1], slope,
            BY_CHANNEL=op.channel_is_innermost(x), VECTOR=vector, ROWS=high, UNIT=wide,
            num_warps=warps,
        )  # fmt: skip
    return y, bits


def leaky_relu_backward(
    grad: Tensor, bits: Tensor, slope: float, bias_grad: bool
) -> tuple[Tensor, Tensor]:
    """Op `leaky_relu_backward` on a device."""
    grad, bits = op.as_bits(grad, bits), bits.contiguous()
    by_channel = op.channel_is_innermost(grad)
    if grad.dtype == torch.float64 or grad.numel() == 0 or _too_long(grad, by_channel):
        return op.run_backward_reference(grad, bits, slope, bias_grad)
    out = torch.empty_like(grad)
    rows, unit = _rows(grad, bits)
    high, wide, warps = launch_shape(rows, unit)
    vector = math.gcd(unit, 16)
    columns = triton.cdiv(unit, wide)
    kind, tiles, sums = NO_SUM, 1, None
    if bias_grad and by_channel:
        # One sum a program and channel: eight tiles each, as long as they fill the device.
        kind, tiles = SUM_OF_COLUMNS, 8 if rows * unit >= 1 << 24 else 2
        sums = grad.new_empty((triton.cdiv(rows, high * tiles), unit), dtype=torch.float32)
    elif bias_grad:
        kind, sums = SUM_OF_ROWS, grad.new_empty((rows, columns), dtype=torch.float32)
    with _on(grad):
        leaky_relu_backward_kernel[(triton.cdiv(rows, high * tiles), columns)](
            grad, bits, out, sums, rows, unit // vector, slope,
            SUM=kind, TILES=tiles, VECTOR=vector, ROWS=high, UNIT=wide, num_warps=warps,
        )  # fmt: skip
    if sums is None:
        return out, grad.new_empty(0, dtype=torch.float32)
    if by_channel:
        return out, sums.sum(0)
    return out, sums.view(grad.shape[0], grad.shape[1], columns).sum((0, 2))


def cubin_variants() -> list[Variant]:
    """Forward and backward on planes of 1,024 pixels, and on pixels of 64 channels."""

    def variant(name: str, dtype: str, unit: int, kind: int = 0) -> Variant:
        high, wide, warps = launch_shape(1 << 16, unit)
        types = {"bits_ptr": "*u8", "rows": "i32", "vectors": "i32", "slope": "fp32"}
        constants = {"VECTOR": 16, "ROWS": high, "UNIT": wide}
        tiles = 1
        if name == "bias_leaky_relu":
            kernel = bias_leaky_relu_kernel
            types |= {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}", "bias_ptr": "*fp32"}
            types["channels"] = "i32"
            constants["BY_CHANNEL"] = unit < 1024
        else:
            kernel = leaky_relu_backward_kernel
            types |= {"grad_ptr": f"*{dtype}", "out_ptr": f"*{dtype}"}
            if kind:
                types["sums_ptr"] = "*fp32"
            tiles = 8 if kind == SUM_OF_COLUMNS.value else 1
            constants |= {"SUM": kind, "TILES": tiles}
        layout = "channels_last" if unit < 1024 else "row-major"
        summed = " bias" if kind else ""
        elements = high * wide // (32 * warps)
        return Variant(
            f"{name} {dtype} {layout}{summed}", kernel, types, constants, warps, elements
        )

    return [
        variant("bias_leaky_relu", "fp32", 1024),
        variant("bias_leaky_relu", "fp32", 64),
        variant("bias_leaky_relu", "bf16", 1024),
        variant("bias_leaky_relu", "bf16", 64),
        variant("leaky_relu_backward", "fp32", 1024),
        variant("leaky_relu_backward", "bf16", 64),
        variant("leaky_relu_backward", "fp32", 1024, SUM_OF_ROWS.value),
        variant("leaky_relu_backward", "fp32", 64, SUM_OF_COLUMNS.value),
        variant("leaky_relu_backward", "bf16", 64, SUM_OF_COLUMNS.value),
    ]
