"""Runs a recipe: each run in a folder of its own, recorded once, in pieces if need be.

A folder of a grid holds one folder for each run; `record.json` in it says that the run is done.
What is recorded is skipped, what was begun goes on from its checkpoint, and a lock keeps two
processes from one run, so any number of them can share the folder (on one machine, or on a file
system whose locks work between machines).
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coophash import recipe_evaluation
from coophash._training_data import (
    check_augmentation,
    check_classes,
    check_settings,
    check_validation,
)
from coophash.checkpoints import CHECKPOINT_FILE, write_atomically
from coophash.coop import CoopHash
from coophash.data import ImageSet
from coophash.diagnostics import has_generator
from coophash.environment import commit, machine, versions
from coophash.evaluation import without_classes
from coophash.hasher import ImageHasher, settings_of
from coophash.history import History
from coophash.losses import hash_centers
from coophash.methods import make_model
from coophash.protocols import Split
from coophash.recipe import FIT_SETTINGS, Data, Recipe, Run
from coophash.recovery import can_recover
from coophash.training import fit

RECORD_FILE = "record.json"
HISTORY_FILE = "history.json"
UNSEEN_FOLDER = "unseen"  # in a run's folder: the model that has not learned some classes
_SETTINGS_FILE, _LOCK_FILE = "run.json", "lock"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a grid has come.

    Attributes:
        total, recorded: runs of the grid, and those with a record.
        elsewhere: keys of runs that another process is at.
        stopped: key of the run that the time limit stopped; None where it did not.
    """

    total: int
    recorded: int
    elsewhere: tuple[str, ...]
    stopped: str | None


def run_recipe(
    recipe: Recipe,
    images: ImageSet,
    folder: str | Path,
    *,
    other: ImageSet | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Progress:
    """Do what is left of a recipe.

    Args:
        recipe: of `read_recipe`.
        images: the whole set, in its stored order, training part first.
        folder: of the grid; made if it is missing.
        other: the other collection, where the recipe evaluates one.
        minutes: stop cleanly after so long, in the middle of a run too; None does not. Each call
            does at least one update, so that any number of short ones comes to an end.
        device: "cpu" or "cuda".
        progress: show a bar for each run.
        say: called with a line for each run.

    Raises:
        TypeError, ValueError: a record or a checkpoint in the folder is of other settings or other
            images; or the images do not fit the recipe, or a setting of some run is out of range,
            which is said before the first run.
        KeyboardInterrupt: passed on after a checkpoint is written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file: give a folder for the grid")
    every = _settings(recipe, images)
    facts: dict[str, Any] = {"data_hash": data_hash(images), "images": len(images)}
    if recipe.other is not None:
        recipe_evaluation.check_collection(images, other)
        assert other is not None
        facts |= {"other_hash": data_hash(other), "other_images": len(other)}
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    elsewhere, stopped, worked = [], None, False
    for number, run in enumerate(recipe.runs):
        place, settings = folder / run.key, every[run.key]
        if _recorded(place, settings, facts):
            continue
        if worked and deadline is not None and time.monotonic() >= deadline:
            stopped = run.key
            break
        with _lock(place) as mine:
            if not mine:
                elsewhere.append(run.key)
                continue
            if _recorded(place, settings, facts):  # by another process, since the first look
                continue
            say(f"run {number + 1} of {len(recipe.runs)}: {run.key}")
            limit = None if deadline is None else max(0.0, deadline - time.monotonic())
            record, worked = {"recipe": recipe.title, **settings, **facts}, True
            try:
                finished = _run(run, record, images, other, place, limit, device, progress, say)
            except BaseException:
                if not (place / CHECKPOINT_FILE).exists():  # nothing to go on from: no settings
                    (place / _SETTINGS_FILE).unlink(missing_ok=True)
                raise
            if not finished:
                stopped = run.key
                break
    recorded = sum(_recorded(folder / run.key, every[run.key], facts) for run in recipe.runs)
    return Progress(len(recipe.runs), recorded, tuple(elsewhere), stopped)


def _run(
    run: Run, record: dict[str, Any], images: ImageSet, other: ImageSet | None, place: Path,
    limit: float | None, device: str, progress: bool, say: Callable[[str], None],
) -> bool:  # fmt: skip
    """Train, score and record one run; False if the time limit stopped it."""
    split = run.protocol.split(images.labels)
    model = _model(run, images).to(device)
    validation = images.subset(split.validation, "validation") if len(split.validation) else None
    write_atomically(place / _SETTINGS_FILE, _json(record))
    record = {
        **record,
        "protocol": {"fields": dataclasses.asdict(run.protocol), "split_hash": split.hash,
                     "hash_of_rules": dataclasses.replace(run.protocol, seed=0).hash},
        "commit": commit(), "machine": machine(), "versions": versions(),
        "device": _device_name(model), "threads": torch.get_num_threads(),
    }  # fmt: skip
    started = time.monotonic()
    try:
        history = fit(
            model, images.subset(split.train, "train"), validation, seed=run.seed, folder=place,
            resume=True, time_limit=limit, progress=progress, **run.training,
        )  # fmt: skip
    except FloatingPointError as error:  # a result too: the rest of the grid does not wait for it
        say(f"{run.key}: {error}")
        write_atomically(place / RECORD_FILE, _json({**record, "error": str(error)}))
        return True
    if not history.finished:
        return False
    evaluations: dict[str, Any] = {}
    summary: dict[str, float] = {}
    if "unseen" in run.evaluations:
        left = None if limit is None else max(0.0, limit - (time.monotonic() - started))
        found = _unseen(run, images, split, place, left, device, progress)
        if found is None:
            return False
        evaluations["unseen"], more = found
        summary |= more
    began = time.perf_counter()
    queries, database = (images.subset(rows) for rows in (split.query, split.database))
    scores = run.protocol.evaluate(
        model.encode(queries), model.encode(database), queries.labels, database.labels,
        split=split, bits=run.bits,
    )  # fmt: skip
    for name, function in (
        ("corruption", recipe_evaluation.corruption), ("recovery", recipe_evaluation.recovery)
    ):  # fmt: skip
        if name in run.evaluations and (name != "recovery" or can_recover(model)):
            evaluations[name], more = function(model, queries, database, run.seed)
            summary |= more
    if "collection" in run.evaluations and other is not None:
        found = recipe_evaluation.collection(model, queries, database, other, run.seed)
        evaluations["collection"], more = found
        summary |= more
    if "generator" in run.evaluations and has_generator(model):
        found = recipe_evaluation.generator(
            model, images.subset(split.train), queries, database, run.seed
        )
        evaluations["generator"], more = found
        summary |= more
    seconds = time.perf_counter() - began
    history.save(place / HISTORY_FILE)
    record |= {
        "trained_images": len(split.train), "validation_images": len(split.validation),
        "updates": history.update, "kept_update": history.kept_update,
        "validation_map": dict(history.validation).get(history.kept_update or -1),
        "seconds": round(history.seconds, 2), "seconds_of_scoring": round(seconds, 2),
        "scores": {**scores, **summary},
    }  # fmt: skip
    if run.evaluations:
        record["evaluations"] = evaluations
    write_atomically(place / RECORD_FILE, _json(record))
    for folder in (place, place / UNSEEN_FOLDER):  # several times the model, no longer needed
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    say(f"{run.key}: mAP {scores['map']:.4f}, {_minutes(history)}")
    return True


def _unseen(
    run: Run, images: ImageSet, split: Split, place: Path, limit: float | None, device: str,
    progress: bool,
) -> recipe_evaluation.Found | None:  # fmt: skip
    """Train the run's method without some classes and score it; None if the time limit stopped it.

    The protocol's split is kept, so the database has the unseen classes and training does not.
    """
    classes = recipe_evaluation.unseen_classes(images.classes, run.seed)
    train, validation = (
        without_classes(images.subset(rows, name), classes)
        for rows, name in ((split.train, "train"), (split.validation, "validation"))
    )
    model = _model(run, train).to(device)
    try:
        history = fit(
            model, train, validation if len(validation) else None, seed=run.seed,
            folder=place / UNSEEN_FOLDER, resume=True, time_limit=limit, progress=progress,
            **run.training,
        )  # fmt: skip
    except FloatingPointError as error:  # the run's other figures stand without it
        return {"unseen": list(classes), "error": str(error)}, {}
    if not history.finished:
        return None
    queries, database = (images.subset(rows) for rows in (split.query, split.database))
    return recipe_evaluation.unseen(model, queries, database, classes)


def _settings(recipe: Recipe, images: ImageSet) -> dict[str, dict[str, Any]]:
    """All that decides the result of each run, by key, with every default filled in, and its hash.

    Each model and split is made once: what does not fit is said before hours of training.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(fit).parameters.items()
        if name in FIT_SETTINGS
    }
    models: dict[tuple[str, int], tuple[dict[str, Any], float, int]] = {}
    splits: set[tuple[str, int]] = set()
    found = {}
    for run in recipe.runs:
        if (run.name, run.bits) not in models:
            model = _model(run, images)
            models[run.name, run.bits] = (
                settings_of(model.config), model.learning_rate, _version(model, run.evaluations)
            )  # fmt: skip
        options, rate, version = models[run.name, run.bits]
        training = {**defaults, "learning_rate": rate, **run.training}
        _check_training(run, training, images)
        del training["checkpoint_every"]  # no part of the result
        if (run.protocol.hash, run.seed) not in splits:
            splits.add((run.protocol.hash, run.seed))
            _check_split(run, model, images)
        settings = {
            "version": version, "key": run.key, "name": run.name, "method": run.method,
            "bits": run.bits, "seed": run.seed, "model": options,
            "training": training,
            "protocol_hash": run.protocol.hash,
            "data": _data(run.data),
        }  # fmt: skip
        if run.evaluations:  # only then: records made before there were any stay valid
            settings["evaluate"] = list(run.evaluations)
        if run.other is not None:
            settings["other"] = _data(run.other)
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        found[run.key] = {"hash": digest, **json.loads(text)}
    return found


def _data(data: Data) -> dict[str, Any]:
    return {"name": data.name, "image_size": data.image_size, "channels": data.channels}


def _version(model: ImageHasher, evaluations: Iterable[str]) -> int:
    """Raised when the same settings would give other weights or scores, of the runs concerned.

    3: hash centres of the central ranking loss are drawn where Hadamard's repeat bits, which had
    been taken wherever there are any. All other records of version 2 stay valid.
    """
    c = model.config
    if not isinstance(model, CoopHash) or c.ranking != "central":
        return 2
    counts = {c.classes}
    if "unseen" in evaluations:
        counts.add(c.classes - len(recipe_evaluation.unseen_classes(c.classes, seed=0)))
    for classes in counts:
        before, now = (hash_centers(classes, c.bits, method=m) for m in ("auto", "distinct"))
        if not torch.equal(before, now):
            return 3
    return 2


def _check_training(run: Run, training: dict[str, Any], images: ImageSet) -> None:
    """Raise what `fit` would, with the method's name."""
    rest = {name: value for name, value in training.items() if name not in ("shift", "flip")}
    try:
        check_settings(**rest)
        check_augmentation(training["shift"], training["flip"], images.image_shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"[train] or [methods.{run.name}]: {error}") from None


def _check_split(run: Run, model: ImageHasher, images: ImageSet) -> None:
    split, side = run.protocol.split(images.labels), max(images.image_shape[1:])
    if run.protocol.image_size != side:
        raise ValueError(
            f"the protocol says images of {run.protocol.image_size} pixels, these have {side}: "
            f"set image_size = {side} in [protocol], or resize them by image_size in [data]"
        )
    if not len(split.train):
        raise ValueError(
            f"the protocol keeps all {run.protocol.train} training images back for validation: "
            "raise train in [protocol]"
        )
    check_classes(images.classes, images.labels[split.train], images.class_names)
    if "generator" in run.evaluations:
        recipe_evaluation.check_generator(images, split)
    held = images.labels[split.validation]
    if "unseen" in run.evaluations:
        held = held[~np.isin(held, recipe_evaluation.unseen_classes(images.classes, run.seed))]
    if len(held):
        try:
            check_validation(held)
        except ValueError as error:
            raise ValueError(f"{error}; raise validation in [protocol]") from None


def _model(run: Run, images: ImageSet) -> ImageHasher:
    return make_model(
        run.method, run.bits, images.classes, images.image_shape, images.class_names, run.seed,
        **run.options,
    )  # fmt: skip


def _recorded(place: Path, settings: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether the run has a record; ValueError if what is there is of another run."""
    for name in (RECORD_FILE, _SETTINGS_FILE):
        path = place / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            other, pixels = found["hash"], {key: found[key] for key in _hashes(facts)}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged: remove it to do this run again") from None
        if other != settings["hash"]:
            mend = "" if name == RECORD_FILE else f", or remove {place} to begin the run anew"
            raise ValueError(
                f"{path} is of other settings ({_difference(found, settings)}): give another "
                f"folder for the grid, or another name for the method{mend}"
            )
        if pixels != _hashes(facts):
            raise ValueError(f"{path} is of other images: give another folder for the grid")
        if name == RECORD_FILE:
            return True
    return False


def _hashes(facts: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in facts.items() if key.endswith("_hash")}


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first setting that differs."""
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            for inner in value:
                if value[inner] != other.get(inner):
                    return f"{name}.{inner} is {other.get(inner)!r} there, not {value[inner]!r}"
        elif other != value and name != "hash":
            return f"{name} is {other!r} there, not {value!r}"
    return "an older form"


@contextmanager
def _lock(place: Path) -> Iterator[bool]:
    """Whether this process may work in the folder; the system frees the lock when it ends."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / _LOCK_FILE, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def data_hash(images: ImageSet) -> str:
    """16 hexadecimal digits of the SHA-256 of shape, pixels and labels of a set."""
    digest = hashlib.sha256(f"{images.images.shape}\n".encode())
    digest.update(np.ascontiguousarray(images.images).data)
    digest.update(images.labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _device_name(model: ImageHasher) -> str:
    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _minutes(history: History) -> str:
    return f"{history.seconds / 60:.1f} min, update {history.kept_update or history.update} kept"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
