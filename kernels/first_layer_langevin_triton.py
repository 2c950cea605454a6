"""The Triton kernel of the first layer's input gradient with the Langevin step in it.

The transposed convolution is computed per cell, the STRIDE_H x STRIDE_W input pixels over one
output position: a cell's gradient is a sum over the positions near it of (their masked gradients) x
(a window of the weights), a product of (cells, channels) by (channels, pixels of a cell · inputs).
A program owns CELLS neighbours in their row, and walks down the rows. Each row of positions is read
once a column offset and added to every row of cells that it reaches, which wait in accumulators; a
row of cells that no later position reaches is finished, takes its Langevin step and leaves.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels import first_layer_langevin as op
from coophash.kernels import langevin_triton
from coophash.kernels._backend import interpreting
from coophash.kernels._layout import overlaps_partly
from coophash.kernels.cubins import Variant
from coophash.kernels.first_layer import run_input_grad_reference
from coophash.kernels.first_layer_backward_triton import (
    Shape,
    is_roomy,
    layer_shape,
    masked_gradient,
    pack_windows_kernel,
)
from coophash.kernels.first_layer_triton import multiply_add, precision
from coophash.kernels.leaky_relu import as_bits, channel_is_innermost
from coophash.kernels.philox_triton import _four_normals

NO_STEP, NO_NOISE, DRAWN_NOISE, GIVEN_NOISE = (tl.constexpr(i) for i in range(4))


@triton.jit
def _at(sample, c, h, w, height, width, strides, INPUTS: tl.constexpr):
    """Memory offset of (sample, c, h, w); strides of 4, or None: row-major."""
    if strides is None:
        at = sample * (INPUTS * height * width) + ((c * height + h) * width + w)
    else:
        at = sample * strides[0] + (c * strides[1] + h * strides[2] + w * strides[3])
    return at


@triton.jit
def _finish(
    cells, x_ptr, noise_ptr, out_ptr, input_grad_ptr, scales_ptr, rng_ptr,
    cell, cells_w, row, samples, height, width,
    grad_scale, noise_scale, low, high, grad_clip, inverse_variance, seed, step, chain,
    x_strides, noise_strides, out_strides, input_grad_strides,
    NOISE: tl.constexpr, ALIGNED: tl.constexpr, INPUTS: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, SLOTS: tl.constexpr, WIDE: tl.constexpr,
    CELLS: tl.constexpr,
):  # fmt: skip
    """The Langevin step of one row of cells, whose gradients are (CELLS, WIDE)."""
    # To rows of neighbours in memory: (pixel row, input) x (cell, pixel column).
    LINES: tl.constexpr = STRIDE_H * SLOTS
    ALONG: tl.constexpr = CELLS * STRIDE_W
    if WIDE > LINES * STRIDE_W:  # the columns that a tensor core wants and the layer does not
        cells = tl.sum(tl.reshape(cells, (CELLS, WIDE // (LINES * STRIDE_W), LINES * STRIDE_W)), 1)
    spread = tl.reshape(cells, (CELLS, STRIDE_H, STRIDE_W, SLOTS))
    grad = tl.reshape(tl.permute(spread, (1, 3, 0, 2)), (LINES, ALONG))
    line = tl.arange(0, LINES)
    h = (row * STRIDE_H + line // SLOTS)[:, None]
    c = (line % SLOTS)[:, None]
    padded = cells_w * STRIDE_W
    along = cell * STRIDE_W + tl.arange(0, ALONG)
    w = (along % padded)[None, :]
    sample = (along // padded)[None, :]
    inside = (h < height) & (c < INPUTS) & (w < width) & (sample < samples)
    sample = sample.to(tl.int64)
    if input_grad_ptr is not None:
        at = _at(sample, c, h, w, height, width, input_grad_strides, INPUTS)
        tl.store(input_grad_ptr + at, grad.to(input_grad_ptr.dtype.element_ty), inside)
    if NOISE != NO_STEP:
        at = _at(sample, c, h, w, height, width, x_strides, INPUTS)
        x = tl.load(x_ptr + at, inside, other=0.0).to(tl.float32)
        drift = grad
        if grad_clip is not None:
            drift = tl.clamp(drift, -grad_clip, grad_clip, propagate_nan=tl.PropagateNan.ALL)
        if inverse_variance is not None:
            drift += inverse_variance * x
        if scales_ptr is not None:
            grad_scale *= tl.load(scales_ptr)
            noise_scale *= tl.load(scales_ptr + 1)
        moved = x - grad_scale * drift
        if NOISE == DRAWN_NOISE:
            seed, step, chain = seed.to(tl.int64), step.to(tl.int64), chain.to(tl.int64)
            if rng_ptr is not None:
                seed += tl.load(rng_ptr)
                step += tl.load(rng_ptr + 1)
                chain += tl.load(rng_ptr + 2)
            if ALIGNED:  # rows of whole fours: a Philox call serves four neighbours here
                four = cell * STRIDE_W + 4 * tl.arange(0, ALONG // 4)
                w4 = (four % padded)[None, :]
                sample4 = (four // padded).to(tl.int64)[None, :]
                element = _at(sample4, c, h, w4, height, width, None, INPUTS)
                none = (element * 0).to(tl.uint32)
                e0, e1, e2, e3 = _four_normals(element, none, seed, step, chain, True)
                noise = tl.reshape(tl.join(tl.join(e0, e2), tl.join(e1, e3)), (LINES, ALONG))
            else:
                element = _at(sample, c, h, w, height, width, None, INPUTS)
                none = (element * 0).to(tl.uint32)
                e0, e1, e2, e3 = _four_normals(element // 4 * 4, none, seed, step, chain, True)
                number = element % 4
                first, second = tl.where(number == 0, e0, e1), tl.where(number == 2, e2, e3)
                noise = tl.where(number < 2, first, second)
            moved += noise_scale * noise
        elif NOISE == GIVEN_NOISE:
            at = _at(sample, c, h, w, height, width, noise_strides, INPUTS)
            moved += noise_scale * tl.load(noise_ptr + at, inside, other=0.0).to(tl.float32)
        if low is not None:
            moved = tl.maximum(moved, low, propagate_nan=tl.PropagateNan.ALL)
        if high is not None:
            moved = tl.minimum(moved, high, propagate_nan=tl.PropagateNan.ALL)
        at = _at(sample, c, h, w, height, width, out_strides, INPUTS)
        tl.store(out_ptr + at, moved.to(out_ptr.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["seed", "step", "chain"])
def first_conv_langevin_kernel(
    x_ptr, grad_ptr, bits_ptr, windows_ptr, noise_ptr, out_ptr, input_grad_ptr,
    scales_ptr, rng_ptr,
    samples, height, quads, cells_h, cells_w, positions_h, positions_w, bit_row, cell_rows,
    slope,
    grad_scale, noise_scale, low, high, grad_clip, inverse_variance, seed, step, chain,
    x_strides, noise_strides, out_strides, input_grad_strides,
    NOISE: tl.constexpr, ALIGNED: tl.constexpr, BY_CHANNEL: tl.constexpr, PRECISION: tl.constexpr,
    INPUTS: tl.constexpr, CHANNELS: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    LAST_ROW: tl.constexpr, LAST_COLUMN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SLOTS: tl.constexpr, WIDE: tl.constexpr, DEPTH: tl.constexpr, DEPTHS: tl.constexpr,
    CELLS: tl.constexpr,
):  # fmt: skip
    # With whole fours in a row the compiler sees a multiple of 4, and so the alignment.
    width = quads * 4 if ALIGNED else quads
    if ALIGNED:
        cells_w = width // STRIDE_W
    first_row = tl.program_id(1) * cell_rows
    cell = tl.program_id(0) * CELLS
    each = cell + tl.arange(0, CELLS)
    column = each % cells_w
    sample = each // cells_w
    sample = tl.where(sample < samples, sample, -1)
    zero = tl.zeros((CELLS, WIDE), tl.float32)
    a0, a1, a2, a3, a4 = zero, zero, zero, zero, zero
    window = tl.arange(0, DEPTH)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    SIZE: tl.constexpr = DEPTH * WIDE
    for line in range(cell_rows + ROWS - 1):
        row = first_row + line + (LAST_ROW - ROWS + 1)
        for k in tl.static_range(COLUMNS):
            for part in tl.static_range(DEPTHS):
                g = masked_gradient(
                    grad_ptr, bits_ptr, sample, row, column + (LAST_COLUMN - k),
                    positions_h, positions_w, bit_row, slope,
                    part * DEPTH, CHANNELS, BY_CHANNEL, CELLS, DEPTH,
                )  # fmt: skip
                at = windows_ptr + (k * DEPTHS + part) * SIZE + window
                a0 = multiply_add(g, tl.load(at), a0, PRECISION)
                if ROWS > 1:
                    at += COLUMNS * DEPTHS * SIZE
                    a1 = multiply_add(g, tl.load(at), a1, PRECISION)
                if ROWS > 2:
                    at += COLUMNS * DEPTHS * SIZE
                    a2 = multiply_add(g, tl.load(at), a2, PRECISION)
                if ROWS > 3:
                    at += COLUMNS * DEPTHS * SIZE
                    a3 = multiply_add(g, tl.load(at), a3, PRECISION)
                if ROWS > 4:
                    at += COLUMNS * DEPTHS * SIZE
                    a4 = multiply_add(g, tl.load(at), a4, PRECISION)
        done = row - LAST_ROW
        if (done >= first_row) & (done < cells_h):
            _finish(
                a0, x_ptr, noise_ptr, out_ptr, input_grad_ptr, scales_ptr, rng_ptr,
                cell, cells_w, done, samples, height, width,
                grad_scale, noise_scale, low, high, grad_clip, inverse_variance, seed, step, chain,
                x_strides, noise_strides, out_strides, input_grad_strides,
                NOISE, ALIGNED, INPUTS, STRIDE_H, STRIDE_W, SLOTS, WIDE, CELLS,
            )  # fmt: skip
        a0, a1, a2, a3, a4 = a1, a2, a3, a4, zero


def launch_shape(roomy: bool, wide: int) -> tuple[int, int]:
    """(CELLS, warps), by instruction and register counts, not yet by a measurement."""
    if interpreting():  # its time goes by programs
        return 128, 1
    return (128 if roomy and wide == 16 else 64), 4


def _launch(
    x: Tensor | None,
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    noise: Tensor | None,
    out: Tensor | None,
    input_grad: Tensor | None,
    size: tuple[int, int, int, int],
    slope: float,
    stride: list[int],
    shape: Shape,
    padding: list[int],
    scales: Tensor | None = None,
    rng: Tensor | None = None,
    grad_scale: float = 0.0,
    noise_scale: float = 0.0,
    low: float = -math.inf,
    high: float = math.inf,
    grad_clip: float = math.inf,
    inverse_variance: float = 0.0,
    seed: int = 0,
    step: int = 0,
    chain: int = 0,
) -> None:
    bits = bits.contiguous()
    samples, inputs, height, width = size
    positions_h, positions_w = grad.shape[2:]
    cells_h, cells_w = triton.cdiv(height, stride[0]), triton.cdiv(width, stride[1])
    cells, warps = launch_shape(is_roomy(grad), shape.wide)
    programs = triton.cdiv(samples * cells_w, cells)
    # Rows of positions at the seam of two programs are read by both: few programs a column where
    # the columns alone fill the device, more where they do not.
    cell_rows = max(1, min(cells_h, cells_h * programs // 512)) if not interpreting() else cells_h
    kind = NO_STEP
    if x is not None:
        drawn = DRAWN_NOISE if noise_scale != 0.0 else NO_NOISE
        kind = drawn if noise is None else GIVEN_NOISE
    aligned = width % 4 == 0
    count = shape.rows * shape.columns * shape.depths * shape.depth * shape.wide
    windows = torch.empty(count, dtype=grad.dtype, device=grad.device)
    strides = [None if t is None or t.is_contiguous() else t.stride() for t in
               (x, noise, out, input_grad)]  # fmt: skip
    block = 1 << 16 if interpreting() else 1024
    with torch.cuda.device(grad.device) if grad.is_cuda else contextlib.nullcontext():
        pack_windows_kernel[(triton.cdiv(count, block),)](
            weight.contiguous(), windows, count,
            CHANNELS=weight.shape[0], INPUTS=inputs,
            KERNEL_H=weight.shape[2], KERNEL_W=weight.shape[3],
            STRIDE_H=stride[0], STRIDE_W=stride[1], PAD_H=padding[0], PAD_W=padding[1],
            LAST_ROW=shape.last_row, LAST_COLUMN=shape.last_column, COLUMNS=shape.columns,
            DEPTH=shape.depth, DEPTHS=shape.depths, WIDE=shape.wide, SLOTS=shape.slots,
            BLOCK=block,
        )  # fmt: skip
        first_conv_langevin_kernel[(programs, triton.cdiv(cells_h, cell_rows))](
            x, grad, bits, windows, noise, out, input_grad, scales, rng,
            samples, height, width // 4 if aligned else width, cells_h, cells_w,
            positions_h, positions_w, bits.shape[-1], cell_rows, slope,
            grad_scale, noise_scale,
            low if low > -math.inf else None, high if high < math.inf else None,
            grad_clip if grad_clip < math.inf else None, inverse_variance or None,
            seed, step, chain, *strides,
            NOISE=kind, ALIGNED=aligned, BY_CHANNEL=channel_is_innermost(grad),
            PRECISION=precision(grad.dtype),
            INPUTS=inputs, CHANNELS=weight.shape[0], STRIDE_H=stride[0], STRIDE_W=stride[1],
            LAST_ROW=shape.last_row, LAST_COLUMN=shape.last_column,
            ROWS=shape.rows, COLUMNS=shape.columns, SLOTS=shape.slots, WIDE=shape.wide,
            DEPTH=shape.depth, DEPTHS=shape.depths, CELLS=cells,
            num_warps=warps, num_stages=1,
        )  # fmt: skip


def _small(grad: Tensor, size: tuple[int, ...], *strided: Tensor | None) -> bool:
    """Cells and offsets inside a sample are counted in 32 bits, in tensors of any strides too."""
    for t in strided:
        if t is not None:
            reach = sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True))
            if reach >= 1 << 30:
                return False
    return (
        math.prod(size[1:]) < 1 << 30
        and size[0] * size[3] < 1 << 30
        and (grad[:1].numel() < 1 << 30)
    )


def first_conv_input_grad(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    slope: float,
    stride: list[int],
    padding: list[int],
    size: list[int],
) -> Tensor:
    """Op `first_conv_input_grad` on a device."""
    whole = (grad.shape[0], weight.shape[1], size[0], size[1])
    grad = as_bits(grad, bits)
    shape = layer_shape(weight, is_roomy(grad), stride, padding)
    if shape is None or grad.dtype == torch.float64 or 0 in whole or not _small(grad, whole):
        return run_input_grad_reference(grad, bits, weight, slope, stride, padding, size)
    found = torch.empty(whole, dtype=torch.float32, device=grad.device)
    _launch(None, grad, bits, weight, None, None, found, whole, slope, stride, shape, padding)
    return found


def first_conv_langevin(
    x: Tensor, grad: Tensor, bits: Tensor, weight: Tensor, noise: Tensor | None, *rest: Any
) -> Tensor:
    """Op `first_conv_langevin` on a device."""
    out = torch.empty_like(x)
    first_conv_langevin_out(x, grad, bits, weight, noise, out, None, *rest)
    return out


def first_conv_langevin_out(
    x: Tensor,
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    noise: Tensor | None,
    out: Tensor,
    input_grad: Tensor | None,
    slope: float,
    stride: list[int],
    padding: list[int],
    *options: Any,
) -> None:
    """Op `first_conv_langevin_out` on a device."""
    grad = as_bits(grad, bits)
    shape = layer_shape(weight, is_roomy(grad), stride, padding)
    if torch.float64 in (x.dtype, grad.dtype):  # for checks alone
        op.run_reference_out(
            x, grad, bits, weight, noise, out, input_grad, slope, stride, padding, *options
        )
    elif x.numel() == 0:
        return
    elif (
        shape is None
        or not _small(grad, x.shape, x, noise, out, input_grad)
        or any(overlaps_partly(out, t) for t in (x, noise))
    ):
        found = first_conv_input_grad(grad, bits, weight, slope, stride, padding, list(x.shape[2:]))
        if input_grad is not None:
            input_grad.copy_(found)
        langevin_triton.langevin_step_out(x, found, noise, out, *options)
    else:
        _launch(
            x, grad, bits, weight, noise, out, input_grad, tuple(x.shape), slope, stride, shape,
            padding, *options,
        )  # fmt: skip


def cubin_variants() -> list[Variant]:
    """The descriptor's first layer: 5 x 5 from 3 or 1 channels to 32, stride 2."""

    def variant(dtype: str, inputs: int, last: bool) -> Variant:
        weight = torch.empty(32, inputs, 5, 5, device="meta")
        kind = torch.float32 if dtype == "fp32" else torch.bfloat16
        roomy = dtype == "bf16" and last
        shape = layer_shape(weight, roomy, [2, 2], [2, 2])
        assert shape is not None
        cells, warps = launch_shape(roomy, shape.wide)
        types = {"x_ptr": "*fp32", "out_ptr": "*fp32", "bits_ptr": "*u8"}
        types |= {name: f"*{dtype}" for name in ("grad_ptr", "windows_ptr")}
        integers = "samples height quads cells_h cells_w positions_h positions_w bit_row cell_rows"
        types |= dict.fromkeys(integers.split(), "i32")
        numbers = ("slope", "grad_scale", "noise_scale", "low", "high")
        types |= dict.fromkeys(numbers, "fp32") | {"seed": "i64", "step": "i32", "chain": "i32"}
        constants = {
            "NOISE": DRAWN_NOISE.value, "ALIGNED": True, "BY_CHANNEL": last,
            "PRECISION": precision(kind), "INPUTS": inputs, "CHANNELS": 32,
            "STRIDE_H": 2, "STRIDE_W": 2, "CELLS": cells,
        }  # fmt: skip
        constants |= {name.upper(): value for name, value in shape._asdict().items()}
        return Variant(
            f"first_conv_langevin {dtype} {inputs} {'channels_last' if last else 'row-major'}",
            first_conv_langevin_kernel, types, constants, warps,
            cells * 4 * inputs / (32 * warps), stages=1,
        )  # fmt: skip

    return [
        variant("fp32", 3, True),
        variant("bf16", 3, False),
        variant("bf16", 3, True),
        variant("bf16", 1, True),
    ]
