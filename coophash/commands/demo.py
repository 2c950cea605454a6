"""`coophash demo`: 5,000 digits through every layer, to a table and a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

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
    method: Annotated[
        Literal["coophash", "ucch"],
        typer.Option(help="coophash: digits with labels; ucch: halves of digits, no labels."),
    ] = "coophash",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of ucch, in place of updates.")] = None,
) -> None:
    """Train on real digits beside baselines, search, score, and write a report. 5 minutes."""
    from coophash.errors import require

    # Before the minutes of training, not after them.
    for module, purpose in (("matplotlib", "drawing"), ("jinja2", "writing"), ("PIL", "drawing")):
        require(module, "demo", f"{purpose} the report")
    require("torch", "demo", "training")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {str(out)!r} is a file: give a folder")
    if method == "ucch":
        if updates is not None:
            raise ValueError("--updates is not for --method ucch: give --epochs")
        _pairs(out, seed, epochs, bits)
        return
    if epochs is not None:
        raise ValueError("--epochs is for --method ucch: give --updates")
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
    report = found.report
    say(
        f"generator: {100 * report.accuracy:.1f} % of its digits classified right by a network "
        f"that has seen real digits alone ({100 * report.accuracy_real:.1f} % of real ones); "
        f"variety within a class {100 * report.diversity:.0f} % of the real digits'"
    )
    page, results = write_demo(found, out)
    say(f"report: {page}   numbers: {results}   {time.perf_counter() - began:.0f} s")


def _pairs(out: Path, seed: int, epochs: int | None, bits: int) -> None:
    """UCCH on halves of digits."""
    from coophash.pair_demo import run_pair_demo, write_pair_demo
    from coophash.pair_demo_page import BEST, HEADER, result_rows
    from coophash.report import bold_best

    began = time.perf_counter()
    found = run_pair_demo(seed, bits, epochs, say=say)
    rows = result_rows(found)
    sizes = len(found.parts["query"]), len(found.parts["train"])
    table = new_table(
        *HEADER, title=f"{sizes[0]} query pairs, {sizes[1]:,} pairs, {bits} bits, seed {seed}"
    )
    for row, best in zip(rows, bold_best(rows, BEST), strict=True):
        table.add_row(*(f"[bold]{x}[/bold]" if n in best else x for n, x in enumerate(row)))
    console.print(table)
    page, results = write_pair_demo(found, out)
    say(f"report: {page}   numbers: {results}   {time.perf_counter() - began:.0f} s")
