"""What a result was made with: versions and machine, without names of hosts, people or folders."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("numpy", "torch", "triton", "faiss-cpu", "mlxtend")


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Versions of Python, coophash and those of the packages that are installed."""
    from coophash import __version__

    found = {"python": platform.python_version(), "coophash": __version__}
    for name in packages:
        version = installed_version(name)
        if version is not None:
            found[name] = version
    return found


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, without importing it; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model, as the operating system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, str | int]:
    """Processor, its cores that this process may use, operating system and architecture."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def commit() -> str | None:
    """The commit that coophash runs from, "+changes" after it if files differ from it.

    None where it is installed outside a git checkout of its own, or there is no git.
    """
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A checkout of another project that has coophash in its virtual environment is not ours.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    found = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return None if found is None else found[:12] + ("+changes" if changed else "")
