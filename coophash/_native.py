"""The compiled extension: loading it, and which of its instruction sets to use.

`COOPHASH_ISA` forces an instruction set and `COOPHASH_BACKEND` a backend; both are read at each
call.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

BACKENDS = ("auto", "reference", "native", "triton", "cuda")
ISAS = ("serial", "avx2", "avx512", "neon")


def library() -> ModuleType:
    """The module coophash._C."""
    try:
        return importlib.import_module("coophash._C")
    except ImportError as error:
        raise ImportError(
            f"the compiled part of coophash cannot be loaded ({error}): install the package "
            "(pip install coophash, or pip install -e . in a checkout) with this Python"
        ) from error


def cuda() -> ModuleType:
    """What has the functions cuda_* and the class CudaMemory: the extension."""
    return library()


def cuda_status() -> str:
    """An empty text if a CUDA device can be used, or why none can."""
    status: str = cuda().cuda_status()
    return status


def backend() -> str:
    """What COOPHASH_BACKEND asks for.

    Raises:
        ValueError: it is not one of its choices.
    """
    name = os.environ.get("COOPHASH_BACKEND", "") or "auto"
    if name not in BACKENDS:
        raise ValueError(f"COOPHASH_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def isa() -> str:
    """The instruction set for the next call: its name, or "" for the fastest of this machine.

    Raises:
        ValueError: COOPHASH_ISA or COOPHASH_BACKEND has a value that is not one of its choices.
        RuntimeError: what they ask for cannot run here; the message says why.
    """
    name = backend()
    if name == "cuda":
        raise RuntimeError(
            'COOPHASH_BACKEND=cuda: this search runs on the CPU; give the index device="cuda", or '
            "unset it"
        )
    if name == "reference":
        return "serial"
    # "triton" is about the training ops: search has no Triton backend and is chosen as with "auto"
    name = os.environ.get("COOPHASH_ISA", "")
    if not name:
        return ""
    if name not in ISAS:
        raise ValueError(f"COOPHASH_ISA must be one of {', '.join(ISAS)}, got {name!r}")
    missing = build_info()["isas"][name]
    if missing:
        have = ", ".join(key for key, why in build_info()["isas"].items() if not why)
        raise RuntimeError(f"COOPHASH_ISA={name}: {missing}; this machine and build have {have}")
    return name


def build_info() -> dict[str, Any]:
    """What the extension was built with and what of it can run here.

    Returns:
        version, compiler: text.
        isas: name -> why it cannot run here, or "" if it can; fastest first.
        cuda: whether the CUDA part was built; cuda_reason: why not, or "".
        nvcc_version, cuda_archs: text, "" without CUDA.
    """
    info: dict[str, Any] = library().build_info()
    return info


def check_threads(threads: int | None) -> int:
    """The number of threads to use: as given, or for None one for each core of this process."""
    if threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be a whole number or None, got {type(threads).__name__}")
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads must be 1 to 1024, or None for all cores, got {threads}")
    return threads
