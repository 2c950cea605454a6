"""`coophash doctor`: what works here, and what to do about the rest."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say which parts work here, and for each that does not, why and the command to mend it."""
    from coophash.doctor import examine, healthy, render

    findings = examine()
    typer.echo(render(findings))
    raise typer.Exit(0 if healthy(findings) else 1)
