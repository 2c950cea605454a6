"""What a recipe's `evaluate` adds to the score by its protocol.

    evaluate = ["retrieval", "corruption", "recovery", "unseen"]     # before the first table

    retrieval    the protocol's own score; always there
    corruption   `evaluate_corruptions`: every kind at every strength
    recovery     `evaluate_recovery`; of methods that can, the others have no such figure
    unseen       a second model of the same method, settings and seed learns all classes but three
                 of ten (as many of other numbers), and `evaluate_unseen` scores it

The whole records go into a run's `record.json` as `evaluations`, their summaries into its scores,
where `coophash recipe table --metric NAME` finds them:

    corruption_map, corruption_loss      mean over kinds and strengths
    NAME_map, NAME_recovered_map         NAME occlusion, impulse_noise, gaussian_noise; mean over
                                         the strengths, as it is and recovered
    recovery_loss                        mean over the three after recovery
    unseen_map, unseen_seen_map          unseen@unseen and seen@seen
    unseen_all_map, unseen_loss          unseen@all, and its loss beside seen@all
"""

from __future__ import annotations

from typing import Any

from coophash.data import ImageSet
from coophash.evaluation import (
    RetrievalScores,
    choose_unseen,
    evaluate_corruptions,
    evaluate_recovery,
    evaluate_unseen,
)
from coophash.hasher import ImageHasher

EVALUATIONS = ("retrieval", "corruption", "recovery", "unseen")
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


def _map(scores: list[RetrievalScores]) -> float:
    return sum(score.mean_average_precision for score in scores) / len(scores)
