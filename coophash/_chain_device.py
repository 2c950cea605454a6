"""What captured chains need of a device. Tests put a tape of recorded ops in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from coophash.kernels._backend import use_triton

Result = tuple[Tensor, Tensor, Tensor]  # samples, energies (n, B), finite (steps + 1,) bool


class Device(Protocol):
    """What graphs need of a device; CUDA's is `CudaDevice`."""

    def busy(self) -> bool:
        """Whether a capture is already under way, into which a chain must go as it is."""

    def refusal(self, x: Tensor, draws: bool) -> str | None:
        """Why a step of x, with noise of its own or not, cannot be recorded, or None."""

    def aside(self, call: Callable[[], Any]) -> None:
        """Run a call on a side stream, leaving the device's random numbers as they were."""

    def capture(self, call: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record a call: what replays it, and the tensors in which a replay leaves its result."""

    def wait(self, mark: Any) -> None:
        """Let the current stream wait for a mark."""

    def mark(self) -> Any:
        """Where the current stream is now."""

    def finish(self, mark: Any) -> None:
        """Wait, on the host, for a mark."""


class CudaDevice:
    """`Device` of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side: torch.cuda.Stream | None = None

    def busy(self) -> bool:
        with torch.cuda.device(self.device):
            return torch.cuda.is_current_stream_capturing()

    def refusal(self, x: Tensor, draws: bool) -> str | None:
        # Asked beforehand: a capture that fails halfway leaves torch's allocator in it.
        if not draws or (x.dtype != torch.float64 and use_triton(self.device.type)):
            return None
        return (
            "noise is drawn on the host for float64 and where Triton does not run: take float32, "
            "and see `coophash doctor`"
        )

    @property
    def side(self) -> torch.cuda.Stream:
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return self._side

    def aside(self, call: Callable[[], Any]) -> None:
        random = torch.cuda.get_rng_state(self.device)
        current = torch.cuda.current_stream(self.device)
        self.side.wait_stream(current)
        try:
            with torch.cuda.stream(self.side):  # its device too
                call()
        finally:
            current.wait_stream(self.side)
            torch.cuda.set_rng_state(random, self.device)

    def capture(self, call: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        with torch.cuda.device(self.device):
            graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as a loader's that pins memory, may go on with what they do.
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(graph, stream=self.side, capture_error_mode="thread_local"),
            ):
                result = call()
        except Exception:
            # A capture that failed leaves the default generator waiting for its end, and the next
            # torch.randn would fail: give it a state that has not heard of the capture.
            with contextlib.suppress(Exception):
                generator = torch.cuda.default_generators[self.device.index]
                generator.graphsafe_set_state(generator.clone_state())
            raise
        return graph.replay, result

    def wait(self, mark: torch.cuda.Event | None) -> None:
        if mark is not None:
            mark.wait(torch.cuda.current_stream(self.device))

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))  # made on its device by that
        return event

    def finish(self, mark: torch.cuda.Event | None) -> None:
        if mark is not None:
            mark.synchronize()
