"""The Triton kernel of the first convolution and its launcher. The op is in first_layer.py.

A program owns PIXELS output pixels of one image and CHANNELS of their channels. A thread loads what
its pixels' windows see at one place of the kernel after the other: the place is known when the
kernel is compiled, so a load costs its bounds and little else. Sixteen places make a matrix, which
is multiplied with their weights.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from coophash.kernels import first_layer as op
from coophash.kernels import leaky_relu_triton
from coophash.kernels._backend import interpreting
from coophash.kernels.cubins import Variant
from coophash.kernels.leaky_relu import bits_shape, channel_is_innermost
from coophash.kernels.leaky_relu_triton import pack_last


@triton.jit
def multiply_add(a, b, c, PRECISION: tl.constexpr):
    """a @ b + c in float32; `precision` says how."""
    if PRECISION == "wide":
        c = tl.dot(a.to(tl.float32), b.to(tl.float32), c, input_precision="ieee")
    else:
        c = tl.dot(a, b, c, input_precision=PRECISION)
    return c


@triton.jit
def _tap(
    place,
    TAP: tl.constexpr, INPUTS: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
):  # fmt: skip
    """What the window of each output pixel sees at one place: (PIXELS,), 0 outside the image."""
    x_ptr, corner, top, left, height, width, x_channel, x_row, x_column = place
    C: tl.constexpr = TAP // (KERNEL_H * KERNEL_W)
    ROW: tl.constexpr = TAP // KERNEL_W % KERNEL_H
    COLUMN: tl.constexpr = TAP % KERNEL_W
    if C < INPUTS:
        row, column = top + ROW, left + COLUMN
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = corner + (C * x_channel + ROW * x_row + COLUMN * x_column)
        seen = tl.load(x_ptr + at, inside, other=0.0)
    else:
        seen = (corner * 0).to(x_ptr.dtype.element_ty)
    return seen


@triton.jit
def _four_taps(
    place,
    FIRST: tl.constexpr, INPUTS: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
):  # fmt: skip
    """Taps FIRST, FIRST + 4, + 8, + 12: (PIXELS, 2, 2)."""
    a = _tap(place, FIRST, INPUTS, KERNEL_H, KERNEL_W)
    b = _tap(place, FIRST + 4, INPUTS, KERNEL_H, KERNEL_W)
    c = _tap(place, FIRST + 8, INPUTS, KERNEL_H, KERNEL_W)
    d = _tap(place, FIRST + 12, INPUTS, KERNEL_H, KERNEL_W)
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def first_conv_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, bits_ptr,
    tiles, pixels, out_width, height, width, channels, vectors,
    x_batch, x_channel, x_row, x_column,
    slope,
    INPUTS: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    BY_CHANNEL: tl.constexpr, VECTOR: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    TAPS: tl.constexpr = INPUTS * KERNEL_H * KERNEL_W
    unit = vectors * VECTOR  # channels or pixels
    if BY_CHANNEL:
        channels = unit
    else:
        pixels = unit
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    top = pixel // out_width * STRIDE_H - PAD_H
    left = pixel % out_width * STRIDE_W - PAD_W
    x_ptr += sample * x_batch
    corner = top * x_row + left * x_column
    place = (x_ptr, corner, top, left, height, width, x_channel, x_row, x_column)
    z = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for first in tl.static_range(0, TAPS, 16):
        a = _four_taps(place, first, INPUTS, KERNEL_H, KERNEL_W)
        b = _four_taps(place, first + 1, INPUTS, KERNEL_H, KERNEL_W)
        c = _four_taps(place, first + 2, INPUTS, KERNEL_H, KERNEL_W)
        d = _four_taps(place, first + 3, INPUTS, KERNEL_H, KERNEL_W)
        patch = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (PIXELS, 16))
        tap = first + tl.arange(0, 16)
        # No change; but for cc 100 Triton 3.7 fails on a product of a reshaped matrix.
        patch = tl.where((tap < TAPS)[None, :], patch, 0.0)
        weight = tl.load(
            weight_ptr + channel[None, :] * TAPS + tap[:, None],
            (channel < channels)[None, :] & (tap < TAPS)[:, None],
            other=0.0,
        )
        z = multiply_add(patch, weight, z, PRECISION)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + channel, channel < channels, other=0.0).to(tl.float32)[None, :]
    if BY_CHANNEL:
        positive = z > 0
        y = tl.where(positive, z, z * slope).to(y_ptr.dtype.element_ty)
        inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        at = pixel[:, None] * channels + channel[None, :]
        tl.store(y_ptr + sample * pixels * channels + at, y, inside)
        stride = (channels + 7) // 8
        byte = tl.program_id(1) * (CHANNELS // 8) + tl.arange(0, CHANNELS // 8)
        packed = pack_last(positive & inside, PIXELS, CHANNELS)
        owned = (pixel < pixels)[:, None] & (byte < stride)[None, :]
        at = sample * pixels * stride + pixel[:, None] * stride + byte[None, :]
        tl.store(bits_ptr + at, packed, owned)
    else:
        # Transposed first, so that the bytes of a plane lie in the last axis here too.
        z = tl.trans(z)
        positive = z > 0
        y = tl.where(positive, z, z * slope).to(y_ptr.dtype.element_ty)
        inside = (channel < channels)[:, None] & (pixel < pixels)[None, :]
        plane = sample * channels + channel
        tl.store(y_ptr + plane[:, None] * pixels + pixel[None, :], y, inside)
        stride = (pixels + 7) // 8
        byte = tile * (PIXELS // 8) + tl.arange(0, PIXELS // 8)
        packed = pack_last(positive & inside, CHANNELS, PIXELS)
        owned = (channel < channels)[:, None] & (byte < stride)[None, :]
        tl.store(bits_ptr + plane[:, None] * stride + byte[None, :], packed, owned)


def precision(dtype: torch.dtype) -> str:
    """How matrices of this dtype are multiplied: float32 as three products of TF32.

    Of hi + lo halves, all but lo · lo: as exact as float32 up to about 2**-22 of a product. Not
    "ieee", of which Triton 3.7 makes one product of TF32, without a word, for cc 100.
    """
    if dtype == torch.float32:
        return "tf32x3"
    return "wide" if interpreting() else "ieee"  # the interpreter takes bfloat16 for integers


def launch_shape(pixels: int, channels: int) -> tuple[int, int, int]:
    """(PIXELS, CHANNELS, warps): 32 results a thread.

    Chosen by instruction and register counts, not yet by a measurement.
    """
    wide = max(16, min(32, triton.next_power_of_2(channels)))
    if interpreting():  # its time goes by programs
        return (
            max(16, min(4096, triton.next_power_of_2(pixels))),
            max(16, triton.next_power_of_2(channels)),
            1,
        )
    high = max(64, min(256, triton.next_power_of_2(pixels)))
    return high, wide, high // 32


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes this layer; the unrolled kernel grows with the window."""
    few = x.shape[1] <= 4 and weight[0].numel() <= 256
    # Offsets inside an image have 32 bits.
    reach = sum((n - 1) * s for n, s in zip(x.shape[1:], x.stride()[1:], strict=True))
    return few and reach < 1 << 30 and weight.shape[0] * x[0, 0].numel() < 1 << 30


def first_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float,
    stride: list[int],
    padding: list[int],
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Op `first_conv` on a device."""
    if x.dtype == torch.float64:  # for checks alone; the kernel computes in float32
        return op.run_reference(x, weight, bias, slope, stride, padding, channels_last)
    y = op.empty_output(x, weight, stride, padding, channels_last)
    bits = torch.empty(bits_shape(y), dtype=torch.uint8, device=x.device)
    if y.numel() == 0:
        return y, bits
    if not fits(x, weight):
        z = F.conv2d(x, weight, None, stride, padding)
        z = z.contiguous(memory_format=op.memory_format(channels_last))
        return leaky_relu_triton.bias_leaky_relu(z, bias, slope)
    batch, channels, rows, columns = y.shape
    pixels, by_channel = rows * columns, channel_is_innermost(y)
    unit = channels if by_channel else pixels
    vector = math.gcd(unit, 16)
    high, wide, warps = launch_shape(pixels, channels)
    tiles = triton.cdiv(pixels, high)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        first_conv_kernel[(batch * tiles, triton.cdiv(channels, wide))](
            x, weight.contiguous(), None if bias is None else bias.contiguous(), y, bits,
            tiles, pixels, columns, x.shape[2], x.shape[3], channels, unit // vector, *x.stride(),
            slope,
            INPUTS=x.shape[1], KERNEL_H=weight.shape[2], KERNEL_W=weight.shape[3],
            STRIDE_H=stride[0], STRIDE_W=stride[1], PAD_H=padding[0], PAD_W=padding[1],
            BY_CHANNEL=by_channel, VECTOR=vector, PRECISION=precision(x.dtype),
            PIXELS=high, CHANNELS=wide, num_warps=warps,
        )  # fmt: skip
    return y, bits


def cubin_variants() -> list[Variant]:
    """The descriptor's first layer: 5 x 5 from 3 channels to 32, stride 2."""

    def variant(dtype: str, inputs: int, last: bool) -> Variant:
        high, wide, warps = launch_shape(256, 32)
        types = {name: f"*{dtype}" for name in ("x_ptr", "weight_ptr", "y_ptr")}
        types |= {"bias_ptr": "*fp32", "bits_ptr": "*u8", "slope": "fp32"}
        integers = "tiles pixels out_width height width channels vectors x_batch x_channel x_row"
        types |= dict.fromkeys(integers.split(), "i32")
        constants = {
            "INPUTS": inputs, "KERNEL_H": 5, "KERNEL_W": 5, "STRIDE_H": 2, "STRIDE_W": 2,
            "PAD_H": 2, "PAD_W": 2, "BY_CHANNEL": last, "VECTOR": 16,
            "PRECISION": precision(torch.float32 if dtype == "fp32" else torch.bfloat16),
            "PIXELS": high, "CHANNELS": wide, "x_column": 1,
        }  # fmt: skip
        return Variant(
            f"first_conv {dtype} {inputs} {'channels_last' if last else 'row-major'}",
            first_conv_kernel, types, constants, warps, high * wide // (32 * warps),
        )  # fmt: skip

    return [
        variant("fp32", 3, False),
        variant("fp32", 3, True),
        variant("bf16", 3, True),
    ]
