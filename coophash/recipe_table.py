"""Tables of recorded runs: from their JSON alone, never by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from coophash.recipe_runner import RECORD_FILE

Record = dict[str, Any]


def read_records(folder: str | Path) -> list[Record]:
    """The records under a folder, in the order of their names; each says its "file" as well.

    Raises:
        FileNotFoundError: there is no such folder, or no record in it.
        ValueError: a record is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {str(folder)!r}")
    records = []
    for path in sorted(folder.rglob(RECORD_FILE)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            complete = isinstance(record["scores"] if "error" not in record else {}, dict)
            complete = complete and {"name", "bits", "seed", "protocol", "training"} <= set(record)
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise ValueError(f"{path} is damaged: remove it and run the recipe again")
        records.append({**record, "file": str(path)})
    if not records:
        raise FileNotFoundError(f"no {RECORD_FILE} under {str(folder)!r}: run the recipe first")
    return records


def make_table(records: Iterable[Record], metric: str = "map") -> str:
    """Markdown: a row for each method, a column for each number of bits, and what they share.

    A cell is the mean over seeds ± the sample standard deviation (one seed: no spread), and the
    number of seeds in brackets; the best mean of a column is bold.

    Args:
        records: of `read_records`, all by one protocol (seeds aside) on the same images; those of
            one name with the same settings (bits aside), each seed once.
        metric: a score of `Protocol.evaluate`, e.g. "map" or "precision_at_radius";
            "validation_map", "seconds", or one that `evaluate` adds, e.g. "corruption_loss": of a
            loss the smallest mean is bold. Methods without the figure have "-".

    Raises:
        ValueError: no records, records that are not comparable or not of one recipe, or a metric
            that they lack.
    """
    found = list(records)
    if not found:
        raise ValueError("there are no records to make a table of")
    _check_comparable(found)
    _check_seeds(found)
    _check_settings(found)
    good = [record for record in found if "error" not in record]
    names, lengths = _rows(found), sorted({int(record["bits"]) for record in found})
    cells = {
        (name, bits): [
            value
            for record in good
            if record["name"] == name and record["bits"] == bits
            for value in _values(record, metric, good)
        ]
        for name in names
        for bits in lengths
    }
    choose: Any = min if metric.endswith("_loss") else max
    best = {
        bits: choose((mean(cells[name, bits]) for name in names if cells[name, bits]), default=None)
        for bits in lengths
    }
    lines = [
        f"| {metric} | " + " | ".join(f"{bits} bits" for bits in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for name in names:
        row = []
        for bits in lengths:
            failed = sum(
                "error" in r for r in found if r["name"] == name and int(r["bits"]) == bits
            )
            bold = metric != "seconds" and bool(cells[name, bits]) and len(names) > 1
            bold = bold and mean(cells[name, bits]) == best[bits]
            row.append(_cell(cells[name, bits], failed, bold, 1 if metric == "seconds" else 4))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *_notes(found)]) + "\n"


def _cell(values: list[float], failed: int, bold: bool, digits: int) -> str:
    diverged = f"{failed} diverged" if failed else ""
    if not values:
        return diverged or "-"
    text = f"{mean(values):.{digits}f}"
    text = f"**{text}**" if bold else text
    if len(values) > 1:
        text += f" ± {stdev(values):.{digits}f}"
    return f"{text} ({len(values)}{', ' + diverged if diverged else ''})"


def _values(record: Record, metric: str, records: list[Record]) -> list[float]:
    """The record's value, or none where only other methods have such a figure.

    Raises:
        ValueError: no record has it.
    """
    value = _value(record, metric)
    if value is not None:
        return [value]
    if any(_value(each, metric) is not None for each in records):
        return []
    known = [name for name, value in record["scores"].items() if isinstance(value, float)]
    raise ValueError(
        f"{record['key']} has no score {metric!r}; there are {', '.join(known)}, validation_map "
        "and seconds"
    )


def _value(record: Record, metric: str) -> float | None:
    for place in (record["scores"], record):
        value = place.get(metric)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _rows(records: list[Record]) -> list[str]:
    """Names in the order of the methods, variants after what they are of."""
    from coophash.methods import METHODS

    def place(record: Record) -> tuple[int, str]:
        return METHODS.index(record["method"]), record["name"]

    return list(dict.fromkeys(record["name"] for record in sorted(records, key=place)))


def _check_comparable(records: list[Record]) -> None:
    first = records[0]
    for record in records[1:]:
        for what, one, other in (
            ("protocols", first["protocol"]["hash_of_rules"], record["protocol"]["hash_of_rules"]),
            ("images", first["data_hash"], record["data_hash"]),
        ):
            if one != other:
                raise ValueError(
                    f"{first['key']} and {record['key']} are of different {what} ({one} and "
                    f"{other}): their scores are not comparable, make a table of each"
                )


def _check_seeds(records: list[Record]) -> None:
    """Raise ValueError for a seed that would count twice in its cell."""
    seen: dict[tuple[str, int, int], Record] = {}
    for record in records:
        name, bits, seed = record["name"], int(record["bits"]), int(record["seed"])
        first = seen.setdefault((name, bits, seed), record)
        if first is not record:
            raise ValueError(
                f"{_file(first)} and {_file(record)} are both {name} at {bits} bits with seed "
                f"{seed}, which would count twice: make a table of each recipe's folder, or take "
                "one of the two away"
            )


def _check_settings(records: list[Record]) -> None:
    """Raise ValueError where one name stands for several settings, bits and seed aside."""
    known: dict[tuple[str, str], tuple[Any, bool, Record]] = {}
    for record in records:
        for what, (value, by_default) in _settings(record).items():
            first, first_by_default, other = known.setdefault(
                (record["name"], what), (value, by_default, record)
            )
            if value != first and not (by_default and first_by_default):
                raise ValueError(
                    f"{_file(other)} and {_file(record)} are both called {record['name']} but "
                    f"{what} is {first!r} and {value!r}: make a table of each recipe's folder, or "
                    "give one of the two another name in its recipe"
                )


def _settings(record: Record) -> dict[str, tuple[Any, bool]]:
    """What must be equal under one name, and whether it is the method's default for its bits.

    A setting that a record lacks is not compared: it may have been made before there was one. Of
    those that records leave out while they have their default, it is known: that default.
    """
    from coophash.coop_config import CoopHashConfig
    from coophash.supervised import METHODS, SupervisedHashConfig, default_options

    config: Any = SupervisedHashConfig if record["method"] in METHODS else CoopHashConfig
    left_out = {f.name: f.default for f in dataclasses.fields(config) if f.metadata.get("later")}
    defaults = default_options(record["method"], int(record["bits"]))
    found = {
        f"model.{name}": (value, name in defaults and value == defaults[name])
        for name, value in {**left_out, **record.get("model", {})}.items()
        if name != "bits"
    }
    found |= {f"training.{name}": (value, False) for name, value in record["training"].items()}
    found |= {name: (record[name], False) for name in ("method", "other_hash") if name in record}
    if "version" in record:  # it may differ between numbers of bits, see `recipe_runner`
        found[f"version at {record['bits']} bits"] = record["version"], False
    return found


def _file(record: Record) -> str:
    return str(record.get("file", record["key"]))


def _notes(records: list[Record]) -> list[str]:
    """What stands under a table: protocol, budget, seeds, machine, versions, commit."""
    first = records[0]
    fields, hashes = first["protocol"]["fields"], first["protocol"]["hash_of_rules"]
    parts = {r.get("trained_images") for r in records} - {None}
    held = {r.get("validation_images") for r in records} - {None}
    scores: Record = next((r["scores"] for r in records if "scores" in r), {})
    cut = "all ranks" if fields["k"] is None else f"the first {fields['k']:,} ranks"
    notes = [
        f"- {first['recipe']}: data {first['data']['name']} ({first['images']:,} images, "
        f"{first['data_hash']}), protocol {fields['name']} ({hashes}), {cut}, ties "
        f"{fields['ties']}",
    ]
    if scores:
        notes.append(
            f"- {_counts(parts)} images to train on, {_counts(held)} to choose the update by, "
            f"{scores['queries']:,} queries, {scores['database']:,} in the database"
        )
    notes.append(f"- seeds {_counts({r['seed'] for r in records})}")
    for text, values in {
        "updates": {r["training"]["updates"] for r in records},
        "commit": {r["commit"] or "unknown" for r in records},
        "machine": {f"{r['machine']['cpu']}, {r['machine']['cores']} cores" for r in records},
        "device": {r["device"] for r in records},
        "torch": {r["versions"].get("torch", "unknown") for r in records},
    }.items():
        notes.append(f"- {text}: {', '.join(sorted(map(str, values)))}")
    return notes


def _counts(values: set[Any]) -> str:
    return ", ".join(f"{value:,}" for value in sorted(values)) or "no"
