"""The Langevin chain: samples of any energy, CoopHash Eq. 6.

Every step needs the energy's gradient with respect to x alone, so no weight gradient is computed
and no graph outlives its step.
"""

from __future__ import annotations

import threading
from typing import Any, Literal, overload

import torch
from torch import Tensor

from coophash._chain import Plan, finite, make_plan, run_chain
from coophash._chain_device import CudaDevice
from coophash._chain_energy import BoundEnergy, Energy
from coophash._chain_graph import ChainGraphs
from coophash.schedules import Schedule

__all__ = ["Energy", "clear_graphs", "langevin"]

_graphs: dict[torch.device, ChainGraphs] = {}
_graphs_lock = threading.Lock()


@overload
def langevin(
    energy: Energy, x: Tensor, labels: Tensor | None = ..., steps: int = ...,
    step_size: Schedule = ..., noise: Schedule = ..., clamp: tuple[float, float] | None = ...,
    seed: int | Tensor = ..., *, grad_scale: Schedule | Tensor | None = ...,
    noise_scale: Schedule | Tensor | None = ..., grad_clip: float | None = ...,
    reference_std: float | None = ..., first_step: int | Tensor = ..., chain: int | Tensor = ...,
    return_energies: Literal[False] = ..., graph: bool = ..., check_finite: bool = ...,
) -> Tensor: ...  # fmt: skip
@overload
def langevin(
    energy: Energy, x: Tensor, labels: Tensor | None = ..., steps: int = ...,
    step_size: Schedule = ..., noise: Schedule = ..., clamp: tuple[float, float] | None = ...,
    seed: int | Tensor = ..., *, grad_scale: Schedule | Tensor | None = ...,
    noise_scale: Schedule | Tensor | None = ..., grad_clip: float | None = ...,
    reference_std: float | None = ..., first_step: int | Tensor = ..., chain: int | Tensor = ...,
    return_energies: Literal[True], graph: bool = ..., check_finite: bool = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def langevin(
    energy: Energy, x: Tensor, labels: Tensor | None = ..., steps: int = ...,
    step_size: Schedule = ..., noise: Schedule = ..., clamp: tuple[float, float] | None = ...,
    seed: int | Tensor = ..., *, grad_scale: Schedule | Tensor | None = ...,
    noise_scale: Schedule | Tensor | None = ..., grad_clip: float | None = ...,
    reference_std: float | None = ..., first_step: int | Tensor = ..., chain: int | Tensor = ...,
    return_energies: bool, graph: bool = ..., check_finite: bool = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip


def langevin(
    energy: Energy,
    x: Tensor,
    labels: Tensor | None = None,
    steps: int = 60,
    step_size: Schedule = 0.1,
    noise: Schedule = 1.0,
    clamp: tuple[float, float] | None = None,
    seed: int | Tensor = 0,
    *,
    grad_scale: Schedule | Tensor | None = None,
    noise_scale: Schedule | Tensor | None = None,
    grad_clip: float | None = None,
    reference_std: float | None = None,
    first_step: int | Tensor = 0,
    chain: int | Tensor = 0,
    return_energies: bool = False,
    graph: bool = True,
    check_finite: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run a Langevin chain on an energy, from x.

    Each of the steps is CoopHash Eq. 6,
    x <- clamp(x - step_size²/2 · dE/dx + step_size · noise · N(0, I)).

    On a GPU the whole chain becomes one CUDA graph the second time that it is asked for, and later
    calls with the same energy and shapes replay it, with the parameters' current values and new
    noise: the same numbers without the cost of the launches. What cannot be captured runs step by
    step, after one warning that says why.

    Args:
        energy: called as energy(x, labels), or energy(x) if labels is None and it takes one
            argument; returns (B,) energies, lower is likelier, where sample i depends on x[i]
            alone. Any callable: a function, a module in train or eval mode. It may offer more than
            a call: see `coophash._chain_energy`.
        x: (B, …) float32, bfloat16, float16 or float64: where the chains start. Not changed.
        labels: (B, …) conditions handed to the energy as they are, or None.
        steps: number of steps, >= 0.
        step_size: δ > 0; or one number >= 0 for each step, as a sequence or a function of the step
            counted from 0 in this call (`coophash.schedules` has the usual ones).
        noise: factor >= 0 on the noise, the square root of a temperature; or a schedule of it. With
            1 the samples follow exp(-energy) as δ goes to 0; with 0 the chain descends.
        clamp: (low, high) bounds of x after each step, e.g. (-1, 1) for images; or None.
        seed: 64-bit integer, or a tensor of one integer. The same seed gives the same chain on
            every device, up to rounding.
        grad_scale: coefficient of the gradient instead of step_size²/2. A number, a schedule, or a
            tensor of one number or one for each step.
        noise_scale: coefficient of N(0, I) instead of step_size · noise. Likewise.
        grad_clip: bound > 0 on the absolute value of each element of the gradient, or None.
        reference_std: σ > 0 of a Gaussian reference: samples then follow
            exp(-energy(x)) · N(x; 0, σ² I), as in cooperative networks. Or None.
        first_step: number of the first step in the random stream. A chain of m + n steps equals one
            of m steps and then, from its result, one of n steps with first_step=m, each with its
            part of a schedule.
        chain: 32-bit number of an independent stream under the same seed.
        return_energies: whether to return the energies along the way as well.
        graph: False runs the chain step by step on a GPU too: for an energy with effects in Python,
            such as printing or counting, which a graph has at its capture alone.
        check_finite: whether to raise where the chain diverged. On a GPU that is one look at the
            end, for which the host waits; without it, it can run ahead.

    Returns:
        (B, …) samples, detached; with return_energies also (steps + 1, B) float32, the energies
        before each step and after the last.

    Raises:
        TypeError, ValueError: an argument, or what the energy returned, is not as described.
        FloatingPointError: the chain diverged; the message names the step.
    """
    _check(x, labels, steps)
    plan = make_plan(
        x, steps, step_size, noise, grad_scale, noise_scale, clamp, grad_clip, reference_std,
        seed, first_step, chain,
    )  # fmt: skip
    # A caller may be in inference mode, whose tensors autograd refuses.
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(labels, Tensor) and labels.is_inference():
            labels = labels.clone()
        bound = BoundEnergy(energy, labels)
        state = x.clone() if x.is_inference() or steps == 0 else x.detach()
        graphs = _graphs_of(x.device) if graph and steps else None
        result = None if graphs is None else graphs.run(bound, state, plan, return_energies)
        if result is None:
            state, energies = _loop(bound, state, plan, return_energies, check_finite)
        else:
            state, stacked, flags = result
            energies = list(stacked)
            if check_finite:
                _raise_unless(flags, plan)
        return (state, torch.stack(energies)) if return_energies else state


def clear_graphs() -> None:
    """Forget the CUDA graphs of all chains and free their memory.

    Four are kept for each GPU, the latest used; each holds what one step of its chain needs.
    """
    with _graphs_lock:
        for graphs in _graphs.values():
            graphs.clear()


def _graphs_of(device: torch.device) -> ChainGraphs | None:
    """The captured chains of a device; None for one without graphs."""
    if device.type != "cuda":
        return None
    with _graphs_lock:
        if device not in _graphs:
            _graphs[device] = ChainGraphs(CudaDevice(device))
        return _graphs[device]


def _loop(
    energy: BoundEnergy, x: Tensor, plan: Plan, last_energy: bool, check: bool
) -> tuple[Tensor, list[Tensor]]:
    """The chain step by step."""
    # On the CPU each step is looked at; elsewhere a look at a value waits for the device.
    look = None
    if check and x.device.type == "cpu":

        def look(step: int, value: Tensor) -> None:
            if not torch.isfinite(value).all():
                _diverged(step, plan)

    state, energies = run_chain(energy, x, plan, plan.steps, last_energy, look)
    if check and not (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        if look is None:
            _raise_unless(finite(torch.stack(energies[: plan.steps]), state), plan)
        elif not torch.isfinite(state).all():
            _diverged(plan.steps, plan)
    return state, energies


def _check(x: Any, labels: Any, steps: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise TypeError(f"x must be floating point, got {x.dtype}: call x.float() first")
    if x.dim() == 0:
        raise ValueError("x must have a batch dimension, (B, ...), got a single number")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be an integer >= 0, got {steps!r}")
    if isinstance(labels, Tensor) and (labels.dim() == 0 or len(labels) != len(x)):
        raise ValueError(
            f"labels must have one row for each of the {len(x)} samples of x, "
            f"got {tuple(labels.shape)}"
        )


def _raise_unless(flags: Tensor, plan: Plan) -> None:
    """Raise if what was found after 0, 1 … steps is not finite everywhere. Waits for the device."""
    found = flags.tolist()
    if not all(found):
        _diverged(found.index(False), plan)


def _diverged(step: int, plan: Plan) -> None:
    if step == 0:
        raise FloatingPointError(
            "the energy of x is not finite before the first step: look for NaN or infinity in x, "
            "in labels and in the weights of the energy"
        )
    scale = plan.grad_scales[step - 1]
    if plan.scales is not None:
        scale *= float(plan.scales[step - 1, 0])
    raise FloatingPointError(
        f"the chain diverged: not finite after step {step} of {plan.steps}, with the gradient "
        f"scaled by {scale:.3g}: lower step_size (or grad_scale), or give clamp=(-1, 1)"
    )
