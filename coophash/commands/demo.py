"""`coophash demo`: 5,000 digits through every layer, to a table and a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from coophash.commands.common import SeedOption, console, new_table, say


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report goes.")] = Path(
        "demo-report"
    ),
    seed: SeedOption = 0,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Gradient steps; by default what fills 5 minutes.")
    ] = None,
    bits: Annotated[int, typer.Option(min=1, max=784, help="Length of the codes.")] = 32,
) -> None:
    """Train on real digits beside three baselines, search, score, and write a report. 5 minutes."""
    from coophash.errors import require

    # Before the minutes of training, not after them.
    for module, purpose in (("matplotlib", "drawing"), ("jinja2", "writing"), ("PIL", "drawing")):
        require(module, "demo", f"{purpose} the report")
    require("torch", "demo", "training")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {str(out)!r} is a file: give a folder")
    from coophash.demo import run_demo, write_demo
    from coophash.demo_page import BEST, HEADER, PLAIN, result_rows
    from coophash.report import bold_best

    began = time.perf_counter()
    found = run_demo(seed, bits, updates, say=say)
    rows = result_rows(found)
    database, queries = len(found.parts["database"]), len(found.parts["query"])
    table = new_table(
        *HEADER, title=f"{queries} queries, {database:,} digits, {bits} bits, seed {seed}"
    )
    for row, best in zip(rows, bold_best(rows, BEST), strict=True):
        table.add_row(*(f"[bold]{x}[/bold]" if n in best else x for n, x in enumerate(row)))
    console.print(table)
    say(
        f"{PLAIN.capitalize()}: the same network trained on real digits alone. Worst - best: mAP "
        "by the order of ties."
    )
    check = found.check
    say(
        f"generator: {100 * check.accuracy:.1f} % of its digits classified right by a network that "
        f"has seen real digits alone ({100 * check.accuracy_real:.1f} % of real ones); variety "
        f"within a class {100 * check.diversity:.0f} % of the real digits'"
    )
    page, results = write_demo(found, out)
    say(f"report: {page}   numbers: {results}   {time.perf_counter() - began:.0f} s")
