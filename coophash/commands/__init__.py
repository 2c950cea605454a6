"""The commands of the command line, one file each; `build` puts them together."""

from __future__ import annotations

from typing import Any

from coophash.errors import require


def build() -> Any:
    """The typer application.

    Raises:
        ImportError: typer is not installed.
    """
    require("typer", "cli", "the command line")
    require("rich", "cli", "the command line")
    from coophash.commands.app import make_app

    return make_app()
