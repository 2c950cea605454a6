"""Errors that say what to do: a missing extra."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or raise an ImportError with the one pip command that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there but one of its own imports is broken: show that instead
        raise ImportError(
            f'{purpose} needs {module}, which is not installed: pip install "coophash[{extra}]"'
        ) from None
