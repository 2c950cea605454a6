"""One Langevin step, fused:  x' = clamp(x - a · drift + b · ε),  ε ~ N(0, I).

CoopHash Eq. 6 is a = δ²/2, b = δ; training uses a and b of its own (drift and noise decoupled), so
the op takes both. The drift is the energy's gradient, optionally clipped, plus x / σ² where the
energy stands on a Gaussian reference N(0, σ² I). Noise is drawn in the kernel by Philox
(`philox.py`), or given as a tensor.

Traffic: x and grad read, x' written: 12 bytes per element in fp32, against 52 for the eager line.
With statistics=True the same pass also sums up, per sample, what one watches in a chain: 16 more
bytes a sample, and none where it is not asked for.
The Triton kernel is in langevin_triton.py; the derivation and a byte count in kernels/README.md.
Check it, time it: pytest tests/kernels/test_langevin.py && pytest benchmarks/bench_langevin.py
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from coophash.kernels._langevin_arguments import (
    Integer,
    bounds,
    check_tensor,
    counter,
    positive,
    scale_pair,
)
from coophash.kernels._library import register
from coophash.kernels.philox import philox_normal

_MASK_32, _MASK_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class LangevinStatistics(NamedTuple):
    """What a step did to each of the B samples, each (B,).

    The square root of `grad_square` is the gradient norm by which a diverging or a dead energy
    shows; grad_scale² · grad_square beside noise_scale² · elements is drift against noise;
    `update_square` is how far the sample really moved, with noise and bounds, which cannot be had
    afterwards from a step in place.

    Attributes:
        grad_square: sum of grad², as given: before the clip and without the reference term.
            float32; float64 for float64 x.
        update_square: sum of (x' - x)², x' as stored. dtype as grad_square.
        clamped: number of elements that `clamp` stopped at a bound; int64. NaN is not counted.
        clipped: number of elements of grad beyond ± grad_clip; int64.
    """

    grad_square: Tensor
    update_square: Tensor
    clamped: Tensor
    clipped: Tensor


def langevin_step_reference(
    x: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    grad_scale: float | Tensor,
    noise_scale: float | Tensor,
    low: float = -math.inf,
    high: float = math.inf,
    grad_clip: float = math.inf,
    inverse_variance: float = 0.0,
) -> Tensor:
    """The step in plain PyTorch: the truth of the tests, the CPU path, a provider in the benchmark.

    Computes in float32 (float64 for float64 x) and returns the dtype of x. Differentiable.
    """
    moved = _unbounded(x, grad, noise, grad_scale, noise_scale, grad_clip, inverse_variance)
    if low > -math.inf or high < math.inf:
        moved = moved.clamp(low, high)
    return moved.to(x.dtype)


def langevin_statistics_reference(
    x: Tensor,
    grad: Tensor,
    unbounded: Tensor,
    moved: Tensor,
    low: float,
    high: float,
    grad_clip: float,
) -> tuple[Tensor, Tensor]:
    """Sums (2, B) and counts (2, B) of `LangevinStatistics`, for x -> unbounded -> moved."""
    rows = (len(x), math.prod(x.shape[1:]))
    slope, update = grad.to(unbounded.dtype), moved.to(unbounded.dtype) - x.to(unbounded.dtype)
    sums = [t.reshape(rows).square().sum(1) for t in (slope, update)]
    beyond = [(unbounded < low) | (unbounded > high), slope.abs() > grad_clip]
    return torch.stack(sums), torch.stack([t.reshape(rows).sum(1) for t in beyond])


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _unbounded(
    x: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    grad_scale: float | Tensor,
    noise_scale: float | Tensor,
    grad_clip: float,
    inverse_variance: float,
) -> Tensor:
    """x - a · drift + b · ε in the computing dtype, before the bounds."""
    compute = _compute_dtype(x)
    start, drift = x.to(compute), grad.to(compute)
    if grad_clip < math.inf:
        drift = drift.clamp(-grad_clip, grad_clip)
    if inverse_variance != 0.0:
        drift = drift.add(start, alpha=inverse_variance)
    moved = _add(start, -grad_scale, drift)
    return moved if noise is None else _add(moved, noise_scale, noise.to(compute))


def _add(x: Tensor, scale: float | Tensor, y: Tensor) -> Tensor:
    return x + scale * y if isinstance(scale, Tensor) else x.add(y, alpha=scale)  # one pass less


def _draw(x: Tensor, rng: Tensor | None, seed: int, step: int, chain: int) -> Tensor:
    """The noise of a step, in the shape of x. Reads `rng` back to the host: not for a kernel."""
    if rng is not None:
        base_seed, base_step, base_chain = rng.tolist()
        seed, step, chain = seed + base_seed, step + base_step, chain + base_chain
    drawn = philox_normal(
        x.numel(), seed=seed & _MASK_64, step=step & _MASK_32, chain=chain & _MASK_32
    )
    return torch.from_numpy(drawn).to(x.device).view(x.shape)


def _run_reference(
    x: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    scales: Tensor | None,
    rng: Tensor | None,
    grad_scale: float,
    noise_scale: float,
    low: float,
    high: float,
    grad_clip: float,
    inverse_variance: float,
    seed: int,
    step: int,
    chain: int,
) -> Tensor:
    a, b = _scaled(scales, grad_scale, noise_scale)
    if noise is None and noise_scale != 0.0:
        noise = _draw(x, rng, seed, step, chain)
    moved = langevin_step_reference(x, grad, noise, a, b, low, high, grad_clip, inverse_variance)
    return _as_promised(x, moved)


def _scaled(
    scales: Tensor | None, grad_scale: float, noise_scale: float
) -> tuple[float | Tensor, float | Tensor]:
    if scales is None:
        return grad_scale, noise_scale
    return grad_scale * scales[0], noise_scale * scales[1]


def _as_promised(x: Tensor, moved: Tensor) -> Tensor:
    """With the strides that `_fake` promises; a result of PyTorch's may be laid out otherwise."""
    promised = torch.empty_like(x)
    return moved if moved.stride() == promised.stride() else promised.copy_(moved)


def run_reference_out(
    x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *rest: Any
) -> None:
    out.copy_(_run_reference(x, grad, noise, *rest))


def _run_statistics(
    x: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    scales: Tensor | None,
    rng: Tensor | None,
    grad_scale: float,
    noise_scale: float,
    low: float,
    high: float,
    grad_clip: float,
    inverse_variance: float,
    *counter: int,
) -> tuple[Tensor, Tensor, Tensor]:
    a, b = _scaled(scales, grad_scale, noise_scale)
    if noise is None and noise_scale != 0.0:
        noise = _draw(x, rng, *counter)
    unbounded = _unbounded(x, grad, noise, a, b, grad_clip, inverse_variance)
    moved = unbounded.clamp(low, high).to(x.dtype)
    sums, counts = langevin_statistics_reference(x, grad, unbounded, moved, low, high, grad_clip)
    return _as_promised(x, moved), sums, counts


def run_statistics_out(
    x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    moved, sums, counts = _run_statistics(x, grad, noise, *rest)
    out.copy_(moved)
    return sums, counts


def _check_same(x: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None:
            same = other.shape == x.shape and other.device == x.device
            message = f"{name} must have the shape and the device of x"
            torch._check(same, lambda message=message: message)  # type: ignore[no-untyped-call]


def _fake(x: Tensor, grad: Tensor, noise: Tensor | None, *rest: Any) -> Tensor:
    _check_same(x, grad=grad, noise=noise)
    return torch.empty_like(x)


def _fake_out(x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *rest: Any) -> None:
    _check_same(x, grad=grad, noise=noise, out=out)


def empty_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    sums = x.new_empty((2, x.shape[0]), dtype=_compute_dtype(x))
    return sums, x.new_empty((2, x.shape[0]), dtype=torch.int64)


def _fake_statistics(
    x: Tensor, grad: Tensor, noise: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake(x, grad, noise), *empty_statistics(x)


def _fake_statistics_out(
    x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    _fake_out(x, grad, noise, out)
    return empty_statistics(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(*output[1:])
    x, grad, noise, scales, _, *options = inputs
    ctx.save_for_backward(x, grad, noise, scales)
    ctx.options = options[:6]


def _backward(ctx: Any, upstream: Tensor, *statistics: Any) -> tuple[Tensor | None, ...]:
    x, grad, noise, scales = ctx.saved_tensors
    grad_scale, noise_scale, low, high, grad_clip, inverse_variance = ctx.options
    compute = _compute_dtype(x)
    a, b = _scaled(scales, grad_scale, noise_scale)
    upstream, start, slope = upstream.to(compute), x.to(compute), grad.to(compute)
    drift = slope.clamp(-grad_clip, grad_clip) + inverse_variance * start
    moved = start - a * drift
    if noise is not None:
        moved = moved + b * noise.to(compute)
    passed = upstream * ((moved >= low) & (moved <= high))
    d_x = passed * (1.0 - a * inverse_variance)
    d_grad = -a * passed * (slope.abs() <= grad_clip)
    d_noise = d_scales = None
    if noise is not None:
        d_noise = (b * passed).to(noise.dtype)
    if scales is not None:
        d_a = -(passed * drift).sum() * grad_scale
        d_b = torch.zeros_like(d_a)
        if noise is not None:
            d_b = (passed * noise).sum() * noise_scale
        d_scales = torch.stack([d_a, d_b]).to(scales.dtype)
    return d_x.to(x.dtype), d_grad.to(grad.dtype), d_noise, d_scales, *[None] * 10


# `scales` (2,) float32 and `rng` (3,) int64 hold on the device what may change between two replays
# of a captured graph: scales multiply grad_scale and noise_scale, rng is added to (seed, step,
# chain). The scalars are frozen at capture.
OPTIONS = (
    "Tensor? scales, Tensor? rng, float grad_scale, float noise_scale, float low, float high, "
    "float grad_clip, float inverse_variance, SymInt seed, SymInt step, SymInt chain"
)

_langevin_step = register(
    f"langevin_step(Tensor x, Tensor grad, Tensor? noise, {OPTIONS}) -> Tensor",
    reference=_run_reference,
    triton="coophash.kernels.langevin_triton:langevin_step",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
_langevin_step_out = register(
    f"langevin_step_out(Tensor x, Tensor grad, Tensor? noise, Tensor(a!) out, {OPTIONS}) -> ()",
    reference=run_reference_out,
    triton="coophash.kernels.langevin_triton:langevin_step_out",
    fake=_fake_out,
)
_langevin_step_statistics = register(
    f"langevin_step_statistics(Tensor x, Tensor grad, Tensor? noise, {OPTIONS})"
    " -> (Tensor, Tensor, Tensor)",
    reference=_run_statistics,
    triton="coophash.kernels.langevin_triton:langevin_step_statistics",
    fake=_fake_statistics,
    setup_context=_setup_context,
    backward=_backward,
)
_langevin_step_statistics_out = register(
    "langevin_step_statistics_out(Tensor x, Tensor grad, Tensor? noise, Tensor(a!) out,"
    f" {OPTIONS}) -> (Tensor, Tensor)",
    reference=run_statistics_out,
    triton="coophash.kernels.langevin_triton:langevin_step_statistics_out",
    fake=_fake_statistics_out,
)


@overload
def langevin_step(
    x: Tensor, grad: Tensor, *, grad_scale: float | Tensor, noise_scale: float | Tensor = ...,
    noise: Tensor | None = ..., seed: Integer = ..., step: Integer = ..., chain: Integer = ...,
    clamp: tuple[float, float] | None = ..., grad_clip: float | None = ...,
    reference_std: float | None = ..., out: Tensor | None = ...,
    statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def langevin_step(
    x: Tensor, grad: Tensor, *, grad_scale: float | Tensor, noise_scale: float | Tensor = ...,
    noise: Tensor | None = ..., seed: Integer = ..., step: Integer = ..., chain: Integer = ...,
    clamp: tuple[float, float] | None = ..., grad_clip: float | None = ...,
    reference_std: float | None = ..., out: Tensor | None = ...,
    statistics: Literal[True],
) -> tuple[Tensor, LangevinStatistics]: ...  # fmt: skip


def langevin_step(
    x: Tensor,
    grad: Tensor,
    *,
    grad_scale: float | Tensor,
    noise_scale: float | Tensor = 0.0,
    noise: Tensor | None = None,
    seed: Integer = 0,
    step: Integer = 0,
    chain: Integer = 0,
    clamp: tuple[float, float] | None = None,
    grad_clip: float | None = None,
    reference_std: float | None = None,
    out: Tensor | None = None,
    statistics: bool = False,
) -> Tensor | tuple[Tensor, LangevinStatistics]:
    """One Langevin step, x' = clamp(x - grad_scale · drift + noise_scale · ε).

    The drift is `grad`, clipped to ± grad_clip if given, plus x / reference_std² if given. For a
    step size δ, Langevin dynamics (CoopHash Eq. 6) is grad_scale = δ²/2 and noise_scale = δ.

    Args:
        x: (…) floating point, any strides. Computed in float32 (float64 for float64).
        grad: (…) the energy's gradient with respect to x; its dtype may differ from that of x.
        grad_scale, noise_scale: numbers >= 0, or one-element tensors on the device of x.
        noise: (…) ε itself. Without it, ε is drawn from (seed, step, chain) by Philox4x32-10, in
            the row-major order of the elements, whatever the strides and the device.
        seed: 64-bit integer.
        step, chain: 32-bit integers: the number of the step, and of the chain, in that stream.
            seed, step and chain can be one-element integer tensors on the device of x; a captured
            CUDA graph then draws new noise at each replay.
        clamp: (low, high) bounds of the result, or None.
        grad_clip: bound > 0 on the absolute value of each element of grad, or None.
        reference_std: σ > 0 of a Gaussian reference N(0, σ² I) under the energy, or None.
        out: where to write; x itself makes the step in place. Not differentiable.
        statistics: whether to return, from the same pass, sums over each sample of x, which is then
            (B, …). They are reproducible bit for bit, and not differentiable.

    Returns:
        (…) of the dtype of x; `out` where given. With `statistics` the pair of that and
        `LangevinStatistics`. With `noise` given or noise_scale = 0 it is
        differentiable with respect to x, grad, noise, grad_scale and noise_scale.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    check_tensor("x", x)
    for name, other in (("grad", grad), ("noise", noise), ("out", out)):
        if other is not None:
            check_tensor(name, other, like=x)
    if statistics and x.dim() == 0:
        raise ValueError("statistics are per sample: x must be (B, …), got a single number")
    low, high = bounds(clamp)
    clip = positive("grad_clip", grad_clip, math.inf)
    std = positive("reference_std", reference_std, math.inf)
    a, b, scales = scale_pair(x, grad_scale, noise_scale)
    integers, rng = counter(x, seed, step, chain)
    options = (scales, rng, a, b, low, high, clip, 1.0 / (std * std), *integers)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, grad, noise, scales)
    ):
        if out is not None:
            raise ValueError(
                "out= is not differentiable, but an argument requires a gradient: leave out=, or "
                "call under torch.no_grad()"
            )
        if noise is None and b != 0.0:
            raise ValueError(
                "a step that draws its own noise is not differentiable, but an argument requires "
                "a gradient: give the noise as noise=, or call under torch.no_grad()"
            )
    if out is None:
        if statistics:
            moved, sums, counts = _langevin_step_statistics(x, grad, noise, *options)
            return moved, LangevinStatistics(*sums.unbind(), *counts.unbind())
        return _langevin_step(x, grad, noise, *options)  # type: ignore[no-any-return]
    if out.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}, got {out.dtype}")
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        raise ValueError("out must own each of its elements, got an expanded tensor: clone it")
    if statistics:
        sums, counts = _langevin_step_statistics_out(x, grad, noise, out, *options)
        return out, LangevinStatistics(*sums.unbind(), *counts.unbind())
    _langevin_step_out(x, grad, noise, out, *options)
    return out
