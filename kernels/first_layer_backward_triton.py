"""What the kernel of first_layer_langevin_triton.py multiplies: windows of the weights, and the
gradients at the positions near a cell, through the activation.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels.leaky_relu import channel_is_innermost
from coophash.kernels.leaky_relu_triton import unpack_last


@triton.jit
def pack_windows_kernel(
    weight_ptr, windows_ptr, n,
    CHANNELS: tl.constexpr, INPUTS: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    LAST_ROW: tl.constexpr, LAST_COLUMN: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, DEPTHS: tl.constexpr, WIDE: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """(C_out, C_in, KH, KW) -> (ROWS, COLUMNS, DEPTHS · DEPTH, WIDE): windows of weights, 0 beyond.

    Row and column of a window count down from the last offset; the last axis is (pixel row in the
    cell, pixel column, input channel padded to SLOTS).
    """
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place, rest = number % WIDE, number // WIDE
    channel, rest = rest % (DEPTHS * DEPTH), rest // (DEPTHS * DEPTH)
    c, v, u = place % SLOTS, place // SLOTS % STRIDE_W, place // (SLOTS * STRIDE_W)
    i = u + PAD_H - STRIDE_H * (LAST_ROW - rest // COLUMNS)
    j = v + PAD_W - STRIDE_W * (LAST_COLUMN - rest % COLUMNS)
    inside = (u < STRIDE_H) & (c < INPUTS) & (channel < CHANNELS) & (number < n)
    inside &= (i >= 0) & (i < KERNEL_H) & (j >= 0) & (j < KERNEL_W)
    at = ((channel * INPUTS + c) * KERNEL_H + i) * KERNEL_W + j
    weight = tl.load(weight_ptr + at, inside, other=0.0)
    tl.store(windows_ptr + number, weight.to(windows_ptr.dtype.element_ty), number < n)


@triton.jit
def masked_gradient(
    grad_ptr, bits_ptr, sample, row, column, positions_h, positions_w, bit_row, slope,
    first: tl.constexpr, CHANNELS: tl.constexpr, BY_CHANNEL: tl.constexpr,
    CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation at one position of each cell: (CELLS, DEPTH)."""
    there = (row >= 0) & (row < positions_h) & (column >= 0) & (column < positions_w)
    there &= sample >= 0
    channel = first + tl.arange(0, DEPTH)
    position = row * positions_w + column
    positions = positions_h * positions_w
    if BY_CHANNEL:
        place = sample.to(tl.int64) * positions + position
        inside = there[:, None] & (channel < CHANNELS)[None, :]
        g = tl.load(grad_ptr + (place * CHANNELS)[:, None] + channel[None, :], inside, other=0.0)
        byte = first // 8 + tl.arange(0, DEPTH // 8)
        owned = there[:, None] & (byte < bit_row)[None, :]
        packed = tl.load(bits_ptr + (place * bit_row)[:, None] + byte[None, :], owned, other=0)
        bit = unpack_last(packed, CELLS, DEPTH)
        g = tl.where(bit != 0, g, (g.to(tl.float32) * slope).to(g.dtype))
    else:
        # Neighbours in memory are positions: read so, then turned.
        plane = sample.to(tl.int64) * CHANNELS
        inside = (channel < CHANNELS)[:, None] & there[None, :]
        # One 64-bit sum a cell, 32-bit offsets from there.
        at = grad_ptr + (plane * positions + position)[None, :]
        g = tl.load(at + (channel * positions)[:, None], inside, other=0.0)
        at = bits_ptr + (plane * bit_row + position // 8)[None, :]
        packed = tl.load(at + (channel * bit_row)[:, None], inside, other=0)
        bit = packed.to(tl.int32) >> (position % 8)[None, :] & 1
        g = tl.trans(tl.where(bit != 0, g, (g.to(tl.float32) * slope).to(g.dtype)))
    return g


class Shape(NamedTuple):
    """What a layer makes of the kernel: see the kernel's constants of these names."""

    last_row: int
    last_column: int
    rows: int
    columns: int
    slots: int
    wide: int
    depth: int
    depths: int


def layer_shape(weight: Tensor, roomy: bool, stride: list[int], padding: list[int]) -> Shape | None:
    """None where the kernel does not take the layer: many input channels, or odd large strides."""
    channels, inputs, *kernel = weight.shape
    if inputs > 4 or any(s not in (1, 2, 4) for s in stride):
        return None
    spans = []
    for k, s, p in zip(kernel, stride, padding, strict=True):
        # Position offsets d of a cell's pixels u: u + p - s d is a place 0 … k - 1 of the kernel.
        last = (s - 1 + p) // s
        spans.append((last, last + (k - 1 - p) // s + 1))
    (last_row, rows), (last_column, columns) = spans
    slots = triton.next_power_of_2(inputs)
    depth = 32 if roomy and channels > 16 else 16
    depths = triton.cdiv(channels, depth)
    wide = max(16, stride[0] * stride[1] * slots)  # a tensor core's least
    if rows > 5 or wide > 64 or rows * columns * depths > 64:
        return None
    return Shape(last_row, last_column, rows, columns, slots, wide, depth, depths)


def is_roomy(grad: Tensor) -> bool:
    """Whether registers allow the larger shapes: elsewhere Triton 3.6 or cc 80 spills."""
    return grad.element_size() == 2 and channel_is_innermost(grad)
