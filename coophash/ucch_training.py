"""The training loop of UCCH: epochs over pairs, validation, checkpoints, progress."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coophash import checkpoints
from coophash._options import check_integer
from coophash._pair_input import check_pairs, check_seed, digest_of, labels_digest
from coophash.data.pairs import PairSet
from coophash.errors import require
from coophash.history import History
from coophash.interrupts import DeferredInterrupt
from coophash.metrics import mean_average_precision
from coophash.ucch import UCCH, MemoryBank, ucch_step

MILESTONES = (30, 60, 90, 120)  # epochs at which "steps" divides the learning rate by 10
_DIVERGED = (
    "training diverged: {} is {} in epoch {}. Lower learning_rate, or standardise the features"
)
AUTHORS = 2000  # pairs of the authors' validation


def fit_pairs(
    model: UCCH,
    pairs: PairSet,
    validation: PairSet | float | str | None = 0.1,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    validate_every: int = 1,
    checkpoint_every: int = 5,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train a model in place on pairs; labels are not looked at.

    Args:
        model: a `UCCH`, on the device to train on.
        pairs: a `PairSet`.
        validation: what chooses the epoch whose weights the model ends with, by the mean mAP of
            both directions. A share from 0 to 1: so many of the pairs, drawn at random, are held
            out of training and searched for among the others. A `PairSet`: its pairs are. None:
            the last weights stay. "authors": the first 2,000 training pairs search themselves, as
            in the authors' code, which flatters. Where there are labels, a pair is right if it
            shares one (model selection by labels, as in the literature); without labels, if it is
            the query's own partner.
        epochs, batch_size, learning_rate: in place of those of the model's config.
        seed: of the bank, the batches and every draw. Equal seeds on one machine with equal numbers
            of threads give equal weights, with or without stops in between.
        validate_every, checkpoint_every: in epochs.
        folder: keeps a checkpoint and, at the end, the model. None keeps nothing.
        resume: go on from the checkpoint in `folder`, if there is one.
        progress: show a bar with the time left.

    Returns:
        The run's `History`, one record an epoch.

    Raises:
        TypeError, ValueError: data or settings that do not fit, a validation that can choose
            nothing, or a checkpoint that was made with others. The model is then as it was.
        FloatingPointError: the training diverged; `folder` keeps its last good checkpoint.
        NotADirectoryError: the folder is a file.
        KeyboardInterrupt: passed on after the checkpoint is written.
    """
    given: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate
    }  # fmt: skip
    config = dataclasses.replace(
        model.config, **{name: value for name, value in given.items() if value is not None}
    )
    seed = check_seed(seed)
    validate_every = check_integer("validate_every", validate_every, 1)
    checkpoint_every = check_integer("checkpoint_every", checkpoint_every, 1)
    if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"folder {str(folder)!r} is a file: give another name")
    if resume and folder is None:
        raise ValueError("resume needs folder: the folder that holds the checkpoint")
    if not isinstance(pairs, PairSet):
        raise TypeError(f"pairs must be a PairSet, got {type(pairs).__name__}")
    if (dtype := model.image_encoder.mean.dtype) != torch.float32:
        raise TypeError(f"model must be float32 to be trained, got {dtype}: call model.float()")
    check_pairs(pairs, model, "pairs")
    trained, queries, database = _validation(model, pairs, validation, seed)
    size = config.batch_size
    if len(trained) < size:
        raise ValueError(
            f"batch_size must be at most the {len(trained):,} pairs to train on, got {size}"
        )
    settings = {
        "model": _plain(dataclasses.asdict(config)), "preset": model.preset,
        "pairs": len(trained), "seed": seed, "pairs_digest": digest_of(pairs),
        "validation": validation if isinstance(validation, str) else
        (0 if queries is None else len(queries)),
        "validate_every": validate_every,
    }  # fmt: skip
    if queries is not None:
        held = validation if isinstance(validation, PairSet) else None
        settings["validation_digest"] = labels_digest(trained, queries, held)
    path = None if folder is None else Path(folder) / checkpoints.CHECKPOINT_FILE
    if path is not None and path.exists() and not resume:
        raise ValueError(
            f"{path} is the checkpoint of an earlier run: resume it, or give another folder"
        )
    before = model.config, {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.config = config
    try:
        run = _Run(model, trained, queries, database, settings, path)
        if resume:
            run.resume()
    except BaseException:
        model.config = before[0]
        model.load_state_dict(before[1])
        raise
    run.train(checkpoint_every, progress)
    if folder is not None:
        model.save(folder)
    return run.history


class _Run:
    """One training run: what changes while it goes on, and how that is saved and restored."""

    def __init__(
        self,
        model: UCCH,
        pairs: PairSet,
        queries: PairSet | None,
        database: PairSet | None,
        settings: dict[str, Any],
        path: Path | None,
    ) -> None:
        self.model, self.pairs, self.queries, self.database = model, pairs, queries, database
        self.path, self.epoch, self.place = path, 0, 0
        self.history = History(settings)
        c = model.config
        self.device = next(model.parameters()).device
        if c.standardize:
            model.learn_statistics(pairs)
        # Once, not in every epoch: the features fit in memory twice, or they would not be here.
        self.images = model.prepared(
            model.image_encoder, torch.as_tensor(pairs.images, device=self.device)
        )
        self.texts = model.prepared(
            model.text_encoder, torch.as_tensor(pairs.texts, device=self.device)
        )
        self.bank = MemoryBank(len(pairs), c.bits, settings["seed"]).to(self.device)
        self.optimizer = torch.optim.Adam(
            model.parameters(), c.learning_rate, weight_decay=c.weight_decay, fused=True
        )
        self.updates = len(pairs) // c.batch_size  # in an epoch
        self.best_map = -math.inf
        self.kept: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}

    def train(self, checkpoint_every: int, progress: bool) -> None:
        c = self.model.config
        tqdm = require("tqdm", "train", "the progress bar").tqdm if progress else None
        bar = None
        if tqdm is not None:
            bar = tqdm(
                total=c.epochs * self.updates, initial=self.epoch * self.updates + self.place,
                desc="train UCCH", unit="update", dynamic_ncols=True,
            )  # fmt: skip
        earlier, started = self.history.seconds, time.perf_counter()

        def seconds() -> float:
            return earlier + time.perf_counter() - started

        self.model.train()
        try:
            if self.after_epoch(seconds()):  # what a stop left out
                self.save()
            while self.epoch < c.epochs:
                with DeferredInterrupt():
                    self.one_update()
                if bar is not None:
                    bar.update()
                if self.place:
                    continue
                self.after_epoch(seconds())
                if bar is not None and self.history.validation:
                    score = self.history.validation[-1][1]
                    bar.set_postfix(mAP=f"{score:.3f}", refresh=False)
                if self.epoch == c.epochs or self.epoch % checkpoint_every == 0:
                    self.save()
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            if bar is not None:
                bar.close()
        if self.kept:
            self.model.load_state_dict(self.kept)
        self.model.eval()

    def after_epoch(self, seconds: float) -> bool:
        """Record and validate an epoch where that is due and not done yet; whether it was."""
        if self.place or not self.epoch:
            return False
        records, done = self.history.records, False
        if not records or records[-1]["epoch"] != self.epoch:
            self.record(seconds)
            done = True
        due = self.epoch == self.model.config.epochs
        due = due or self.epoch % self.history.settings["validate_every"] == 0
        if self.queries is not None and due and "validation_map" not in records[-1]:
            self.validate()
            done = True
        return done

    def one_update(self) -> None:
        c, seed = self.model.config, self.history.settings["seed"]
        update = self.epoch * self.updates + self.place
        for group in self.optimizer.param_groups:
            group["lr"] = c.learning_rate * self.rate(update)
        rows = torch.from_numpy(self.batch(seed, c.batch_size)).to(self.device)
        batch = (rows, self.images[rows], self.texts[rows])
        warm_up = self.epoch < c.warmup_epochs
        with self.divergence():
            watched = ucch_step(
                self.model, self.bank, *batch, self.optimizer, seed, update, warm_up=warm_up
            )
        for name, value in watched.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.place += 1
        if self.place == self.updates:
            self.epoch, self.place = self.epoch + 1, 0

    @contextmanager
    def divergence(self) -> Iterator[None]:
        """Says so where outputs have no sign any more, which `pack` refuses."""
        try:
            yield
        except ValueError:
            with torch.no_grad():
                outputs = (
                    self.model.image_encoder(self.images[:64]),
                    self.model.text_encoder(self.texts[:64]),
                )
            values = (*self.model.parameters(), *outputs)
            if all(bool(torch.isfinite(value).all()) for value in values):
                raise
            place = min(self.epoch + 1, self.model.config.epochs)
            told = _DIVERGED.format("an output", "NaN", place)
            raise FloatingPointError(told) from None

    def rate(self, update: int) -> float:
        """Learning rate as a share of the first."""
        c = self.model.config
        if c.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * update / (c.epochs * self.updates)))
        if c.schedule == "steps":
            return float(0.1 ** sum(self.epoch >= milestone for milestone in MILESTONES))
        return 1.0

    def batch(self, seed: int, size: int) -> NDArray[np.int64]:
        """Rows of one batch: a function of (seed, epoch, place), as a resumed run needs it."""
        order = np.random.default_rng([seed, self.epoch]).permutation(len(self.pairs))
        return order[self.place * size : (self.place + 1) * size]

    def record(self, seconds: float) -> None:
        means = {name: float(value) / self.updates for name, value in self.sums.items()}
        self.check_finite()
        with DeferredInterrupt():
            self.sums = {}
            self.history.records.append(
                {"update": self.epoch * self.updates, "epoch": self.epoch,
                 "seconds": round(seconds, 3), **means}
            )  # fmt: skip

    def check_finite(self) -> None:
        """Raise FloatingPointError where the training diverged: in a loss, a weight or the bank."""
        epoch = min(self.epoch + bool(self.place), self.model.config.epochs)
        for name, value in self.sums.items():
            if not math.isfinite(float(value)):
                raise FloatingPointError(_DIVERGED.format(name, float(value), epoch))
        for module in (self.model, self.bank):
            for name, value in module.state_dict().items():
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise FloatingPointError(_DIVERGED.format(name, "NaN or infinite", epoch))

    def validate(self) -> None:
        if self.queries is None or self.database is None:
            return
        self.model.eval()
        with self.divergence():
            forward, backward = direction_maps(self.model, self.queries, self.database)
        self.model.train()
        score = (forward + backward) / 2
        with DeferredInterrupt():
            self.history.records[-1] |= {
                "validation_map": score, "validation_image_to_text": forward,
                "validation_text_to_image": backward,
            }  # fmt: skip
            if score > self.best_map:
                self.best_map = score
                self.history.kept_update = self.epoch * self.updates
                self.kept = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    @contextmanager
    def weights(self, chosen: dict[str, Tensor]) -> Iterator[None]:
        """The model with other weights, for as long as the block lasts."""
        if not chosen:
            yield
            return
        current = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(chosen)
            yield
        finally:
            with DeferredInterrupt():
                self.model.load_state_dict(current)

    def save(self) -> None:
        """Write the checkpoint, and the model that the run would end with if it ended now.

        Raises:
            FloatingPointError: the training diverged; the files stay as they were.
        """
        if self.path is None:
            return
        self.check_finite()
        extra = {f"sums/{name}": value for name, value in self.sums.items()}
        extra |= {f"kept/{name}": value for name, value in self.kept.items()}
        facts = {
            "epoch": self.epoch, "place": self.place,
            "history": dataclasses.asdict(self.history),
            "best": self.best_map if self.kept else None,
        }  # fmt: skip
        modules = {"model": self.model, "bank": self.bank}
        checkpoints.save_training(self.path, modules, {"optimizer": self.optimizer}, extra, facts)
        with self.weights(self.kept):
            checkpoints.save_model(self.model, self.path.parent)

    def resume(self) -> None:
        """Restore what `save` wrote, if it wrote anything."""
        if self.path is None or not self.path.exists():
            return
        facts = checkpoints.read_facts(self.path)
        wanted, found = self.history.settings, facts.get("history", {}).get("settings", {})
        wanted, found = ({**s, **s.get("model", {}), "model": None} for s in (wanted, found))
        for name in wanted:
            if name == "validation_digest":
                if found.get(name, wanted[name]) != wanted[name]:  # without it it may be of any
                    raise ValueError(
                        f"{self.path} was made with other pairs or labels for validation: resume "
                        "with those it was started with, or give another folder"
                    )
            elif wanted[name] != found.get(name):
                raise ValueError(
                    f"{self.path} was made with {name} = {found.get(name)!r}, not "
                    f"{wanted[name]!r}: resume with the settings it was started with"
                )
        modules = {"model": self.model, "bank": self.bank}
        extra, facts = checkpoints.load_training(self.path, modules, {"optimizer": self.optimizer})
        settings = self.history.settings
        self.history = History(**facts["history"])
        self.history.settings = settings  # those of now, which an older file may lack
        self.epoch, self.place = facts["epoch"], facts["place"]
        for name, value in extra.items():
            kind, _, key = name.partition("/")
            {"sums": self.sums, "kept": self.kept}[kind][key] = value.to(self.device)
        if facts["best"] is not None:
            self.best_map = facts["best"]


def direction_maps(model: UCCH, queries: PairSet, database: PairSet) -> tuple[float, float]:
    """mAP of image-to-text and of text-to-image; without labels each query has one right answer:
    its partner, which must then be in the database at the query's own row."""
    if queries.labels is None or database.labels is None:
        asked, there = np.arange(len(queries)), np.arange(len(database))
    else:
        asked, there = queries.labels, database.labels
    return (
        mean_average_precision(
            model.encode_image(queries), model.encode_text(database), asked, there
        ),
        mean_average_precision(
            model.encode_text(queries), model.encode_image(database), asked, there
        ),
    )


def _validation(
    model: UCCH, pairs: PairSet, validation: PairSet | float | str | None, seed: int
) -> tuple[PairSet, PairSet | None, PairSet | None]:
    """Pairs to train on, queries to validate with, and what they search."""
    if isinstance(validation, str) and validation == "authors":
        first = pairs.subset(slice(0, AUTHORS), "validation")
        return pairs, first, first
    if isinstance(validation, PairSet):
        check_pairs(validation, model, "validation", 1)
        held, trained = validation, pairs
        _check_labels(held.labels, trained.labels)
    else:
        if validation is None or (isinstance(validation, (int, float)) and validation == 0):
            return pairs, None, None
        if not isinstance(validation, (float, np.floating)) or not 0 < validation < 1:
            raise ValueError(
                "validation must be a share from 0 to below 1, a PairSet, "
                f'"authors" or None, got {validation!r}'
            )
        count = max(1, round(validation * len(pairs)))
        order = np.random.default_rng([seed, 2**32]).permutation(len(pairs))
        held = pairs.subset(np.sort(order[:count]), "validation")
        trained = pairs.subset(np.sort(order[count:]), pairs.name)
    if held.labels is None or trained.labels is None:
        if len(held) < 2:
            raise ValueError(
                "validation of one pair without labels can choose nothing, as its own half is all "
                "there is to find: hold out at least 2"
            )
        return trained, held, held
    if not _share_a_label(held.labels, trained.labels):
        raise ValueError(
            "validation has no label that the pairs it searches have, and can choose nothing: give "
            "pairs of the same classes"
        )
    return trained, held, trained


def _share_a_label(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.ndim == 1:
        return bool(np.isin(one, other).any())
    return bool((one.astype(bool).any(0) & other.astype(bool).any(0)).any())


def _check_labels(held: NDArray[Any] | None, trained: NDArray[Any] | None) -> None:
    if held is not None and trained is not None and held.shape[1:] != trained.shape[1:]:
        raise ValueError(
            "labels of validation and of pairs must have one form, classes (N,) or zeros and ones "
            f"(N, C) of the same C classes, got {held.shape} and {trained.shape}"
        )


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that a resumed run compares like with like."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
    }
