"""Ctrl-C that waits for the end of an update."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class DeferredInterrupt:
    """Hold a SIGINT back until the block ends, then raise KeyboardInterrupt.

    An update changes weights, optimiser state and counters together; a checkpoint written after an
    interruption in the middle would resume to other weights. Off the main thread, where Python
    delivers no signals, it does nothing.
    """

    def __enter__(self) -> DeferredInterrupt:
        self.arrived = False
        self.previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.getsignal(signal.SIGINT)
            if self.previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.previous)
        if self.arrived and kind is None:
            raise KeyboardInterrupt
