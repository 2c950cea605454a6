"""The Triton kernel of the Langevin step and its launcher. The op is in langevin.py.

A program owns BLOCK consecutive elements in row-major order. Each of its Philox calls feeds four
elements that stand RUN apart, so each of the four runs is read, updated and written with 128-bit
accesses and nothing is shuffled between threads.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels._backend import interpreting
from coophash.kernels._layout import collapse, overlaps_partly
from coophash.kernels.langevin import run_reference_out
from coophash.kernels.philox_triton import RUN, first_elements, philox_normals

NO_NOISE, DRAWN_NOISE, GIVEN_NOISE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _offset(element, sizes, strides):
    """Memory offset of a row-major element number; element itself where the layout is row-major."""
    if strides is None:
        return element
    i3 = element % sizes[3]
    rest = element // sizes[3]
    i2 = rest % sizes[2]
    rest = rest // sizes[2]
    i1 = rest % sizes[1]
    i0 = rest // sizes[1]
    return (
        i0.to(tl.int64) * strides[0]
        + i1.to(tl.int64) * strides[1]
        + i2.to(tl.int64) * strides[2]
        + i3.to(tl.int64) * strides[3]
    )


@triton.jit
def _update(
    x_ptr, grad_ptr, noise_ptr, out_ptr, start, local, n, epsilon,
    grad_scale, noise_scale, low, high, grad_clip, inverse_variance,
    sizes, x_strides, grad_strides, noise_strides, out_strides,
    NOISE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    element = start + local
    inside = element < n
    if not WIDE:
        element = element.to(tl.int32)
    x = tl.load(x_ptr + _offset(element, sizes, x_strides), inside).to(tl.float32)
    grad = tl.load(grad_ptr + _offset(element, sizes, grad_strides), inside).to(tl.float32)
    # A NaN must come out as NaN, not as a bound.
    drift = tl.clamp(grad, -grad_clip, grad_clip, propagate_nan=tl.PropagateNan.ALL)
    drift += inverse_variance * x
    moved = x - grad_scale * drift
    if NOISE == GIVEN_NOISE:
        noise_offset = _offset(element, sizes, noise_strides)
        epsilon = tl.load(noise_ptr + noise_offset, inside).to(tl.float32)
    if NOISE != NO_NOISE:
        moved += noise_scale * epsilon
    moved = tl.clamp(moved, low, high, propagate_nan=tl.PropagateNan.ALL)
    tl.store(
        out_ptr + _offset(element, sizes, out_strides),
        moved.to(out_ptr.dtype.element_ty),
        inside,
    )


@triton.jit(do_not_specialize=["seed", "step", "chain"])
def langevin_step_kernel(
    x_ptr, grad_ptr, noise_ptr, out_ptr,
    scales_ptr,  # (2,) float32 or None: multiplies grad_scale and noise_scale
    rng_ptr,  # (3,) int64 or None: added to seed, step and chain
    n,
    grad_scale, noise_scale, low, high, grad_clip, inverse_variance,
    seed, step, chain,
    sizes, x_strides, grad_strides, noise_strides, out_strides,  # of 4 each, or None: row-major
    NOISE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    first = first_elements(BLOCK // 4)
    if scales_ptr is not None:
        grad_scale *= tl.load(scales_ptr)
        noise_scale *= tl.load(scales_ptr + 1)
    e0, e1, e2, e3 = 0.0, 0.0, 0.0, 0.0
    if NOISE == DRAWN_NOISE:
        seed, step, chain = seed.to(tl.int64), step.to(tl.int64), chain.to(tl.int64)
        if rng_ptr is not None:
            seed += tl.load(rng_ptr)
            step += tl.load(rng_ptr + 1)
            chain += tl.load(rng_ptr + 2)
        e0, e1, e2, e3 = philox_normals(start, first, seed, step, chain)
    for j in tl.static_range(4):
        _update(
            x_ptr, grad_ptr, noise_ptr, out_ptr, start, first + j * RUN, n, (e0, e1, e2, e3)[j],
            grad_scale, noise_scale, low, high, grad_clip, inverse_variance,
            sizes, x_strides, grad_strides, noise_strides, out_strides,
            NOISE, WIDE,
        )  # fmt: skip


def launch_shape(n: int, bytes_per_element: int) -> tuple[int, int]:
    """(BLOCK, warps): 128 bits of each run per thread; small tensors in more, smaller programs."""
    if interpreting():  # its time goes by programs
        return max(256, min(triton.next_power_of_2(n), 1 << 18)), 1
    per_thread = 4 * 16 // bytes_per_element
    warps = 4 if n >= 1 << 20 else 1
    return 32 * warps * per_thread, warps


def langevin_step(x: Tensor, grad: Tensor, noise: Tensor | None, *options: Any) -> Tensor:
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
    *rest: Any,
) -> None:
    n = x.numel()
    if n == 0:
        return
    if x.dtype == torch.float64:  # for checks; the kernel computes in float32
        run_reference_out(x, grad, noise, out, scales, rng, grad_scale, noise_scale, *rest)
        return
    layout = collapse((x, grad, noise, out))
    if layout is None or any(overlaps_partly(out, t) for t in (x, grad, noise)):
        x, grad = x.contiguous(), grad.contiguous()
        noise = None if noise is None else noise.contiguous()
        apart = torch.empty(x.shape, dtype=out.dtype, device=out.device)
        langevin_step_out(x, grad, noise, apart, scales, rng, grad_scale, noise_scale, *rest)
        out.copy_(apart)
        return
    sizes, strides = layout
    if noise is not None:
        kind = GIVEN_NOISE
    else:
        kind = DRAWN_NOISE if noise_scale != 0.0 else NO_NOISE
    block, warps = launch_shape(n, x.element_size())
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        langevin_step_kernel[(triton.cdiv(n, block),)](
            x, grad, noise, out, scales, rng, n, grad_scale, noise_scale, *rest, sizes, *strides,
            NOISE=kind, WIDE=n >= 1 << 31, BLOCK=block, num_warps=warps,
        )  # fmt: skip
