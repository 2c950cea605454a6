"""A trained generator measured: does it use both inputs, cover the classes, and invent or copy?

The method has two traps that retrieval scores hide: a generator that ignores z (one image per
class) and one that ignores the label. `generator_report` measures both, and the energies that the
chain sees; `coophash diagnose` prints it beside pictures (`coophash.generation.latent_grid`). While
a model is trained, `History` has the cheap part of it at every `validate_every`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coophash._options import check_integer
from coophash._training_data import Pixels, labelled
from coophash.backbone import enlarge
from coophash.hasher import evaluating

if TYPE_CHECKING:
    from coophash.coop import CoopHash

LEAST_SHARE = 0.5  # of 1 / classes: a class that gets less is missing
CLASSIFIER_UPDATES = 400
_BATCH = 512


class Classifier(Protocol):
    """What is asked for the class of an image: a `CoopHash`, or anything of yours."""

    def classify(self, images: Tensor) -> Any:
        """(B, C, H, W) float in [-1, 1] -> classes (B,)."""


@dataclass(frozen=True)
class GeneratorReport:
    """Measures of a generator, over synthetic images of every class in equal numbers.

    Distances are Euclidean, over pixels in [-1, 1]; with a backbone at the generator's resolution.

    Attributes:
        samples: synthetic images, and at most as many real ones, of each class.
        accuracy: share of generated images x+ that the classifier puts into their own class.
        accuracy_revised, accuracy_real: the same of x~, after the chain, and of real images.
        accuracy_by_class: of x+, for each class that was asked for.
        class_shares: of all x+, the share that the classifier puts into each class.
        class_shares_revised: the same of x~.
        missing_classes: those whose share of x+ is below half of an equal one.
        distance_synthetic, distance_revised, distance_real: mean distance between two images of a
            class, mean over the classes: of x+, of x~, of real images.
        distance_by_class: the same three for each class.
        nearest_synthetic, nearest_revised, nearest_real: mean distance to the nearest training
            image, of x+, of x~ and of real images (of these to the nearest other one).
        energy_real, energy_generated, energy_revised: mean energies; None without an energy.
        chain_energies: mean energy before each step of the chain and after the last; () without.
        chain_move: mean absolute change of a pixel by the chain.
    """

    samples: int
    accuracy: float
    accuracy_revised: float
    accuracy_real: float
    accuracy_by_class: tuple[float, ...]
    class_shares: tuple[float, ...]
    class_shares_revised: tuple[float, ...]
    missing_classes: tuple[int, ...]
    distance_synthetic: float
    distance_revised: float
    distance_real: float
    distance_by_class: tuple[tuple[float, float, float], ...]
    nearest_synthetic: float
    nearest_revised: float
    nearest_real: float
    energy_real: float | None
    energy_generated: float | None
    energy_revised: float | None
    chain_energies: tuple[float, ...]
    chain_move: float

    @property
    def diversity(self) -> float:
        """Distance within a class, x+ over real: 1 as varied as the data, 0 one image."""
        return self.distance_synthetic / self.distance_real

    @property
    def diversity_revised(self) -> float:
        """The same of x~."""
        return self.distance_revised / self.distance_real

    @property
    def novelty(self) -> float:
        """Distance to the nearest training image, x+ over real: near 0 copies them."""
        return self.nearest_synthetic / self.nearest_real

    @property
    def coverage(self) -> float:
        """Share of the classes that are not missing."""
        return 1 - len(self.missing_classes) / len(self.class_shares)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("diversity", "diversity_revised", "novelty", "coverage")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}


def generator_report(
    model: CoopHash, images: Any, labels: Any = None, classifier: Classifier | None = None, *,
    samples: int = 50, training: Any = None, seed: int = 0,
) -> GeneratorReport:  # fmt: skip
    """Measure a generator.

    Args:
        model: whose generator and chain are measured.
        images: real images, best such as it was not trained on: an `ImageSet`; or (N, C, H, W)
            float in [-1, 1] or uint8, NumPy or torch, with labels.
        labels: classes (N,), unless `images` has them.
        classifier: a network that has seen no synthetic image. None trains one
            (`real_classifier`): on `training`; without that on every second image of each class,
            and scores of real images are then of the others.
        samples: synthetic images of each class, at least 2.
        training: the images that the model was trained on, as an `ImageSet` or (images, labels):
            distances to the nearest are to these. None takes `images`.
        seed: of z, of the chain's noise and of the classifier.

    Raises:
        TypeError, ValueError: an argument that is not as described, several labels an image, fewer
            than 2 images of a class (4 where they train the classifier), or no generator.
    """
    c = model.config
    check_integer("samples", samples, 2)
    if not has_generator(model):
        raise ValueError("this model is without a generator: there is nothing to report")
    if model.multi_label or getattr(classifier, "multi_label", False):
        raise ValueError("generator_report is for models of one label an image")
    real, classes = _one_label(model, images, labels, "images")
    known, known_classes = real, classes
    if training is not None:
        known, known_classes = _one_label(model, training, None, "training")
    scored = np.arange(len(classes))
    if classifier is None:
        learned = np.arange(len(known_classes))
        if training is None:
            order = np.argsort(classes, kind="stable")
            rank = np.empty(len(order), np.int64)
            counts = np.bincount(classes, minlength=c.classes)
            rank[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[classes[order]]
            learned, scored = np.flatnonzero(rank % 2 == 0), np.flatnonzero(rank % 2)
        classifier = _classifier(model, known, known_classes, learned, seed)
    chosen = [np.flatnonzero(classes == label)[:samples] for label in range(c.classes)]
    least = min(map(len, chosen))
    if least < 2:
        raise ValueError(
            f"images must hold at least 2 of each of the {c.classes} classes, got {least} of one"
        )
    with torch.no_grad(), evaluating(model):
        return _report(
            model, classifier, (real, classes), chosen, scored, (known, training is None),
            len(known_classes), samples, seed,
        )  # fmt: skip


def has_generator(model: Any) -> bool:
    """Whether a model is a `CoopHash` with a generator that is trained."""
    c = getattr(model, "config", None)
    return bool(getattr(c, "cooperative", False)) and getattr(c, "without", "") != "generator"


def real_classifier(
    images: Any, labels: Any, classes: int, *, updates: int = CLASSIFIER_UPDATES, seed: int = 0
) -> CoopHash:
    """A plain network (base, hash and category head) trained on real images alone.

    Args:
        images: (N, C, H, W), float in [-1, 1] or uint8; labels: classes (N,).
        updates: gradient steps, of 64 images each.
    """
    from coophash.coop import CoopHash
    from coophash.training import fit

    model = CoopHash(32, classes, tuple(images.shape[1:]), seed=seed, cooperative=False)
    fit(model, (images, labels), updates=updates, seed=seed, progress=False)
    return model


def _one_label(
    model: CoopHash, images: Any, labels: Any, name: str
) -> tuple[Pixels, NDArray[Any]]:  # fmt: skip
    pixels, classes = labelled(model, images if labels is None else (images, labels), name)
    if classes.ndim != 1:
        raise ValueError(f"{name} must have one label an image, got {classes.shape}")
    return pixels, classes


def _classifier(
    model: CoopHash, pixels: Pixels, labels: NDArray[Any], rows: NDArray[np.int64], seed: int
) -> Classifier:
    c = model.config
    if c.backbone is not None:
        raise ValueError("a model with a backbone needs a classifier for such images: give one")
    least = int(np.bincount(labels[rows], minlength=c.classes).min())
    if least < 2:
        raise ValueError(f"a classifier needs 2 images of each class, got {least}: give one")
    rows = rows[:20_000]  # more do not count within its updates
    return real_classifier(pixels(rows), labels[rows], c.classes, seed=seed)


def _report(
    model: CoopHash, classifier: Classifier, real: tuple[Pixels, NDArray[Any]],
    chosen: Sequence[NDArray[np.int64]], scored: NDArray[np.int64], known: tuple[Pixels, bool],
    known_count: int, samples: int, seed: int,
) -> GeneratorReport:  # fmt: skip
    c, (pixels, classes) = model.config, real
    device = next(model.parameters()).device
    asked = torch.arange(c.classes).repeat_interleave(samples)
    generated, revised, energies = _synthesize(model, asked.to(device), seed)
    guesses, after = (_guess(model, classifier, images) for images in (generated, revised))
    shares, shares_after = (_shares(found, c.classes) for found in (guesses, after))
    hits = (guesses == asked).double()

    actual = [_low(model, pixels, rows) for rows in chosen]
    distances = tuple(
        (
            _mean_distance(generated[asked == label]),
            _mean_distance(revised[asked == label]),
            _mean_distance(actual[label]),
        )
        for label in range(c.classes)
    )
    synthetic, after_chain, of_real = np.mean(distances, axis=0).tolist()
    right = [
        _guess(model, classifier, torch.as_tensor(pixels(part)), as_is=True).numpy()
        == classes[part]
        for part in (scored[i : i + _BATCH] for i in range(0, len(scored), _BATCH))
    ]
    rows = np.concatenate(chosen)
    known_pixels, same_set = known
    nearest = [
        _nearest(model, images, known_pixels, known_count, own)
        for images, own in (
            (generated, None),
            (revised, None),
            (torch.cat(actual), rows if same_set else None),
        )
    ]
    energy_real = None
    if len(energies):
        of = [
            model.descriptor(part.to(device), torch.full((len(part),), label, device=device))
            for label, part in enumerate(actual)
        ]
        energy_real = float(torch.cat(of).mean())
    return GeneratorReport(
        samples=samples,
        accuracy=float(hits.mean()),
        accuracy_revised=float((after == asked).double().mean()),
        accuracy_real=float(np.concatenate(right).mean()),
        accuracy_by_class=tuple(hits.view(c.classes, samples).mean(1).tolist()),
        class_shares=tuple(shares.tolist()),
        class_shares_revised=tuple(shares_after.tolist()),
        missing_classes=tuple(torch.nonzero(shares < LEAST_SHARE / c.classes).flatten().tolist()),
        distance_synthetic=synthetic,
        distance_revised=after_chain,
        distance_real=of_real,
        distance_by_class=distances,
        nearest_synthetic=nearest[0],
        nearest_revised=nearest[1],
        nearest_real=nearest[2],
        energy_real=energy_real,
        energy_generated=energies[0] if energies else None,
        energy_revised=energies[-1] if energies else None,
        chain_energies=tuple(energies),
        chain_move=float((revised - generated).abs().mean()),
    )


def _synthesize(
    model: CoopHash, labels: Tensor, seed: int
) -> tuple[Tensor, Tensor, list[float]]:  # fmt: skip
    """x+ and x~ under labels (N,), on the CPU, and mean energies along the chain."""
    chain = model.config.without not in ("energy", "langevin")
    generated, revised, energies = [], [], []
    for number, part in enumerate(torch.split(labels, _BATCH)):
        draw = seed + number  # the noise of a chain is drawn by its place in the batch
        images = model.contrastive_pair(part, seed=draw).positive
        generated.append(images.cpu())
        if chain:
            images, found = model.revise(images, part, seed=draw, return_energies=True)
            energies.append(found.cpu())
        revised.append(images.cpu())
    means = torch.cat(energies, 1).mean(1).tolist() if energies else []
    return torch.cat(generated), torch.cat(revised), means


def _low(model: CoopHash, pixels: Pixels, rows: NDArray[np.int64]) -> Tensor:
    """Real images at the generator's resolution, on the CPU."""
    return model.reduced(torch.as_tensor(pixels(rows)).cpu().float())


def _guess(
    model: CoopHash, classifier: Classifier, images: Tensor, as_is: bool = False
) -> Tensor:  # fmt: skip
    size = model.config.image_shape[1:]
    found = [
        torch.as_tensor(classifier.classify(part if as_is else enlarge(part, size))).cpu()
        for part in torch.split(images, _BATCH)
    ]
    return torch.cat(found).long()


def _shares(guesses: Tensor, classes: int) -> Tensor:
    """Share of the guesses that each class has, (classes,)."""
    return torch.bincount(guesses, minlength=classes).double() / len(guesses)


def _mean_distance(images: Tensor) -> float:
    """Mean Euclidean distance over all pairs of two different images; (N, C, H, W)."""
    return float(torch.pdist(images.flatten(1).double()).mean())


def _nearest(
    model: CoopHash, images: Tensor, pixels: Pixels, count: int, own: NDArray[np.int64] | None
) -> float:
    """Mean distance of images to the nearest of `count` others.

    own: the rows that the images themselves have among the others; None where they are not there.
    """
    flat = images.flatten(1)
    best = torch.full((len(flat),), torch.inf)
    for start in range(0, count, 4096):
        rows = np.arange(start, min(start + 4096, count))
        distance = torch.cdist(flat, _low(model, pixels, rows).flatten(1))
        if own is not None:
            inside = np.flatnonzero((own >= start) & (own <= rows[-1]))
            distance[inside, own[inside] - start] = torch.inf
        best = torch.minimum(best, distance.min(1).values)
    return float(best.mean())
