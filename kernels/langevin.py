"""One Langevin step, fused:  x' = clamp(x - a · drift + b · ε),  ε ~ N(0, I).

CoopHash Eq. 6 is a = δ²/2, b = δ; training uses a and b of its own (drift and noise decoupled), so
the op takes both. The drift is the energy's gradient, optionally clipped, plus x / σ² where the
energy stands on a Gaussian reference N(0, σ² I). Noise is drawn in the kernel by Philox
(`philox.py`), or given as a tensor.

Traffic: x and grad read, x' written: 12 bytes per element in fp32, against 52 for the eager line.
The Triton kernel is in langevin_triton.py; the derivation and a byte count in kernels/README.md.
Check it, time it: pytest tests/kernels/test_langevin.py && pytest benchmarks/bench_langevin.py
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from coophash.kernels._library import register
from coophash.kernels.philox import philox_normal

Integer: TypeAlias = int | Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MASK_32, _MASK_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


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
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    start, drift = x.to(compute), grad.to(compute)
    if grad_clip < math.inf:
        drift = drift.clamp(-grad_clip, grad_clip)
    if inverse_variance != 0.0:
        drift = drift.add(start, alpha=inverse_variance)
    moved = _add(start, -grad_scale, drift)
    if noise is not None:
        moved = _add(moved, noise_scale, noise.to(compute))
    if low > -math.inf or high < math.inf:
        moved = moved.clamp(low, high)
    return moved.to(x.dtype)


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
    a: float | Tensor = grad_scale
    b: float | Tensor = noise_scale
    if scales is not None:
        a, b = grad_scale * scales[0], noise_scale * scales[1]
    if noise is None and noise_scale != 0.0:
        noise = _draw(x, rng, seed, step, chain)
    moved = langevin_step_reference(x, grad, noise, a, b, low, high, grad_clip, inverse_variance)
    # The strides that `_fake` promises; a result of PyTorch's may be laid out otherwise.
    promised = torch.empty_like(x)
    return moved if moved.stride() == promised.stride() else promised.copy_(moved)


def run_reference_out(
    x: Tensor, grad: Tensor, noise: Tensor | None, out: Tensor, *rest: Any
) -> None:
    out.copy_(_run_reference(x, grad, noise, *rest))


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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, grad, noise, scales, _, *options = inputs
    ctx.save_for_backward(x, grad, noise, scales)
    ctx.options = options[:6]


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    x, grad, noise, scales = ctx.saved_tensors
    grad_scale, noise_scale, low, high, grad_clip, inverse_variance = ctx.options
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    a, b = grad_scale, noise_scale
    if scales is not None:
        a, b = grad_scale * scales[0], noise_scale * scales[1]
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
_OPTIONS = (
    "Tensor? scales, Tensor? rng, float grad_scale, float noise_scale, float low, float high, "
    "float grad_clip, float inverse_variance, SymInt seed, SymInt step, SymInt chain"
)

_langevin_step = register(
    f"langevin_step(Tensor x, Tensor grad, Tensor? noise, {_OPTIONS}) -> Tensor",
    reference=_run_reference,
    triton="coophash.kernels.langevin_triton:langevin_step",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
_langevin_step_out = register(
    f"langevin_step_out(Tensor x, Tensor grad, Tensor? noise, Tensor(a!) out, {_OPTIONS}) -> ()",
    reference=run_reference_out,
    triton="coophash.kernels.langevin_triton:langevin_step_out",
    fake=_fake_out,
)


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
) -> Tensor:
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

    Returns:
        (…) of the dtype of x; `out` where given. With `noise` given or noise_scale = 0 it is
        differentiable with respect to x, grad, noise, grad_scale and noise_scale.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, shape, dtype, device or range.
    """
    _check_tensor("x", x)
    for name, other in (("grad", grad), ("noise", noise), ("out", out)):
        if other is not None:
            _check_tensor(name, other, like=x)
    low, high = _bounds(clamp)
    clip = _positive("grad_clip", grad_clip, math.inf)
    std = _positive("reference_std", reference_std, math.inf)
    a, b, scales = _scales(x, grad_scale, noise_scale)
    integers, rng = _rng(x, seed, step, chain)
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
        return _langevin_step(x, grad, noise, *options)  # type: ignore[no-any-return]
    if out.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}, got {out.dtype}")
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        raise ValueError("out must own each of its elements, got an expanded tensor: clone it")
    _langevin_step_out(x, grad, noise, out, *options)
    return out


def _check_tensor(name: str, value: Any, like: Tensor | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float32, bfloat16, float16 or float64, got {value.dtype}: "
            f"call {name}.float() first"
        )
    if like is None:
        return
    if value.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of x, {tuple(like.shape)}, got {tuple(value.shape)}"
        )
    if value.device != like.device:
        raise ValueError(
            f"{name} must be on the device of x, {like.device}, got {value.device}: "
            f"call {name}.to(x.device) first"
        )


def _bounds(clamp: Any) -> tuple[float, float]:
    if clamp is None:
        return -math.inf, math.inf
    try:
        low, high = (float(bound) for bound in clamp)
    except (TypeError, ValueError):
        raise ValueError(f"clamp must be (low, high) or None, got {clamp!r}") from None
    if not low <= high:
        raise ValueError(f"clamp must be (low, high) with low <= high, got {clamp!r}")
    return low, high


def _positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not value > 0:
        raise ValueError(f"{name} must be > 0 or None, got {value!r}")
    return float(value)


def _scales(
    x: Tensor, grad_scale: float | Tensor, noise_scale: float | Tensor
) -> tuple[float, float, Tensor | None]:
    """Both coefficients as numbers and, where one is a tensor, a tensor to multiply them with."""
    numbers: list[float] = []
    for name, value in (("grad_scale", grad_scale), ("noise_scale", noise_scale)):
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name} must be one number, got shape {tuple(value.shape)}")
            numbers.append(1.0)
            continue
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        numbers.append(float(value))
    a, b = numbers
    if not isinstance(grad_scale, Tensor) and not isinstance(noise_scale, Tensor):
        return a, b, None
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    one = torch.ones((), dtype=dtype, device=x.device)
    pair = [
        value.to(x.device, dtype).reshape(()) if isinstance(value, Tensor) else one
        for value in (grad_scale, noise_scale)
    ]
    return a, b, torch.stack(pair)


def _rng(
    x: Tensor, seed: Integer, step: Integer, chain: Integer
) -> tuple[tuple[int, int, int], Tensor | None]:
    """Seed, step and chain as integers and, where one is a tensor, a tensor to add to them."""
    values: list[Integer] = []
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("chain", chain, 32)):
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.dtype.is_floating_point or value.dtype == torch.bool:
                raise ValueError(
                    f"{name} must be an integer or a tensor of one integer, "
                    f"got {value.dtype} {tuple(value.shape)}"
                )
            values.append(value.to(x.device, torch.int64).reshape(()))
            continue
        try:
            number = value if type(value) is int else value.__index__()
        except AttributeError:
            raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
        if not 0 <= number < 2**bits:
            raise ValueError(f"{name} must be in 0 … 2**{bits} - 1, got {number}")
        # The op takes signed 64-bit integers.
        values.append(number - 2**64 if number >= 2**63 else number)
    integers = tuple(0 if isinstance(value, Tensor) else value for value in values)
    if not any(isinstance(value, Tensor) for value in values):
        return integers, None  # type: ignore[return-value]
    zero = torch.zeros((), dtype=torch.int64, device=x.device)
    rng = torch.stack([value if isinstance(value, Tensor) else zero for value in values])
    return integers, rng  # type: ignore[return-value]
