"""Which implementation runs: COOPHASH_BACKEND, and whether Triton is there.

Imports neither torch nor Triton.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings

BACKENDS = ("auto", "reference", "native", "triton", "cuda")


def requested_backend() -> str:
    """The value of COOPHASH_BACKEND, `auto` where it is unset.

    Raises:
        ValueError: the value is none of `BACKENDS`.
    """
    value = os.environ.get("COOPHASH_BACKEND", "").strip().lower() or "auto"
    if value not in BACKENDS:
        raise ValueError(
            f"COOPHASH_BACKEND must be one of {', '.join(BACKENDS)}, got {value!r}: "
            "correct it, or unset it to choose automatically"
        )
    return value


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed. Looks for it without importing it."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's own interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


def use_triton(device_type: str) -> bool:
    """Whether a training op runs its Triton kernel on tensors of this device.

    `native` and `cuda` choose among the packed-search backends and leave training ops on automatic.

    Raises:
        RuntimeError: COOPHASH_BACKEND=triton, and Triton is not installed or cannot run there.
    """
    backend = requested_backend()
    if backend == "reference":
        return False
    reason = triton_missing(device_type)
    if backend == "triton":
        if reason:
            raise RuntimeError(f"COOPHASH_BACKEND=triton, but {reason}")
        return True
    if device_type == "cuda" and reason:
        _warn_once(f"coophash runs its slower PyTorch reference on {device_type}: {reason}")
    return device_type == "cuda" and not reason


def triton_missing(device_type: str = "cuda") -> str | None:
    """Why Triton kernels cannot run on this device and what to do, or None when they can."""
    if not has_triton():
        return "Triton is not installed: pip install triton (CUDA builds of torch bring it)"
    if device_type != "cuda" and not interpreting():
        return (
            f"the tensors are on {device_type} and Triton kernels need a CUDA device: move them "
            "there, or set TRITON_INTERPRET=1 before Python starts to run the kernels in Triton's "
            "interpreter, which is slow"
        )
    return None


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
