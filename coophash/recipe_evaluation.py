"""What a recipe's `evaluate` adds to the score by its protocol.

    evaluate = ["retrieval", "corruption", "recovery", "unseen", "collection", "generator"]

    retrieval    the protocol's own score; always there
    corruption   `evaluate_corruptions`: every kind at every strength
    recovery     `evaluate_recovery`; of methods that can, the others have no such figure
    unseen       a second model of the same method, settings and seed learns all classes but three
                 of ten (as many of other numbers), and `evaluate_unseen` scores it
    collection   `evaluate_collections` with the images of the table `[other]`, of which a part
                 drawn by the seed asks (a quarter, at most as many as the protocol's queries) and
                 the rest is searched
    generator    `generator_report` of the queries, of methods that have a generator; the classifier
                 has learned from images of the database, which are real

The line stands before any table.

The whole records go into a run's `record.json` as `evaluations`, their summaries into its scores,
where `coophash recipe table --metric NAME` finds them:

    corruption_map, corruption_loss      mean over kinds and strengths
    NAME_map, NAME_recovered_map         NAME occlusion, impulse_noise, gaussian_noise; mean over
                                         the strengths, as it is and recovered
    recovery_loss                        mean over the three after recovery
    unseen_map, unseen_seen_map          unseen@unseen and seen@seen
    unseen_all_map, unseen_loss          unseen@all, and its loss beside seen@all
    other_queries_map                    queries of the other collection in the home database
    other_database_map                   home queries in the other collection's database
    other_map                            queries and database of the other collection
    collection_loss                      mean of the first two's losses beside home
    generator_accuracy                   share of x+ that the classifier puts into their class
    generator_revised_accuracy           the same of x~; generator_real_accuracy of the queries
    generator_diversity                  distance within a class, x+ over real
    generator_revised_diversity          the same of x~
    generator_coverage                   share of the classes that x+ does not miss
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coophash.data import ImageSet
from coophash.diagnostics import generator_report, real_classifier
from coophash.evaluation import (
    RetrievalScores,
    choose_unseen,
    evaluate_collections,
    evaluate_corruptions,
    evaluate_recovery,
    evaluate_unseen,
)
from coophash.hasher import ImageHasher
from coophash.protocols import Split

EVALUATIONS = ("retrieval", "corruption", "recovery", "unseen", "collection", "generator")
CLASSIFIER_IMAGES, CLASSIFIER_UPDATES = 20_000, 1200
Found = tuple[dict[str, Any], dict[str, float]]  # the whole record, and its summary


def check_evaluations(given: Any) -> tuple[str, ...]:
    """The evaluations beside retrieval, in a fixed order.

    Raises:
        ValueError: no list, or an unknown name in it.
    """
    if not isinstance(given, list):
        raise ValueError(f"evaluate must be a list of {', '.join(EVALUATIONS)}, got {given!r}")
    for name in given:
        if name not in EVALUATIONS:
            raise ValueError(f"evaluate must be of {', '.join(EVALUATIONS)}, got {name!r}")
    return tuple(name for name in EVALUATIONS[1:] if name in given)


def unseen_classes(classes: int, seed: int) -> tuple[int, ...]:
    """Three of ten classes, as many of other numbers: at least one, and two stay.

    Raises:
        ValueError: fewer than 3 classes.
    """
    if classes < 3:
        raise ValueError(f'"unseen" in evaluate needs at least 3 classes, got {classes}')
    return choose_unseen(classes, min(max(1, round(0.3 * classes)), classes - 2), seed)


def corruption(
    model: ImageHasher, queries: ImageSet, database: ImageSet, seed: int
) -> Found:  # fmt: skip
    """Corrupted queries against a clean database."""
    found = evaluate_corruptions(model, queries, database, seed=seed)
    scores = [score for levels in found.corrupted.values() for score in levels.values()]
    return found.as_dict(), {"corruption_map": _map(scores), "corruption_loss": found.loss}


def recovery(model: Any, queries: ImageSet, database: ImageSet, seed: int) -> Found:
    """Corrupted queries as they are and recovered."""
    found = evaluate_recovery(model, queries, database, seed=seed)
    summary = {"recovery_loss": found.loss}
    for kind, levels in found.as_is.items():
        summary[f"{kind}_map"] = _map(list(levels.values()))
        summary[f"{kind}_recovered_map"] = _map(list(found.recovered[kind].values()))
    return found.as_dict(), summary


def unseen(
    model: ImageHasher, queries: ImageSet, database: ImageSet, classes: tuple[int, ...]
) -> Found:
    """Queries and database of every class, by a model that has not learned some."""
    found = evaluate_unseen(
        model.encode(queries), model.encode(database), queries.labels, database.labels,
        unseen=classes, bits=model.config.bits,
    )  # fmt: skip
    return found.as_dict(), {
        "unseen_map": found.unseen_unseen.mean_average_precision,
        "unseen_seen_map": found.seen_seen.mean_average_precision,
        "unseen_all_map": found.unseen_all.mean_average_precision,
        "unseen_loss": found.loss,
    }


def collection(
    model: ImageHasher, queries: ImageSet, database: ImageSet, other: ImageSet, seed: int
) -> Found:  # fmt: skip
    """Queries and database of another collection of the same classes."""
    drawn = np.random.RandomState(seed).permutation(len(other))  # NEP 19 freezes its stream
    asked = min(len(queries), len(other) // 4)
    found = evaluate_collections(
        model, queries, database, other.subset(np.sort(drawn[:asked])),
        other.subset(np.sort(drawn[asked:])),
    )  # fmt: skip
    parts = ("other_queries", "other_database", "other")
    summary = {f"{part}_map": getattr(found, part).mean_average_precision for part in parts}
    return found.as_dict(), {**summary, "collection_loss": found.loss}


def generator(
    model: Any, train: ImageSet, queries: ImageSet, database: ImageSet, seed: int
) -> Found:  # fmt: skip
    """What generator and chain make, judged by a network that has seen real images alone."""
    drawn = np.random.RandomState(seed).permutation(len(database))[:CLASSIFIER_IMAGES]
    known = database.subset(np.sort(drawn))
    classifier = real_classifier(
        known.images, known.labels, known.classes, updates=CLASSIFIER_UPDATES, seed=seed
    )
    found = generator_report(model, queries, classifier=classifier, training=train, seed=seed)
    return found.as_dict(), {
        "generator_accuracy": found.accuracy,
        "generator_revised_accuracy": found.accuracy_revised,
        "generator_real_accuracy": found.accuracy_real,
        "generator_diversity": found.diversity,
        "generator_revised_diversity": found.diversity_revised,
        "generator_coverage": found.coverage,
    }


def check_generator(images: ImageSet, split: Split) -> None:
    """There can be a classifier for the generator's images, and something to compare them with.

    Raises:
        ValueError: images too large for the small network that judges them, or fewer than 2 of a
            class among queries or database.
    """
    side = max(images.image_shape[1:])
    if side > 64:
        raise ValueError(
            f'"generator" in evaluate is for images of at most 64 pixels, got {side}: leave it out '
            "and give coophash.diagnostics.generator_report a classifier of yours"
        )
    for name, rows in (("queries", split.query), ("database", split.database)):
        least = int(np.bincount(images.labels[rows], minlength=images.classes).min())
        if least < 2:
            raise ValueError(
                f'"generator" in evaluate needs at least 2 images of each class in {name}, got '
                f"{least} of one: raise their number in [protocol], or leave it out"
            )


def check_collection(images: ImageSet, other: ImageSet | None) -> None:
    """The other collection is there and can be asked of the same model.

    Raises:
        ValueError: it is missing, too small, or has other classes or another shape of images.
    """
    if other is None:
        raise ValueError('"collection" in evaluate needs the images of [other]: give `other`')
    if other.class_names != images.class_names:
        raise ValueError(
            f"[other] must have the classes of [data], got {other!r} beside {images!r}: label 0 of "
            "one must be label 0 of the other"
        )
    if other.image_shape != images.image_shape:
        raise ValueError(
            f"[other] must have images of {images.image_shape}, got {other.image_shape}: set "
            "image_size and channels in [other]"
        )
    if len(other) < 8:
        raise ValueError(f"[other] must have at least 8 images, got {len(other)}")


def _map(scores: list[RetrievalScores]) -> float:
    return sum(score.mean_average_precision for score in scores) / len(scores)
