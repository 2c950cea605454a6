"""`coophash evaluate`: scores of codes by their labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coophash.commands.common import SeedOption, console, new_table

if TYPE_CHECKING:
    from coophash.encoded import EncodedSet


def evaluate(
    codes: Annotated[
        Path | None,
        typer.Argument(metavar="[CODES.npz]", help="One file, split by --query-count and --seed."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="Q.npz", help="Codes of the queries.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(metavar="D.npz", help="Codes of the database.")
    ] = None,
    query_count: Annotated[
        int | None, typer.Option(min=1, help="How many codes of the one file are queries.")
    ] = None,
    seed: SeedOption = 0,
    k: Annotated[int | None, typer.Option("-k", min=1, help="Also score the first k.")] = None,
    radius: Annotated[int, typer.Option(min=0, help="Hamming radius of the precision.")] = 2,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here as well.")
    ] = None,
) -> None:
    """Score codes: tie-aware mAP and precision, queries and database from two files or from one."""
    from coophash.encoded import EncodedSet, check_writable
    from coophash.evaluation import evaluate_sets

    if json_ is not None:
        check_writable(json_)
    split: dict[str, object] = {}
    if codes is not None and queries is None and database is None:
        if query_count is None:
            raise ValueError("one file of codes needs --query-count: how many of them are queries")
        asked, searched = _split(EncodedSet.load(codes), query_count, seed)
        split = {"query_count": query_count, "seed": seed}
    elif codes is None and queries is not None and database is not None:
        if query_count is not None:
            raise ValueError("--query-count splits one file; leave it out with two")
        asked, searched = EncodedSet.load(queries), EncodedSet.load(database)
        if queries.resolve() == database.resolve():
            raise ValueError(
                "queries and database are the same file, so every query would find itself: use "
                f"`coophash evaluate {queries} --query-count N`"
            )
    else:
        raise ValueError(
            "give either CODES.npz with --query-count, or --queries Q.npz with --database D.npz"
        )
    scores = evaluate_sets(asked, searched, radius=radius, k=k)
    table = new_table(
        "score", "value",
        title=f"{scores.queries:,} queries, {scores.database:,} codes, {scores.bits} bits",
    )  # fmt: skip
    table.add_row("mAP, mean over the orders of ties", f"{scores.mean_average_precision:.4f}")
    table.add_row("mAP, worst and best order", f"{scores.map_worst:.4f} to {scores.map_best:.4f}")
    table.add_row(f"precision within radius {radius}", f"{scores.precision_at_radius:.4f}")
    if k is not None:
        table.add_row(f"mAP@{k}", f"{scores.map_at_k:.4f}")
        table.add_row(f"precision@{k}", f"{scores.precision_at_k:.4f}")
    console.print(table)
    if json_ is not None:
        record = {**scores.as_dict(), **split}
        json_.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _split(encoded: EncodedSet, count: int, seed: int) -> tuple[EncodedSet, EncodedSet]:
    """Disjoint queries and database, each class in proportion."""
    from coophash.data import split_indices

    if encoded.labels is None:
        raise ValueError("the codes have no labels; scores need the class of every item")
    rows = split_indices(
        encoded.labels, {"query": count, "database": None}, seed, encoded.class_names
    )
    return encoded.subset(rows["query"]), encoded.subset(rows["database"])
