"""What benchmarks share: the machine, versions and commit on record, and peers run in turns."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PACKAGES = ("coophash", "numpy", "torch", "triton", "faiss-cpu")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _graphics() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Benchmarks marked `gpu` are skipped where torch sees no device, as tests are."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and _graphics() is None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no GPU: torch sees no CUDA device"))


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    # A host name says nothing to a reader of the results.
    machine_info.pop("node", None)
    machine_info["processor"] = _processor()
    machine_info["cores"] = len(os.sched_getaffinity(0))
    machine_info["gpu"] = _graphics()
    machine_info["versions"] = {name: _version(name) for name in PACKAGES}


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        )
    except OSError:
        return
    commit_info["describe"] = described.stdout.strip() or None


def _quartiles(values: np.ndarray) -> list[float]:
    return [float(x) for x in np.quantile(values, [0.25, 0.5, 0.75])]


@pytest.fixture
def beside_peers(benchmark):
    """Time something beside its peers, in turns, so that a noisy machine is unfair to neither.

    Call it as `beside_peers(ours, {"name": peer, ...}, pairs=..., rounds=...)`; `limit` is what
    the machine allows at best, where that can be measured. Each round runs the limit, every peer
    and then ours, which is what the benchmark records. `extra_info` gets

        peer        the fastest of them by its median
        ratio       its time over ours in the same round: quartiles
        ratios      the same for each of them
        cpu_ratio   that peer's CPU time over ours in the same round: quartiles
        of_limit    the limit's time over ours in the same round: quartiles
        seconds     of each: quartiles
        Gp/s        1e9 (code, query) pairs a second: ours and the peer's, by the medians
        cores       CPU time over wall time of ours and of the peer. Below the number of threads
                    the machine was busy with something else, or one thread was all it took
    """

    def measure(
        ours: Callable[[], object],
        peers: dict[str, Callable[[], object]],
        *,
        pairs: float,
        rounds: int,
        limit: Callable[[], object] | None = None,
    ) -> None:
        calls = {**({"limit": limit} if limit else {}), **peers, "ours": ours}
        walls: dict[str, list[float]] = {name: [] for name in calls}
        cpus: dict[str, list[float]] = {name: [] for name in calls}

        def timed(name: str) -> None:
            # What ran before has left its data in the caches, and OpenMP's threads spin for some
            # milliseconds after a parallel region: a short call is repeated until neither matters.
            end = time.perf_counter() + (0.01 if not walls[name] or walls[name][-1] < 0.1 else 0)
            while time.perf_counter() < end:
                calls[name]()
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)

        def others() -> None:
            for name in calls:
                if name != "ours":
                    timed(name)

        benchmark.pedantic(lambda: timed("ours"), setup=others, rounds=rounds, warmup_rounds=1)
        if benchmark.stats is None:  # --benchmark-disable: nothing was repeated
            return
        wall = {name: np.array(values[-rounds:]) for name, values in walls.items()}
        used = {name: np.array(cpus[name][-rounds:]) / wall[name] for name in calls}
        best = min(peers, key=lambda name: float(np.median(wall[name])))
        benchmark.extra_info.update(
            {
                "peer": best,
                "ratio": _quartiles(wall[best] / wall["ours"]),
                "ratios": {name: _quartiles(wall[name] / wall["ours"]) for name in peers},
                "cpu_ratio": _quartiles((used[best] * wall[best]) / (used["ours"] * wall["ours"])),
                "seconds": {name: _quartiles(values) for name, values in wall.items()},
                "Gp/s": [pairs / float(np.median(wall[name])) / 1e9 for name in ("ours", best)],
                "cores": [round(float(np.median(used[name])), 2) for name in ("ours", best)],
            }
        )
        if limit:
            benchmark.extra_info["of_limit"] = _quartiles(wall["limit"] / wall["ours"])

    return measure


class _Watch:
    """Seconds that a device takes for some calls: CUDA events, or the clock on the CPU."""

    def __init__(self, device: str) -> None:
        import torch

        self.cuda = torch.cuda if device == "cuda" else None
        self.event = (lambda: torch.cuda.Event(enable_timing=True)) if self.cuda else None

    def __call__(self, call: Callable[[], object], times: int) -> float:
        if self.event is None:
            start = time.perf_counter()
            for _ in range(times):
                call()
            return (time.perf_counter() - start) / times
        before, after = self.event(), self.event()
        before.record()
        for _ in range(times):
            call()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / times / 1e3

    def peak(self, call: Callable[[], object]) -> int | None:
        """Bytes that a call allocates over what is there before it; None on the CPU."""
        if self.cuda is None:
            return None
        self.cuda.synchronize()
        self.cuda.reset_peak_memory_stats()
        before = self.cuda.memory_allocated()
        call()
        self.cuda.synchronize()
        return self.cuda.max_memory_allocated() - before


@pytest.fixture
def gpu_turns(benchmark):
    """Time a kernel on a GPU beside its peers and a plain copy, in turns.

    Call it as `gpu_turns(ours, {"eager": peer, ...}, moved=bytes)`; every function takes no
    arguments and launches its work once. `moved` is what ours must read and write at least, counted
    from the code, and the copy moves as much (half of it read, half written). One turn launches
    each of them for about `turn` seconds, so what is timed is the throughput of repeated calls; up
    to some 20 MB that is the cache's, not the memory's. `extra_info` gets

        us          of one call: quartiles, of each
        ratios      a peer's time over ours in the same turn: quartiles, of each
        cpu_us, cpu_ratios  the same of CPU time, on the CPU: what a busy machine disturbs less
        GB/s        moved / our median time
        of_copy     the copy's time over ours in the same turn: quartiles. 1 is a copy's speed
        peak        bytes allocated by one call, of each
        moved       as given
    """

    def measure(
        ours: Callable[[], object],
        peers: dict[str, Callable[[], object]],
        *,
        moved: int,
        rounds: int = 20,
        turn: float = 0.01,
        device: str = "cuda",
    ) -> None:
        import torch

        watch = _Watch(device)
        source = torch.empty(max(moved // 2, 1), dtype=torch.uint8, device=device).fill_(7)
        target = torch.empty_like(source)
        calls = {"copy": lambda: target.copy_(source), **peers, "ours": ours}
        times: dict[str, int] = {}
        for name, call in calls.items():
            watch(call, 2)  # compiles, fills caches
            times[name] = max(1, min(1000, round(turn / max(watch(call, 2), 1e-7))))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        used: dict[str, list[float]] = {name: [] for name in calls}

        def timed(name: str) -> None:
            before = time.process_time()
            seconds[name].append(watch(calls[name], times[name]))
            used[name].append((time.process_time() - before) / times[name])

        def others() -> None:
            for name in calls:
                if name != "ours":
                    timed(name)

        peaks = {name: watch.peak(call) for name, call in calls.items() if name != "copy"}
        benchmark.pedantic(lambda: timed("ours"), setup=others, rounds=rounds, warmup_rounds=1)
        if benchmark.stats is None:  # --benchmark-disable: nothing was repeated
            return
        each, cpu = (
            {name: np.array(values[-rounds:]) for name, values in measured.items()}
            for measured in (seconds, used)
        )
        if device == "cpu":
            benchmark.extra_info.update(
                {
                    "cpu_us": {name: _quartiles(values * 1e6) for name, values in cpu.items()},
                    "cpu_ratios": {name: _quartiles(cpu[name] / cpu["ours"]) for name in peers},
                }
            )
        benchmark.extra_info.update(
            {
                "calls": times,
                "us": {name: _quartiles(values * 1e6) for name, values in each.items()},
                "ratios": {name: _quartiles(each[name] / each["ours"]) for name in peers},
                "GB/s": moved / float(np.median(each["ours"])) / 1e9,
                "of_copy": _quartiles(each["copy"] / each["ours"]),
                "peak": peaks,
                "moved": moved,
            }
        )

    return measure
