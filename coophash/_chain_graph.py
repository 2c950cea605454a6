"""A whole Langevin chain as one CUDA graph: captured once, then replayed by one launch.

A chain of T steps is some 30 launches a step from Python, which at small batches take longer than
the work. As a graph it is one launch. What may change between two replays is read from device
memory: x and the labels (copied in), step sizes, the seed and the number of the first step, and the
parameters of the energy, which an optimiser updates in place.

When it is safe. A chain is captured the second time that it is asked for: an energy that is used
once pays nothing, and everything has been loaded and tuned by then. Beforehand one step is watched
(`_reach.py`); an energy that reads tensors which cannot be found from it, waits for the device, or
copies to it, is not captured, and one warning says why. A graph is replayed only while all that can
be found from the energy is the same: its modules' settings, the places of their tensors, the
numbers in closures and globals. What Python does beside tensor work, such as printing or counting,
is done at capture alone: pass graph=False for such an energy.

What it needs of a GPU is in `_chain_device.py`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from coophash._chain import Plan, finite, run_chain
from coophash._chain_device import Device, Result
from coophash._chain_energy import BoundEnergy
from coophash._reach import OutOfReach, Reach, Watcher
from coophash.kernels._backend import requested_backend

__all__ = ["ChainGraphs"]


@dataclass
class _Graph:
    """One captured chain with the tensors that it reads and writes."""

    x: Tensor
    labels: Tensor | None
    plan: Plan
    replay: Callable[[], None]
    result: Result
    kept: list[Any]  # what must not be freed, since it is known by its address
    table: list[list[float]] | None = None  # what plan.scales holds, where the host knows it
    done: Any = None  # after the latest replay
    dropped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class ChainGraphs:
    """Captured chains of one device, the most recently used ones.

    Args:
        device: where they run.
        size: how many are kept. Each holds the memory of one step of its chain.
    """

    def __init__(self, device: Device, size: int = 4) -> None:
        self.device, self.size = device, size
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._unreachable: weakref.WeakSet[Any] = weakref.WeakSet()
        self._owners: dict[Any, Any] = {}  # key -> weak reference to the module
        self._dead: list[Any] = []  # keys whose module is no more
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Forget all graphs and free their memory."""
        with self._lock:
            for key in list(self._graphs):
                self._drop(key)
            self._seen.clear()
            self._refused.clear()

    def run(self, energy: BoundEnergy, x: Tensor, plan: Plan, last_energy: bool) -> Result | None:
        """The chain by its graph; None where the plain loop has to run.

        The result is the caller's own. The host waits for nothing.
        """
        labels = energy.labels
        if not self._possible(x, labels):
            return None
        refusal = self.device.refusal(x, plan.draws)
        if refusal is not None:
            _warn(refusal, stacklevel=4)
            return None
        owner = getattr(energy.energy, "__self__", energy.energy)
        with contextlib.suppress(TypeError):  # it may not be hashable
            if owner in self._unreachable:
                return None
        try:
            reach = Reach(energy.energy)
        except OutOfReach as error:
            with contextlib.suppress(TypeError):  # it may not be weakly referable
                self._unreachable.add(owner)
            _warn(str(error), stacklevel=4)
            return None
        settings = (_spec(x), _spec(labels), last_energy, _settings(plan), _surroundings(x))
        key = (reach.marks, settings)
        graph = self._find(key, energy, x, plan, last_energy, reach)
        if graph is not None and isinstance(owner, torch.nn.Module):
            self._watch_owner(key, owner)
        return None if graph is None else self._replay(graph, x, labels, plan)

    def _find(
        self, key: Any, energy: BoundEnergy, x: Tensor, plan: Plan, last_energy: bool, reach: Reach
    ) -> _Graph | None:
        """The graph of a key, captured now if it was asked for before."""
        outside = sys.exc_info()[1]
        with self._lock:
            while self._dead:
                self._drop(self._dead.pop())
            if hash(key) in self._refused:
                return None
            graph = self._graphs.get(key)
            if graph is None:
                if not self._seen_before(hash(key)):
                    return None
                self._drop_replaced(key)
                try:
                    graph = self._capture(energy, x, plan, last_energy, reach)
                except Exception as error:
                    self._refused[hash(key)] = None
                    _shorten(self._refused)
                    _warn(_first_line(error, outside), stacklevel=5)
                    return None
                self._graphs[key] = graph
                while len(self._graphs) > self.size:
                    self._drop(next(iter(self._graphs)))
            self._graphs.move_to_end(key)
            return graph

    def _watch_owner(self, key: Any, owner: torch.nn.Module) -> None:
        if key not in self._owners:
            # May be called at any time, within a capture too: note it, free it later.
            self._owners[key] = weakref.ref(owner, lambda _: self._dead.append(key))

    def _possible(self, x: Tensor, labels: Any) -> bool:
        if type(x) not in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
            return False
        if labels is not None and (type(labels) is not Tensor or labels.device != x.device):
            return False
        # Somebody watches the ops (a FLOP counter, a tracer), looks for NaN, or captures.
        if is_in_torch_dispatch_mode() or torch.is_anomaly_enabled():
            return False
        return not self.device.busy()

    def _seen_before(self, key: int) -> bool:
        if key in self._seen:
            del self._seen[key]
            return True
        self._seen[key] = None
        _shorten(self._seen)
        return False

    def _drop(self, key: Any) -> None:
        self._owners.pop(key, None)
        graph = self._graphs.pop(key, None)
        if graph is not None:
            with graph.lock:
                graph.dropped = True
                self.device.finish(graph.done)  # its memory may still be at work

    def _drop_replaced(self, key: Any) -> None:
        """Free graphs that differ in where tensors lie alone: nobody will ask for them again."""
        mine = (_without_places(key[0]), key[1])
        for other in list(self._graphs):
            if (_without_places(other[0]), other[1]) == mine:
                self._drop(other)

    def _capture(
        self, energy: BoundEnergy, x: Tensor, plan: Plan, last_energy: bool, reach: Reach
    ) -> _Graph:
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        still = replace(
            plan,
            scales=torch.zeros((plan.steps, 4), dtype=compute, device=x.device),
            grad_scales=[1.0] * plan.steps,
            noise_scales=[float(plan.draws)] * plan.steps,
            rng=torch.zeros(3, dtype=torch.int64, device=x.device),
            seed=0, first_step=0, chain=0,
        )  # fmt: skip
        own_x = torch.empty_like(x).copy_(x)
        own_labels = None if energy.labels is None else energy.labels.clone()
        bound = BoundEnergy(energy.energy, own_labels)
        known = [own_x, still.scales, still.rng, own_labels]

        def chain(steps: int) -> Result:
            state, energies = run_chain(bound, own_x, still, steps, last_energy)
            stacked = torch.stack(energies)
            return state, stacked, finite(stacked[:steps], state)

        given = [t for t in known if t is not None]
        watcher = Watcher(x.device, [*reach.tensors, *given], reach.buffers)

        def watch() -> None:
            with watcher:
                chain(1)

        with _no_autocast_cache():
            try:
                self.device.aside(watch)
                if watcher.reason is not None:
                    raise OutOfReach(watcher.reason)
                # Compiles and tunes what the capture must not wait for; step 1 as step 0.
                self.device.aside(lambda: chain(min(plan.steps, 2)))
            finally:
                watcher.restore()
            replay, result = self.device.capture(lambda: chain(plan.steps))
        return _Graph(own_x, own_labels, still, replay, result, reach.kept)

    def _replay(self, graph: _Graph, x: Tensor, labels: Tensor | None, plan: Plan) -> Result | None:
        with graph.lock:
            if graph.dropped:  # by another thread, just now
                return None
            # The one before may have run on another stream.
            self.device.wait(graph.done)
            graph.x.copy_(x)
            if graph.labels is not None and labels is not None:
                graph.labels.copy_(labels)
            self._set_numbers(graph, plan)
            graph.replay()
            samples, energies, finite = (t.clone() for t in graph.result)
            graph.done = self.device.mark()
        return samples, energies, finite

    def _set_numbers(self, graph: _Graph, plan: Plan) -> None:
        scales, rng = graph.plan.scales, graph.plan.rng
        assert scales is not None and rng is not None
        table = plan.scale_table()
        if table != graph.table:
            scales.copy_(torch.tensor(table, dtype=scales.dtype), non_blocking=True)
            graph.table = table
        if plan.scales is not None:
            scales.mul_(plan.scales)
            graph.table = None
        rng.copy_(torch.tensor([plan.seed, plan.first_step, plan.chain]), non_blocking=True)
        if plan.rng is not None:
            rng.add_(plan.rng)


def _spec(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _settings(plan: Plan) -> Any:
    """What of a plan is fixed at capture."""
    return plan.steps, plan.draws, plan.low, plan.high, plan.grad_clip, plan.inverse_variance


def _surroundings(x: Tensor) -> Any:
    """Settings of PyTorch that choose kernels."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    backends = torch.backends
    return (
        torch.get_autocast_dtype(kind) if autocast else None,
        requested_backend(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        backends.cudnn.enabled, backends.cudnn.allow_tf32,
        backends.cudnn.benchmark, backends.cudnn.deterministic,
    )  # fmt: skip


@contextlib.contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Within autocast: cast the weights in the graph, at each replay, and not in a cache of it."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _without_places(marks: Any) -> Any:
    return tuple(m[1:] if isinstance(m, tuple) and len(m) == 5 else m for m in marks)


def _warn(reason: str, stacklevel: int) -> None:
    """At the line that called `langevin`."""
    warnings.warn(
        f"the Langevin chain runs step by step instead of as a CUDA graph: {reason}. The result "
        "is the same; pass graph=False to say that this is meant",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def _shorten(memory: OrderedDict[int, None]) -> None:
    while len(memory) > 64:
        memory.popitem(last=False)


def _first_line(error: BaseException, outside: BaseException | None) -> str:
    """Of the error that came first: those that follow only say that the capture is broken.

    outside: what the caller is handling, if anything; not ours.
    """
    while error.__context__ is not None and error.__context__ is not outside:
        error = error.__context__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
