"""The command line: `coophash COMMAND`, or `python -m coophash COMMAND`.

Errors in what was given show as one line on stderr and exit 2; COOPHASH_DEBUG=1 shows where they
were raised. Ctrl-C exits 130. Each command is a file in `coophash/commands`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# What coophash raises for input that it cannot use; anything else is a bug and shows its traceback.
USER_ERRORS = (
    ValueError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError, MemoryError
)  # fmt: skip
INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 2 wrong input, 130 interrupted.

    Args:
        arguments: those after the program's name; of the process by default.
    """
    # Read when torch is first imported. By default OpenMP threads spin at every barrier; where
    # another process has the core of one, an update of 0.24 s was seen to take 4.1 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from coophash.commands import build

        app = build()
    except ImportError as error:
        if debugging():
            raise
        hint = " (`python -m coophash.doctor` works without it)" if error.name is None else ""
        fail(f"{error}{hint}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app(args=None if arguments is None else list(arguments), prog_name="coophash")
    sys.exit(0)


def debugging() -> bool:
    """Whether errors are to show their traceback."""
    return os.environ.get("COOPHASH_DEBUG", "") not in ("", "0")


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line `error: ...` on stderr and exit."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def describe(error: BaseException) -> str:
    """One line for an error of the user's making."""
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{os.fspath(error.filename)!r}: "
        return f"{name}{error.strerror}"
    return str(error) or type(error).__name__
