"""The training loop: batches, schedule, validation, checkpoints, progress."""

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

from coophash import checkpoints, spectral
from coophash._generator_signs import code_distance, generator_signs, rows_to_look_at
from coophash._options import check_integer
from coophash._training_data import (
    Pixels,
    check_augmentation,
    check_classes,
    check_settings,
    check_validation,
    digest_of,
    halves,
    labelled,
)
from coophash.augmentation import shift_and_flip
from coophash.coop import CoopHash, cooperative_step
from coophash.data import ImageSet
from coophash.errors import require
from coophash.faults import FaultWatch
from coophash.hasher import ImageHasher, defaults_of
from coophash.history import History, Record
from coophash.interrupts import DeferredInterrupt
from coophash.metrics import average_precision
from coophash.optimizers import make_optimizers
from coophash.supervised import supervised_step

LOG_EVERY = 20  # updates that one record of the history averages over


def fit(
    model: ImageHasher,
    dataset: Any,
    validation: Any = None,
    *,
    updates: int = 2000,
    batch_size: int = 64,
    seed: int = 0,
    learning_rate: float | None = None,
    generator_learning_rate: float = 1e-3,
    schedule: str = "cosine",
    averaging: float = 0.99,
    shift: int = 0,
    flip: bool = False,
    validate_every: int = 100,
    checkpoint_every: int = 100,
    folder: str | Path | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place.

    Args:
        model: a `CoopHash` or `SupervisedHash`, on the device to train on.
        dataset: labelled images: an `ImageSet`, or (images, labels) with images (N, C, H, W) float
            in [-1, 1] or uint8, NumPy or torch, and labels (N,) integer classes or, where an image
            has several, (N, classes) multi-hot.
        validation: labelled images that choose the weights to end with. One half of them is
            searched for in the other, and the reverse; an image whose class the other half lacks
            is no query. The latest update whose mAP is within one standard error of the best is
            kept (Breiman's rule: a score that is no worse for sure, and a generator that has
            learned longer). Without it the last weights stay.
        updates: gradient steps in all, those before a resume counted in.
        batch_size: images per update, at least 2, drawn without replacement within an epoch.
        seed: of the batches and of every draw of the method. Equal seeds on one machine with equal
            numbers of threads give equal weights, with or without stops in between.
        learning_rate, generator_learning_rate: of Adam (beta1 0.5) for the two networks, above 0,
            or 0 for a generator that is to stay as it is; None is `model.learning_rate`, which
            differs between methods. The energy head's is `learning_rate` times the model's
            `energy_rate`. A `SupervisedHash` has no generator.
        schedule: "cosine" decays both to 0 over `updates`; "constant" does not.
        averaging: decay of an exponential moving average of the weights, which is what is validated
            and what the model ends with; 0.99 averages over some 100 updates, 0 takes the last.
        shift: each training image is moved by up to so many pixels in each direction, anew every
            time. With few labels nothing else brings as much: 2 took plain supervision on 500
            digits from mAP 0.87 to 0.93. 0 for images that stand where they must. In a `CoopHash`
            shift and flip are for hash and category head: the generator learns the images as they
            are, and what it makes is then moved and mirrored too.
        flip: mirror training images left and right, every second time: for photographs, not for
            letters.
        validate_every, checkpoint_every: in updates; the generator is looked at with the former.
        folder: keeps a checkpoint and, at the end, the model. None keeps nothing.
        resume: go on from the checkpoint in `folder`, if there is one, with the same settings and
            the same images and labels in the same order.
        time_limit: seconds after which to write a checkpoint and return, finished or not; the
            history's `update` tells. Calling again with `resume` goes on, to the same weights as
            without the stop. Needs `folder`.
        progress: show a bar with the time left.

    Returns:
        The run's `History`.

    Raises:
        TypeError, ValueError: data that do not fit the model, a setting out of range, a class with
            one image, validation images of which none can be found, or a checkpoint that was made
            with other settings or other data.
        FloatingPointError: the training diverged; the message names the setting to change, and
            `folder` keeps its last good checkpoint. A `coophash.faults.TrainingWarning` tells of
            each slow fault, once.
        KeyboardInterrupt: passed on after the checkpoint is written.
    """
    if learning_rate is None:
        learning_rate = model.learning_rate
    check_settings(
        updates=updates, batch_size=batch_size, learning_rate=learning_rate,
        generator_learning_rate=generator_learning_rate, schedule=schedule, averaging=averaging,
        validate_every=validate_every, checkpoint_every=checkpoint_every, time_limit=time_limit,
    )  # fmt: skip
    seed = check_integer("seed", seed, 0)
    check_augmentation(shift, flip, model.config.image_shape)
    if folder is None and (resume or time_limit is not None):
        name = "resume" if resume else "time_limit"
        raise ValueError(f"{name} needs folder: the folder that holds the checkpoint")
    images, labels = labelled(model, dataset, "dataset")
    names = model.class_names
    if isinstance(dataset, ImageSet) and names is None:
        names = dataset.class_names
        if len(names) != model.config.classes:
            raise ValueError(
                f"dataset has {len(names)} class names, the model {model.config.classes} classes: "
                f"make the model with classes={len(names)}, or give (images, labels)"
            )
    check_classes(model.config.classes, labels, names)
    held_out = None if validation is None else labelled(model, validation, "validation")
    if held_out is not None:
        check_validation(held_out[1])
    digests = {}
    if folder is not None:  # a checkpoint goes on with the data that it was made with
        digests["data_digest"] = digest_of(dataset, labels)
        if held_out is not None:
            digests["validation_digest"] = digest_of(validation, held_out[1])

    run = _Run(
        model,
        images,
        labels,
        held_out,
        settings={
            # Not NumPy's numbers, which JSON cannot hold.
            "model": dataclasses.asdict(model.config), "images": len(labels),
            "updates": int(updates), "batch_size": min(int(batch_size), len(labels)), "seed": seed,
            "learning_rate": float(learning_rate),
            "generator_learning_rate": float(generator_learning_rate),
            "schedule": schedule, "averaging": float(averaging), "shift": int(shift), "flip": flip,
            "validation_images": 0 if held_out is None else len(held_out[1]),
            "validate_every": int(validate_every), **digests,
        },
        path=None if folder is None else Path(folder) / checkpoints.CHECKPOINT_FILE,
    )  # fmt: skip
    if resume:
        run.resume()
    elif run.path is not None and run.path.exists():
        raise ValueError(
            f"{run.path} is the checkpoint of an earlier run: resume it, or give another folder"
        )
    model.class_names = names
    if isinstance(model, CoopHash):
        model.multi_label = labels.ndim == 2
    run.train(checkpoint_every, progress, time_limit)
    if folder is not None:
        model.save(folder)
    return run.history


class _Run:
    """One training run: what changes while it goes on, and how that is saved and restored."""

    def __init__(
        self,
        model: ImageHasher,
        images: Pixels,
        labels: NDArray[Any],
        validation: tuple[Pixels, NDArray[Any]] | None,
        settings: dict[str, Any],
        path: Path | None,
    ) -> None:
        self.model, self.images, self.labels, self.validation = model, images, labels, validation
        self.path, self.update, self.seconds = path, 0, 0.0
        self.history = History(settings)
        self.device = next(model.parameters()).device
        self.optimizers = make_optimizers(
            model, settings["learning_rate"], settings["generator_learning_rate"]
        )
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.best_map, self.best_error = -math.inf, 0.0
        self.kept: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}  # of what is watched: (sum, number of updates)
        self.latest: list[dict[str, Tensor]] = []  # what is watched, since the last record
        self.faults = FaultWatch(model.config)
        self.epoch, self.order = -1, np.empty(0, np.int64)

    def train(self, checkpoint_every: int, progress: bool, time_limit: float | None) -> None:
        settings = self.history.settings
        tqdm = require("tqdm", "train", "the progress bar").tqdm if progress else None
        bar = None
        if tqdm is not None:
            bar = tqdm(
                total=settings["updates"], initial=self.update, desc=f"train {self.model.method}",
                unit="update", dynamic_ncols=True,
            )  # fmt: skip
        earlier, started = self.seconds, time.perf_counter()

        def seconds() -> float:
            return earlier + time.perf_counter() - started

        self.model.train()
        try:
            if self.update and self.after_update(seconds()):  # what a stop left out
                self.save()
            while self.update < settings["updates"]:
                with DeferredInterrupt():
                    self.one_update()
                self.after_update(seconds())
                if bar is not None:
                    bar.update()
                    if self.history.validation:
                        bar.set_postfix(mAP=f"{self.history.validation[-1][1]:.3f}", refresh=False)
                stop = time_limit is not None and time.perf_counter() - started >= time_limit
                if (
                    self.update == settings["updates"]
                    or stop
                    or self.update % checkpoint_every == 0
                ):
                    self.seconds = seconds()
                    self.save()
                if stop:
                    break
        except KeyboardInterrupt:
            self.seconds = seconds()
            self.save()
            raise
        finally:
            if bar is not None:
                bar.close()
        self.fill(self.kept or self.average)
        self.model.eval()

    def one_update(self) -> None:
        settings = self.history.settings
        rows = self.batch(self.update, settings["batch_size"], settings["seed"])
        if settings["schedule"] == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.update / settings["updates"]))
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
        images = torch.as_tensor(self.images(rows), device=self.device)
        labels = torch.as_tensor(self.labels[rows], device=self.device)
        model: Any = self.model
        optimizers: Any = self.optimizers  # those of the model's kind
        draws = settings["seed"], self.update
        try:
            if isinstance(model, CoopHash):
                augment = self.augmented if settings["shift"] or settings["flip"] else None
                watched = cooperative_step(
                    model, images, labels, optimizers, *draws, augment=augment
                )
            else:
                images = self.augmented(images, 0)
                watched = supervised_step(model, images, labels, optimizers, *draws)
        except FloatingPointError as error:
            raise self.faults.chain_broke(error, self.update + 1) from error
        self.latest.append(watched)
        self.update += 1
        self.history.update = self.update
        self.blend()
        for name, value in watched.items():  # not every update watches everything
            entry = torch.stack([value, torch.ones_like(value)])
            self.sums[name] = self.sums.get(name, torch.zeros_like(entry)) + entry

    def after_update(self, seconds: float) -> bool:
        """Record, validate and look where that is due and not done yet; whether it was."""
        settings, last = self.history.settings, self.history.records[-1:]
        due = self.update == settings["updates"]
        recorded = bool(last) and last[0]["update"] == self.update
        if due or self.update % settings["validate_every"] == 0:
            if not recorded or "code_distance" not in last[0]:
                self.look(seconds)
                return True
        elif self.update % LOG_EVERY == 0 and not recorded:
            self.record(seconds)
            return True
        return False

    def augmented(self, images: Tensor, draw: int) -> Tensor:
        settings = self.history.settings
        return shift_and_flip(
            images, settings["shift"], settings["flip"], settings["seed"], self.update, draw
        )

    def blend(self) -> None:
        """Move the average towards the weights; faster at first, when the first ones are noise."""
        decay = min(self.history.settings["averaging"], self.update / (10 + self.update))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and name != "replay":  # images: no mean of them is one
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def batch(self, update: int, size: int, seed: int) -> NDArray[np.int64]:
        """Rows of one batch: a function of (seed, update), so a resumed run draws the same."""
        epoch, place = divmod(update, len(self.labels) // size)
        if epoch != self.epoch:
            self.order = np.random.default_rng([seed, epoch]).permutation(len(self.labels))
            self.epoch = epoch
        return self.order[place * size : (place + 1) * size]

    def record(self, seconds: float) -> None:
        first = int(self.history.records[-1]["update"]) if self.history.records else 0
        if self.update <= first:
            return
        record = {"update": self.update, "seconds": round(seconds, 3), **self.means()}
        self.faults.check([*self.history.records, record], self.latest)
        with DeferredInterrupt():
            self.history.records.append(record)
            self.sums, self.latest = {}, []

    def means(self) -> Record:
        """Of what was watched, since the last record."""
        return {name: float(total / times) for name, (total, times) in self.sums.items()}

    def look(self, seconds: float) -> None:
        """Validate and look at the generator, both with the averaged weights."""
        self.record(seconds)
        with self.weights(self.average):
            signs = self.signs()
            precisions = self.validate()
        with DeferredInterrupt():
            self.choose(precisions)
            self.history.records[-1] |= signs  # last: they tell that it is done
        self.faults.warn(self.history.records)

    def signs(self) -> Record:
        rows = rows_to_look_at(self.labels, self.model.config.classes)
        images = torch.as_tensor(self.images(rows), device=self.device)
        signs = {"code_distance": code_distance(self.model, images)}
        if isinstance(self.model, CoopHash) and self.labels.ndim == 1:
            labels = torch.as_tensor(self.labels[rows], device=self.device)
            signs |= generator_signs(self.model, images, labels)
        return signs

    def validate(self) -> NDArray[np.float64] | None:
        """Average precision of the validation images that are queries: (queries,)."""
        if self.validation is None:
            return None
        pixels, labels = self.validation
        codes = self.codes(pixels, len(labels))
        # Each half is searched for in the other: images that the model was not trained on, on both
        # sides, as in use. Against the training images the score would favour early updates.
        one, other = halves(labels)
        precisions: NDArray[np.float64] = np.concatenate(
            [
                average_precision(codes[a], codes[b], labels[a], labels[b])
                for a, b in ((one, other), (other, one))
            ]
        )
        defined: NDArray[np.bool_] = ~np.isnan(precisions)  # NaN: there is nothing to be found
        return np.asarray(precisions[defined])

    def choose(self, precisions: NDArray[np.float64] | None) -> None:
        """Keep the averaged weights if their score is within one standard error of the best."""
        if precisions is None:
            return
        score = float(precisions.mean())
        self.history.records[-1]["validation_map"] = score
        if score > self.best_map:
            self.best_map = score
            self.best_error = float(precisions.std() / math.sqrt(len(precisions)))
        if score >= self.best_map - self.best_error:
            self.history.kept_update = self.update
            self.kept = {k: v.clone() for k, v in self.average.items()}

    @contextmanager
    def weights(self, chosen: dict[str, Tensor]) -> Iterator[None]:
        """The model with other weights, for as long as the block lasts."""
        current = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        try:
            self.fill(chosen)
            self.model.eval()
            yield
        finally:
            with DeferredInterrupt():
                self.model.load_state_dict(current)
                self.model.train()

    def fill(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(weights)
        spectral.settle(self.model)

    def codes(self, pixels: Pixels, count: int) -> NDArray[np.uint8]:
        parts = [
            self.model.encode(pixels(np.arange(start, min(start + 512, count))))
            for start in range(0, count, 512)
        ]
        return np.concatenate(parts)

    def save(self) -> None:
        """Write the checkpoint, and the model that the run would end with if it ended now.

        Raises:
            FloatingPointError: the training diverged; the files stay as they were.
        """
        if self.path is None:
            return
        self.faults.check_finite({"update": self.update, **self.means()}, self.latest)
        self.faults.check_weights(self.model, self.update)
        extra = {f"sums/{name}": value for name, value in self.sums.items()}
        extra |= {f"average/{name}": value for name, value in self.average.items()}
        extra |= {f"kept/{name}": value for name, value in self.kept.items()}
        facts = {
            "update": self.update,
            "seconds": self.seconds,
            "history": dataclasses.asdict(self.history),
            "best": [self.best_map, self.best_error] if self.kept else None,
        }
        checkpoints.save_training(
            self.path, {"model": self.model}, self.optimizers._asdict(), extra, facts
        )
        with self.weights(self.kept or self.average):
            checkpoints.save_model(self.model, self.path.parent)

    def resume(self) -> None:
        """Restore what `save` wrote, if it wrote anything."""
        if self.path is None or not self.path.exists():
            return
        self.check_settings_of(checkpoints.read_facts(self.path)["history"]["settings"])
        extra, facts = checkpoints.load_training(
            self.path, {"model": self.model}, self.optimizers._asdict()
        )
        settings = self.history.settings
        self.history = History(**facts["history"])
        self.history.settings = settings  # those of now, which an older file may lack
        self.update, self.seconds = facts["update"], facts.get("seconds", self.history.seconds)
        for name, value in extra.items():
            kind, _, key = name.partition("/")
            kept = {"sums": self.sums, "average": self.average, "kept": self.kept}[kind]
            kept[key] = value.to(self.device)
        since = self.update - (
            int(self.history.records[-1]["update"]) if self.history.records else 0
        )
        for key, value in self.sums.items():
            if value.ndim == 0:  # written when every update watched everything
                self.sums[key] = torch.stack([value, torch.full_like(value, since)])
        if facts["best"] is not None:
            self.best_map, self.best_error = facts["best"]

    def check_settings_of(self, found: dict[str, Any]) -> None:
        """Raise ValueError unless a checkpoint's settings are those of this run."""
        wanted, model = self.history.settings, dict(found["model"])
        kinds = [
            "SupervisedHash" if "method" in of else "CoopHash" for of in (model, wanted["model"])
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{self.path} is of a {kinds[0]}, not of a {kinds[1]}: resume with the model it "
                "was started with, or give another folder"
            )
        # What was not yet a setting when the checkpoint was written was as its default says.
        found = {"shift": 0, "flip": False} | found
        model["image_shape"] = tuple(model["image_shape"])
        model = defaults_of(self.model.config) | model
        pairs = [(name, model.get(name), value) for name, value in wanted["model"].items()]
        pairs += [(name, found.get(name), wanted[name]) for name in wanted if name != "model"]
        for name, before, now in pairs:
            if name.endswith("_digest"):
                if name in found and before != now:  # without it it may be of any data
                    what = "dataset" if name == "data_digest" else "validation"
                    raise ValueError(
                        f"{self.path} was made with other images or labels in {what}, or in "
                        "another order: resume with the data it was started with, or give another "
                        "folder"
                    )
            elif before != now:
                raise ValueError(
                    f"{self.path} was made with {name} = {before!r}, not {now!r}: resume with the "
                    "settings it was started with"
                )
