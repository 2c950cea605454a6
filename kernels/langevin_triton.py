"""The Triton kernel of the Langevin step and its launcher. The op is in langevin.py.

A program owns BLOCK consecutive elements in row-major order, a thread runs of RUN neighbours: 16
bytes in fp32 and bf16, read and written by one instruction, and the very elements whose normals one
or two Philox calls give.
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
from coophash.kernels.langevin import run_reference_out
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


@triton.jit(do_not_specialize=["seed", "step", "chain"])
def langevin_step_kernel(
    x_ptr, grad_ptr, noise_ptr, out_ptr,
    scales_ptr,  # (2,) float32 or None: multiplies grad_scale and noise_scale
    rng_ptr,  # (3,) int64 or None: added to seed, step and chain
    n,
    grad_scale, noise_scale,
    low, high, grad_clip, inverse_variance,  # each a number or None
    seed, step, chain,
    sizes, x_strides, grad_strides, noise_strides, out_strides,  # of 4 each, or None: row-major
    NOISE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    element = start + tl.max_contiguous(tl.arange(0, BLOCK), RUN)
    inside = element < n
    if not WIDE:
        element = element.to(tl.int32)
    x = tl.load(x_ptr + _offset(element, sizes, x_strides), inside).to(tl.float32)
    drift = tl.load(grad_ptr + _offset(element, sizes, grad_strides), inside).to(tl.float32)
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
        moved += noise_scale * philox_normals(start, seed, step, chain, BLOCK, RUN)
    elif NOISE == GIVEN_NOISE:
        noise_offset = _offset(element, sizes, noise_strides)
        moved += noise_scale * tl.load(noise_ptr + noise_offset, inside).to(tl.float32)
    if low is not None:
        moved = tl.maximum(moved, low, propagate_nan=tl.PropagateNan.ALL)
    if high is not None:
        moved = tl.minimum(moved, high, propagate_nan=tl.PropagateNan.ALL)
    out_offset = _offset(element, sizes, out_strides)
    tl.store(out_ptr + out_offset, moved.to(out_ptr.dtype.element_ty), inside)


def launch_shape(n: int, itemsize: int, strided: bool) -> tuple[int, int, int]:
    """(BLOCK, RUN, warps) for n elements of x of so many bytes.

    A thread takes four runs of 128 bits , or one run of four elements where the layout
    has gaps; small tensors go in more, smaller programs. Chosen by instruction and register counts,
    not yet by a measurement.
    """
    run = 8 if itemsize == 2 and not strided else 4
    if interpreting():  # its time goes by programs
        return max(256, min(triton.next_power_of_2(n), 1 << 18)), run, 1
    warps = 4 if n >= 1 << 20 else 1
    return 32 * warps * run * (1 if strided else 4), run, warps


def langevin_step(x: Tensor, grad: Tensor, noise: Tensor | None, *options: Any) -> Tensor:
    """Op `langevin_step` on a device."""
    out = torch.empty_like(x)
    langevin_step_out(x, grad, noise, out, *options)
    return out


def langevin_step_out(
    x: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    out: Tensor,
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
    """Op `langevin_step_out` on a device."""
    n = x.numel()
    if n == 0:
        return
    if x.dtype == torch.float64:  # for checks alone; the kernel computes in float32
        run_reference_out(
            x, grad, noise, out, scales, rng, grad_scale, noise_scale, low, high, grad_clip,
            inverse_variance, *counter,
        )  # fmt: skip
        return
    layout = collapse((x, grad, noise, out))
    if layout is None or any(overlaps_partly(out, t) for t in (x, grad, noise)):
        apart = torch.empty(x.shape, dtype=out.dtype, device=out.device)
        langevin_step_out(
            x.contiguous(), grad.contiguous(), None if noise is None else noise.contiguous(), apart,
            scales, rng, grad_scale, noise_scale, low, high, grad_clip, inverse_variance, *counter,
        )  # fmt: skip
        out.copy_(apart)
        return
    sizes, strides = layout
    drawn = DRAWN_NOISE if noise_scale != 0.0 else NO_NOISE
    kind = drawn if noise is None else GIVEN_NOISE
    block, run, warps = launch_shape(n, x.element_size(), sizes is not None)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        langevin_step_kernel[(triton.cdiv(n, block),)](
            x, grad, noise, out, scales, rng, n, grad_scale, noise_scale,
            low if low > -math.inf else None, high if high < math.inf else None,
            grad_clip if grad_clip < math.inf else None, inverse_variance or None,
            *counter, sizes, *strides,
            NOISE=kind, WIDE=n >= 1 << 31, BLOCK=block, RUN=run, num_warps=warps,
        )  # fmt: skip


def cubin_variants() -> list[Variant]:
    """Of the kernel, as launched on row-major tensors of 2**20 elements or more, and on others."""

    def variant(x: str, grad: str, kind: str, strided: bool = False) -> Variant:
        itemsize = 2 if x == "bf16" else 4
        block, run, warps = launch_shape(1 << 20, itemsize, strided)
        gaps = ("i32",) * 4 if strided else None
        types = {"x_ptr": f"*{x}", "grad_ptr": f"*{grad}", "out_ptr": f"*{x}", "n": "i32"}
        types |= dict.fromkeys(("grad_scale", "noise_scale", "low", "high"), "fp32")
        types |= {"seed": "i64", "step": "i32", "chain": "i32"}
        if kind == "given":
            types["noise_ptr"] = "*fp32"
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
        )

    return [
        variant("fp32", "fp32", "drawn"),
        variant("fp32", "fp32", "captured"),
        variant("fp32", "fp32", "given"),
        variant("fp32", "bf16", "drawn"),
        variant("bf16", "bf16", "drawn"),
        variant("fp32", "fp32", "drawn", strided=True),
    ]
