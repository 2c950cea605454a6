"""What every benchmark records beside its times: the machine, the versions, the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

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
