"""`coophash evaluate`: scores of codes by their labels."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
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
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Split and score by a protocol that `coophash data list` names."
        ),
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here as well.")
    ] = None,
) -> None:
    """Score codes: tie-aware mAP and precision, queries and database from two files or from one."""
    from coophash.encoded import EncodedSet, check_writable
    from coophash.evaluation import evaluate_sets

    if json_ is not None:
        check_writable(json_)
    if queries is not None and database is not None and protocol is None:
        pair = EncodedSet.load(queries), EncodedSet.load(database)
        if all(part.modalities is not None for part in pair):
            from coophash.commands.pairs import evaluate_encoded

            both = evaluate_encoded(*pair, radius, k)
            if json_ is not None:
                json_.write_text(json.dumps(both, indent=1) + "\n", encoding="utf-8")
            return
    if protocol is not None:
        if query_count is not None or k is not None:
            raise ValueError("--protocol fixes the queries and k: leave --query-count and -k out")
        record = _by_protocol(protocol, seed, codes, queries, database, radius)
        _show(record)
        _tell_learned(record)
        if json_ is not None:
            json_.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return
    split: dict[str, object] = {}
    if codes is not None and queries is None and database is None:
        if query_count is None:
            raise ValueError("one file of codes needs --query-count: how many of them are queries")
        whole = EncodedSet.load(codes)
        if whole.modalities is not None:
            raise ValueError(
                f"{str(codes)!r} has images and texts, which --query-count would mix: encode the "
                "queries and the database apart and give --queries Q.npz with --database D.npz"
            )
        asked, searched = _split(whole, query_count, seed)
        split = {"query_count": query_count, "seed": seed}
    elif codes is None and queries is not None and database is not None:
        if query_count is not None:
            raise ValueError("--query-count splits one file; leave it out with two")
        asked, searched = EncodedSet.load(queries), EncodedSet.load(database)
        if (asked.modalities is None) != (searched.modalities is None):
            raise ValueError(
                "queries and database must both be images, or both pairs of images and texts: one "
                "of the files has pairs, the other has not"
            )
        _tell_found(asked, searched)
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
    record = {**scores.as_dict(), **split, **_learned(asked)}
    _tell_learned(record)
    if json_ is not None:
        json_.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _by_protocol(
    name: str,
    seed: int,
    codes: Path | None,
    queries: Path | None,
    database: Path | None,
    radius: int,
) -> dict[str, Any]:
    """The record of codes of a whole set, which the protocol splits, or of its two parts."""
    from coophash import protocols
    from coophash.encoded import EncodedSet
    from coophash.evaluation import check_comparable

    protocol = replace(protocols.get(name), seed=seed)
    if codes is not None and queries is None and database is None:
        whole = EncodedSet.load(codes)
        if whole.labels is None:
            raise ValueError("the codes have no labels; scores need the class of every item")
        order = np.argsort(whole.ids)
        if not np.array_equal(whole.ids[order], np.arange(len(whole))):
            raise ValueError(
                f"{name} splits a whole set by the number of each item, and the ids of {codes} are "
                f"not 0 to {len(whole) - 1}: encode the whole set with `coophash encode`"
            )
        whole = whole.subset(order)
        labels = whole.labels
        assert labels is not None
        split = protocol.split(labels)
        asked, searched = whole.subset(split.query), whole.subset(split.database)
    elif codes is None and queries is not None and database is not None:
        split, asked, searched = None, EncodedSet.load(queries), EncodedSet.load(database)
    else:
        raise ValueError(
            "--protocol takes CODES.npz of the whole set, or --queries Q.npz with --database D.npz"
        )
    for name, part in (("queries", asked), ("database", searched)):
        if part.modalities is not None:
            raise ValueError(
                f"the {name} are images and texts, and {protocol.name} is of images alone"
            )
    check_comparable(asked, searched)
    _tell_found(asked, searched)
    record = protocol.evaluate(
        asked.codes, searched.codes, asked.labels, searched.labels,
        split=split, bits=asked.bits, radius=radius,
    )  # fmt: skip
    return record | _learned(asked)


def _learned(asked: EncodedSet) -> dict[str, Any]:
    """How many of the queries the model was trained on; nothing where that is not known."""
    return {} if asked.learned is None else {"queries_learned": int(asked.learned.sum())}


def _tell_found(asked: EncodedSet, searched: EncodedSet) -> None:
    """Queries that are items of the database find themselves first: say so.

    Sets that were encoded apart may have ids and even paths in common, but not all codes as well.
    """
    order = np.argsort(searched.ids, kind="stable")
    if not len(asked) or not len(order):
        return
    place = np.searchsorted(searched.ids, asked.ids, sorter=order)
    rows = order[place.clip(max=len(order) - 1)]
    same = (searched.ids[rows] == asked.ids).all()
    if not same or asked.bits != searched.bits or (searched.codes[rows] != asked.codes).any():
        return
    if asked.paths is not None and searched.paths is not None:
        found = tuple(searched.paths[row] for row in rows.tolist())
        if found != asked.paths:
            return
    print(
        "warning: every query has the id and the code of an item of the database: if they are the "
        "same items, each finds itself first, and these are not the scores of new ones",
        file=sys.stderr,
    )


def _tell_learned(record: dict[str, Any]) -> None:
    """Scores of learned queries are not those of new images: say so, beside them."""
    if count := record.get("queries_learned"):
        print(
            f"warning: {count:,} of the {record['queries']:,} queries were trained on: these are "
            "not the scores of new images. Encode images that the model has not seen "
            "(encode --split test, or another folder) and give them as --queries, with --database",
            file=sys.stderr,
        )


def _show(record: dict[str, Any]) -> None:
    table = new_table(
        "score", "value",
        title=f"{record['protocol']} ({record['protocol_hash']}), {record['bits']} bits",
    )  # fmt: skip
    cut = "" if record["k"] is None else f"@{record['k']:,}"
    table.add_row("queries, database", f"{record['queries']:,}, {record['database']:,}")
    table.add_row(f"mAP{cut}, ties: {record['ties']}", f"{record['map']:.4f}")
    table.add_row(
        f"mAP{cut}, worst and best order", f"{record['map_worst']:.4f} to {record['map_best']:.4f}"
    )
    if record["k"] is not None:
        table.add_row("mAP of all ranks", f"{record['map_all']:.4f}")
        table.add_row(f"precision{cut}", f"{record['precision_at_k']:.4f}")
    table.add_row(
        f"precision within radius {record['radius']}", f"{record['precision_at_radius']:.4f}"
    )
    if record["queries_without_relevant"]:
        table.add_row(
            f"queries with nothing relevant (count {record['empty']})",
            f"{record['queries_without_relevant']:,}",
        )
    table.add_row("split", record["split_hash"] or "not told")
    console.print(table)


def _split(encoded: EncodedSet, count: int, seed: int) -> tuple[EncodedSet, EncodedSet]:
    """Disjoint queries and database, each class in proportion."""
    from coophash.data import split_indices

    if encoded.labels is None:
        raise ValueError("the codes have no labels; scores need the class of every item")
    rows = split_indices(
        encoded.labels, {"query": count, "database": None}, seed, encoded.class_names
    )
    return encoded.subset(rows["query"]), encoded.subset(rows["database"])
