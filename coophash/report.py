"""The report: one HTML file with every picture inside, readable offline, on paper and by ear.

Each section is made from plain arrays, and a section that is not given is left out, so the page
serves any model and any codes:

    neighbours = retrieved(queries, database, ids, distances)        # pictures of ranked results
    write_report("report.html", title="My codes", table=table, neighbours=neighbours)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coophash.data import ImageSet
from coophash.encoded import check_writable
from coophash.errors import require
from coophash.figures import image_uri


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        header: names of the columns; the first column names the rows.
        rows: one cell per column, ready to print.
        best: for each row the columns to set in bold.
        note: what the numbers mean, below the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[frozenset[int]] = ()
    note: str = ""

    def cells(self) -> list[list[tuple[str, bool]]]:
        """Rows of (text, bold)."""
        bold = [*self.best, *[frozenset[int]()] * (len(self.rows) - len(self.best))]
        return [
            [(text, column in bold[number]) for column, text in enumerate(row)]
            for number, row in enumerate(self.rows)
        ]


@dataclass(frozen=True)
class Neighbour:
    """One result of a search, as a picture."""

    picture: str  # data: address
    name: str  # its class
    distance: int
    right: bool  # of the query's class


@dataclass(frozen=True)
class Ranking:
    """A query and its nearest neighbours, as pictures."""

    picture: str
    name: str
    neighbours: Sequence[Neighbour]

    @property
    def right(self) -> int:
        """How many neighbours are of the query's class."""
        return sum(neighbour.right for neighbour in self.neighbours)


@dataclass(frozen=True)
class Figure:
    """A picture with the words that stand for it.

    Attributes:
        picture: `data:` address.
        alt: what it shows, for those who do not see it.
        caption: below it.
        columns, rows: words above the columns and beside the rows of a grid of images.
        width: on the page, in CSS pixels; None fits the page.
    """

    picture: str
    alt: str
    caption: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    width: int | None = None


@dataclass(frozen=True)
class Section:
    """Text, tables and pictures under a heading."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)


def retrieved(
    queries: ImageSet, database: ImageSet, rows: ArrayLike, distances: ArrayLike
) -> list[Ranking]:
    """Queries with their neighbours as pictures.

    Args:
        queries: Q labelled images.
        database: the images that were searched.
        rows: (Q, k): rows of `database`, nearest first; -1 where there is no result.
        distances: (Q, k): their Hamming distances.

    Raises:
        ValueError: the shapes do not fit, or a row is outside the database.
    """
    found, far = np.asarray(rows), np.asarray(distances)
    if found.ndim != 2 or found.shape != far.shape or len(found) != len(queries):
        raise ValueError(
            f"rows and distances must both be ({len(queries)}, k), got {found.shape} and "
            f"{far.shape}"
        )
    if found.size and (int(found.max()) >= len(database) or int(found.min()) < -1):
        raise ValueError(f"rows must be from -1 to {len(database) - 1}, got {int(found.max())}")
    rankings = []
    for q in range(len(queries)):
        label = int(queries.labels[q])
        neighbours = [
            Neighbour(
                image_uri(database.images[row]),
                database.class_names[int(database.labels[row])],
                int(distance),
                int(database.labels[row]) == label,
            )
            for row, distance in zip(found[q].tolist(), far[q].tolist(), strict=True)
            if row >= 0
        ]
        rankings.append(
            Ranking(image_uri(queries.images[q]), queries.class_names[label], neighbours)
        )
    return rankings


def bold_best(rows: Sequence[Sequence[Any]], columns: Sequence[int]) -> list[frozenset[int]]:
    """Which cells to set in bold: in each of the columns the largest number, ties included."""
    bold: list[set[int]] = [set() for _ in rows]
    for column in columns:
        values = [row[column] for row in rows]
        for number, value in enumerate(values):
            if value == max(values):
                bold[number].add(column)
    return [frozenset(cells) for cells in bold]


def write_report(
    path: str | Path,
    *,
    title: str,
    lead: str = "",
    table: Table | None = None,
    curve: Figure | None = None,
    neighbours: Sequence[Ranking] = (),
    neighbours_text: str = "",
    sections: Sequence[Section] = (),
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the page, replacing an earlier one in one rename.

    Args:
        path: the HTML file; its folder must be there.
        title: heading of the page.
        lead: one or two sentences below it.
        table: the results.
        curve: beside the results, e.g. the precision-recall curve.
        neighbours: of `retrieved`.
        neighbours_text: above them.
        sections: what follows, in order.
        facts: tables of name and value, e.g. settings, versions, machine.

    Raises:
        ImportError: jinja2 is not installed.
        FileNotFoundError: the folder is not there.
    """
    path = Path(path)
    check_writable(path)
    jinja2 = require("jinja2", "report", "writing the report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coophash", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        title=title,
        lead=lead,
        table=table,
        curve=curve,
        neighbours=neighbours,
        neighbours_text=neighbours_text,
        sections=sections,
        facts=facts or {},
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
