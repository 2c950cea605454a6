"""`coophash data`: what known data sets consist of, and whether a folder holds one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from coophash.commands.common import console, new_table, say

app = typer.Typer(help="Known data sets: list them, check a folder.", no_args_is_help=True)
_COLOURS = {"ok": "green", "note": "yellow", "missing": "red", "differs": "red"}


@app.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the data.")],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A set or protocol that `coophash data list` names."),
    ],
    lists: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the list files are, if not in ROOT."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="How many images that lists name are opened.")
    ] = 1000,
) -> None:
    """Say what is there, what is missing and what differs; exit 1 if anything does."""
    from coophash import protocols
    from coophash.data import check_dataset

    known = protocols.get(name).dataset if name in protocols.names() else name
    report = check_dataset(root, known, lists, images)
    say(f"{report.known.title} in {root}")
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in report.findings:
        table.add_row(
            Text(finding.level, _COLOURS[finding.level]), Text(finding.subject), Text(finding.text)
        )
    console.print(table)
    if report.known.note:
        say(f"known: {report.known.note}")
    levels = [finding.level for finding in report.findings]
    faults = [f"{levels.count(x)} {x}" for x in ("missing", "differs") if x in levels]
    say(", ".join(faults) or "complete")
    raise typer.Exit(0 if report.ok else 1)


@app.command("list")
def list_() -> None:
    """Name the known data sets with what each needs, and the protocols over them."""
    from coophash import protocols
    from coophash.data.known import KNOWN

    table = new_table("set", "", "classes", "what ROOT must hold")
    table.columns[1].justify = table.columns[3].justify = "left"
    for known in KNOWN.values():
        classes = "any" if known.classes is None else str(known.classes)
        table.add_row(known.name, known.title, classes, known.expects)
    console.print(table)
    say(
        "List files: test.txt (the queries), train.txt and database.txt, in ROOT or where\n"
        "`check --lists` says; a line is a path under ROOT and a zero or one per class.\n"
    )
    table = new_table("protocol", "query", "train", "database", "k", "hash")
    for name in protocols.names():
        protocol = protocols.get(name)
        counts = [
            "any" if protocol.counts[part] is None else f"{protocol.counts[part]:,}"
            for part in ("query", "train", "database")
        ]
        cut = "all" if protocol.k is None else f"{protocol.k:,}"
        table.add_row(name, *counts, cut, protocol.hash)
    console.print(table)
    say("Nothing is downloaded. coophash.protocols.get(NAME) tells the rest.")
