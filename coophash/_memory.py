"""How much memory there is, and refusing what does not fit."""

from __future__ import annotations

import os
from pathlib import Path


def check_memory(size: int, what: str) -> None:
    """Refuse a result that there is no memory for, before the system ends the process.

    Args:
        size: bytes.
        what: the result, in the plural.

    Raises:
        MemoryError: saying how much there is and what to do.
    """
    if size < 1 << 20:
        return
    available = available_memory()
    if available is not None and size > available:
        raise MemoryError(
            f"{what} take {_size(size)} and this machine has {_size(available)} free: ask for "
            "less, or for a part of the queries at a time"
        )


def available_memory() -> int | None:
    """Bytes that this process can still take; None on a system that does not say."""
    known = [_of_the_machine(), _of_the_group()]
    return min((bytes for bytes in known if bytes is not None), default=None)


def _of_the_machine() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_the_group() -> int | None:
    """What is left of the limit of a container (control groups, version 2)."""
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if not limit or not used or not limit[0].isdecimal() or not used[0].isdecimal():
        return None
    # Cached files count as used, and give way.
    cached = [
        int(line.split()[1])
        for line in _lines("/sys/fs/cgroup/memory.stat")
        if line.startswith(("active_file ", "inactive_file "))
    ]
    return max(0, int(limit[0]) - int(used[0]) + sum(cached))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 10**8 else f"{size / 1e6:,.1f} MB"
