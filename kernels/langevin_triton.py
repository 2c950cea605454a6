"""The Triton kernel of the Langevin step and its launcher. The op is in langevin.py.

A program owns BLOCK consecutive elements in row-major order, a thread runs of RUN neighbours: 16
bytes in fp32 and bf16, read and written by one instruction, and the very elements whose normals one
or two Philox calls give.

With statistics a program's elements are of one sample, and it writes its share of the sample's sums
beside x'. A second, small kernel adds the shares up in a fixed order: no atomics, so the sums are
reproducible bit for bit.
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

from coophash.kernels._backend import interpreting
from coophash.kernels._layout import collapse, overlaps_partly
from coophash.kernels.cubins import Variant
from coophash.kernels.langevin import empty_statistics, run_reference_out, run_statistics_out
from coophash.kernels.philox_triton import philox_normals

NO_NOISE, DRAWN_NOISE, GIVEN_NOISE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _offset(element, sizes, strides):
    """Memory offset of a row-major element number; element itself where the layout is row-major."""
    if strides is None:
        offset = element
    else:
        i3 = element % sizes[3]
        rest = element // sizes[3]
        i2 = rest % sizes[2]
        rest = rest // sizes[2]
        offset = (
            (rest // sizes[1]).to(tl.int64) * strides[0]
            + (rest % sizes[1]).to(tl.int64) * strides[1]
            + i2.to(tl.int64) * strides[2]
            + i3.to(tl.int64) * strides[3]
        )
    return offset


@triton.jit(do_not_specialize=["seed", "step", "chain", "parts"])
def langevin_step_kernel(
    x_ptr, grad_ptr, noise_ptr, out_ptr,
    scales_ptr,  # (2,) float32 or None: multiplies grad_scale and noise_scale
    rng_ptr,  # (3,) int64 or None: added to seed, step and chain
    sums_ptr, counts_ptr,  # (2, B, parts) for the statistics, or None
    n,
    per_sample, parts,  # elements of a sample, programs for it; None without statistics
    grad_scale, noise_scale,
    low, high, grad_clip, inverse_variance,  # each a number or None
    seed, step, chain,
    sizes, x_strides, grad_strides, noise_strides, out_strides,  # of 4 each, or None: row-major
    NOISE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    if sums_ptr is None:
        start = program * BLOCK
    else:
        # From the run in which the sample begins, since a Philox call serves a whole run.
        begin = program // parts * per_sample
        start = begin // RUN * RUN + program % parts * BLOCK
    element = start + tl.max_contiguous(tl.arange(0, BLOCK), RUN)
    inside = element < n
    if sums_ptr is not None:
        inside = (element >= begin) & (element < begin + per_sample)
    if not WIDE:
        element = element.to(tl.int32)
    x = tl.load(x_ptr + _offset(element, sizes, x_strides), inside).to(tl.float32)
    grad = tl.load(grad_ptr + _offset(element, sizes, grad_strides), inside).to(tl.float32)
    drift = grad
    # Comparisons propagate NaN: it must come out as NaN, not as a bound.
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
        ALIGNED: tl.constexpr = sums_ptr is None
        moved += noise_scale * philox_normals(start, seed, step, chain, BLOCK, RUN, ALIGNED)
    elif NOISE == GIVEN_NOISE:
        noise_offset = _offset(element, sizes, noise_strides)
        moved += noise_scale * tl.load(noise_ptr + noise_offset, inside).to(tl.float32)
    unbounded = moved
    if low is not None:
        moved = tl.maximum(moved, low, propagate_nan=tl.PropagateNan.ALL)
    if high is not None:
        moved = tl.minimum(moved, high, propagate_nan=tl.PropagateNan.ALL)
    out_offset = _offset(element, sizes, out_strides)
    stored = moved.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + out_offset, stored, inside)
    if sums_ptr is not None:
        programs = tl.num_programs(0).to(tl.int64)
        update = stored.to(tl.float32) - x
        tl.store(sums_ptr + program, _total(grad * grad, inside))
        tl.store(sums_ptr + programs + program, _total(update * update, inside))
        clamped = tl.zeros([BLOCK], tl.int1)
        if low is not None:
            clamped = clamped | (unbounded < low)
        if high is not None:
            clamped = clamped | (unbounded > high)
        clipped = tl.zeros([BLOCK], tl.int1)
        if grad_clip is not None:
            clipped = tl.abs(grad) > grad_clip
        tl.store(counts_ptr + program, _total(clamped.to(tl.int32), inside))
        tl.store(counts_ptr + programs + program, _total(clipped.to(tl.int32), inside))


@triton.jit
def _total(values, inside):
    return tl.sum(tl.where(inside, values, 0), axis=0)


@triton.jit
def langevin_statistics_kernel(
    sum_parts_ptr, count_parts_ptr,  # (n, parts) float32 and int32
    sums_ptr, counts_ptr,  # (n,) float32 and int64
    n, parts, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds the shares of each row up, in an order that depends on `parts` alone."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    counts = tl.zeros([ROWS, COLUMNS], tl.int64)
    for first in range(0, parts, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = (row[:, None] < n) & (column[None, :] < parts)
        offset = row[:, None].to(tl.int64) * parts + column[None, :]
        sums += tl.load(sum_parts_ptr + offset, inside, other=0.0)
        counts += tl.load(count_parts_ptr + offset, inside, other=0).to(tl.int64)
    tl.store(sums_ptr + row, tl.sum(sums, axis=1), row < n)
    tl.store(counts_ptr + row, tl.sum(counts, axis=1), row < n)


def launch_shape(n: int, itemsize: int, strided: bool) -> tuple[int, int, int]:
    """(BLOCK, RUN, warps) for n elements of x of so many bytes.

    A thread takes four runs of 128 bits, or one run of four elements where the layout
    has gaps; small tensors go in more, smaller programs. Chosen by instruction and register counts,
    not yet by a measurement.
    """
    run = 8 if itemsize == 2 and not strided else 4
    if interpreting():  # its time goes by programs
        return max(256, min(triton.next_power_of_2(n), 1 << 18)), run, 1
    warps = 4 if n >= 1 << 20 else 1
    return 32 * warps * run * (1 if strided else 4), run, warps


def statistics_shape(
    n: int, per_sample: int, itemsize: int, strided: bool
) -> tuple[int, int, int, int]:
    """(BLOCK, RUN, warps, programs per sample): as `launch_shape`, where a program has one sample.

    The larger programs only where they divide a sample or leave little of themselves idle.
    """
    block, run, warps = launch_shape(n, itemsize, strided)
    if interpreting():
        block = min(triton.next_power_of_2(per_sample + run), block)
    elif per_sample % block and per_sample < 16 * block:
        block, run, warps = launch_shape(0, itemsize, strided)
    # A sample that does not begin with a run reaches into one more.
    reach = per_sample if per_sample % run == 0 else per_sample + run - 1
    return block, run, warps, triton.cdiv(reach, block)


def langevin_step(x: Tensor, grad: Tensor, noise: Tensor | None, *options: Any) -> Tensor:
    """Op `langevin_step` on a device."""
    out = torch.empty_like(x)
    langevin_step_out(x, grad, noise, out, *options)
    return out


def langevin_step_out(
    x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *options: Any
) -> None:
    """Op `langevin_step_out` on a device."""
    if x.dtype == torch.float64:  # for checks alone; the kernel computes in float32
        run_reference_out(x, grad, noise, out, *options)
    elif x.numel():
        _launch(x, grad, noise, out, None, *options)


def langevin_step_statistics(
    x: Tensor, grad: Tensor, noise: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Op `langevin_step_statistics` on a device."""
    out = torch.empty_like(x)
    return out, *langevin_step_statistics_out(x, grad, noise, out, *options)


def langevin_step_statistics_out(
    x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *options: Any
) -> tuple[Tensor, Tensor]:
    """Op `langevin_step_statistics_out` on a device."""
    if x.dtype == torch.float64:
        return run_statistics_out(x, grad, noise, out, *options)
    statistics = empty_statistics(x)
    if x.numel() == 0:
        return statistics[0].zero_(), statistics[1].zero_()
    _launch(x, grad, noise, out, statistics, *options)
    return statistics


def _launch(
    x: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    out: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    scales: Tensor | None,
    rng: Tensor | None,
    grad_scale: float,
    noise_scale: float,
    low: float,
    high: float,
    grad_clip: float,
    inverse_variance: float,
    *counter: int,
) -> None:
    layout = collapse((x, grad, noise, out))
    if layout is None or any(overlaps_partly(out, t) for t in (x, grad, noise)):
        apart = torch.empty(x.shape, dtype=out.dtype, device=out.device)
        _launch(
            x.contiguous(), grad.contiguous(), None if noise is None else noise.contiguous(), apart,
            statistics, scales, rng, grad_scale, noise_scale, low, high, grad_clip,
            inverse_variance, *counter,
        )  # fmt: skip
        out.copy_(apart)
        return
    n, (sizes, strides) = x.numel(), layout
    drawn = DRAWN_NOISE if noise_scale != 0.0 else NO_NOISE
    kind = drawn if noise is None else GIVEN_NOISE
    block, run, warps = launch_shape(n, x.element_size(), sizes is not None)
    programs, per_sample, parts = triton.cdiv(n, block), None, None
    shares: tuple[Tensor | None, Tensor | None] = (None, None)
    if statistics is not None:
        per_sample = n // len(x)
        block, run, warps, parts = statistics_shape(
            n, per_sample, x.element_size(), sizes is not None
        )
        programs, shares = len(x) * parts, statistics
        if parts > 1:
            size = (2, len(x), parts)
            shares = x.new_empty(size, dtype=torch.float32), x.new_empty(size, dtype=torch.int32)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        langevin_step_kernel[(programs,)](
            x, grad, noise, out, scales, rng, *shares, n, per_sample, parts,
            grad_scale, noise_scale,
            low if low > -math.inf else None, high if high < math.inf else None,
            grad_clip if grad_clip < math.inf else None, inverse_variance or None,
            *counter, sizes, *strides,
            NOISE=kind, WIDE=n >= 1 << 31, BLOCK=block, RUN=run, num_warps=warps,
        )  # fmt: skip
        if statistics is not None and parts is not None and parts > 1:
            rows, columns = (1024 if interpreting() else 4), min(128, triton.next_power_of_2(parts))
            langevin_statistics_kernel[(triton.cdiv(2 * len(x), rows),)](
                *shares, *statistics, 2 * len(x), parts, ROWS=rows, COLUMNS=columns, num_warps=1
            )


def cubin_variants() -> list[Variant]:
    """Of the kernel, as launched on row-major tensors of 2**20 elements or more, and on others."""

    def variant(x: str, grad: str, kind: str, strided: bool = False) -> Variant:
        itemsize = 2 if x == "bf16" else 4
        block, run, warps = launch_shape(1 << 20, itemsize, strided)
        if kind == "statistics":  # samples of 3 x 32 x 32
            block, run, warps, _ = statistics_shape(1 << 20, 3072, itemsize, strided)
        gaps = ("i32",) * 4 if strided else None
        types = {"x_ptr": f"*{x}", "grad_ptr": f"*{grad}", "out_ptr": f"*{x}", "n": "i32"}
        types |= dict.fromkeys(("grad_scale", "noise_scale", "low", "high"), "fp32")
        types |= {"seed": "i64", "step": "i32", "chain": "i32"}
        if kind == "given":
            types["noise_ptr"] = "*fp32"
        if kind == "statistics":
            types |= {"sums_ptr": "*fp32", "counts_ptr": "*i32", "grad_clip": "fp32"}
            types |= {"per_sample": "i32", "parts": "i32"}
        if kind == "captured":  # all that the kernel can do
            types |= {"scales_ptr": "*fp32", "rng_ptr": "*i64"}
            types |= {"grad_clip": "fp32", "inverse_variance": "fp32"}
        tuples = dict.fromkeys(("sizes", "x_strides", "grad_strides", "out_strides"), gaps)
        return Variant(
            f"langevin_step {x} {grad} {kind}{' strided' if strided else ''}",
            langevin_step_kernel,
            types | tuples,
            {
                "NOISE": (GIVEN_NOISE if kind == "given" else DRAWN_NOISE).value,
                "WIDE": False,
                "BLOCK": block,
                "RUN": run,
            },
            warps,
            block // (32 * warps),
            aligned=("per_sample",),
        )

    return [
        variant("fp32", "fp32", "drawn"),
        variant("fp32", "fp32", "captured"),
        variant("fp32", "fp32", "given"),
        variant("fp32", "bf16", "drawn"),
        variant("bf16", "bf16", "drawn"),
        variant("fp32", "fp32", "drawn", strided=True),
        variant("fp32", "fp32", "statistics"),
        variant("bf16", "bf16", "statistics"),
        Variant(
            "langevin_statistics",
            langevin_statistics_kernel,
            {"sum_parts_ptr": "*fp32", "count_parts_ptr": "*i32", "sums_ptr": "*fp32"}
            | {"counts_ptr": "*i64", "n": "i32", "parts": "i32"},
            {"ROWS": 4, "COLUMNS": 8},
            1,
            1,
        ),
    ]
