"""Corrupted queries against a clean database: as they are, and recovered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coophash._evaluation_retrieval import RetrievalScores, evaluate_codes, relative_loss
from coophash.corruptions import KINDS, LEVELS, SPOILING, corrupt, spoil
from coophash.data import ImageSet

if TYPE_CHECKING:
    from coophash.coop import CoopHash
    from coophash.hasher import ImageHasher

MENDED = (*SPOILING, "gaussian_noise")  # corruptions that a recovery is made for


@dataclass(frozen=True)
class CorruptionScores:
    """Corrupted queries against a clean database.

    Attributes:
        clean: the queries as they are.
        corrupted: by kind, then by strength from 1 to 5.
        seed: of the corruptions.
    """

    clean: RetrievalScores
    corrupted: dict[str, dict[int, RetrievalScores]]
    seed: int

    @property
    def losses(self) -> dict[str, float]:
        """By kind: share of the clean mAP that is lost, mean over the strengths."""
        return {
            kind: sum(relative_loss(self.clean, each) for each in levels.values()) / len(levels)
            for kind, levels in self.corrupted.items()
        }

    @property
    def loss(self) -> float:
        """Mean of the losses of all kinds."""
        return sum(self.losses.values()) / len(self.losses)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "clean": self.clean.as_dict(),
            "corrupted": _plain(self.corrupted),
            "losses": self.losses,
            "loss": self.loss,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class RecoveryScores:
    """Corrupted queries against a clean database, as they are and after `CoopHash.recover`.

    Attributes:
        clean: the queries before they were corrupted.
        as_is, recovered: by kind, then by strength.
        seed: of the corruptions and of the recovery.
    """

    clean: RetrievalScores
    as_is: dict[str, dict[int, RetrievalScores]]
    recovered: dict[str, dict[int, RetrievalScores]]
    seed: int

    @property
    def losses(self) -> dict[str, tuple[float, float]]:
        """By kind: share of the clean mAP lost, as they are and recovered; mean over strengths."""
        return {
            kind: tuple(  # type: ignore[misc]
                sum(relative_loss(self.clean, each) for each in side[kind].values())
                / len(side[kind])
                for side in (self.as_is, self.recovered)
            )
            for kind in self.as_is
        }

    @property
    def loss(self) -> float:
        """Mean over the kinds of what is lost after the recovery."""
        return sum(after for _, after in self.losses.values()) / len(self.losses)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "clean": self.clean.as_dict(),
            "as_is": _plain(self.as_is),
            "recovered": _plain(self.recovered),
            "losses": {kind: list(pair) for kind, pair in self.losses.items()},
            "loss": self.loss,
            "seed": self.seed,
        }


def evaluate_corruptions(
    model: ImageHasher,
    queries: ImageSet,
    database: ImageSet,
    *,
    kinds: Iterable[str] = KINDS,
    strengths: Iterable[int] = LEVELS,
    seed: int = 0,
    radius: int = 2,
) -> CorruptionScores:
    """Score corrupted queries against a clean database.

    Args:
        kinds, strengths, seed: of `coophash.corruptions.corrupt`.

    Raises:
        ImportError: a kind needs SciPy or Pillow.
        ValueError: no kinds or strengths, or unknown ones.
    """
    kinds, strengths = _some("kinds", kinds), _some("strengths", strengths)
    score = _scorer(model, database, queries, radius)
    return CorruptionScores(
        score(queries),
        {
            kind: {level: score(corrupt(queries, kind, level, seed)) for level in strengths}
            for kind in kinds
        },
        seed,
    )


def evaluate_recovery(
    model: CoopHash,
    queries: ImageSet,
    database: ImageSet,
    *,
    kinds: Iterable[str] = MENDED,
    strengths: Iterable[int] = LEVELS,
    seed: int = 0,
    radius: int = 2,
    **options: Any,
) -> RecoveryScores:
    """Score corrupted queries against a clean database before and after `model.recover`.

    The recovery is told which pixels are hidden ("occlusion") or were replaced ("impulse_noise"),
    or that all are noisy ("gaussian_noise"), and never the class or the strength.

    Args:
        kinds: of "occlusion", "impulse_noise", "gaussian_noise".
        strengths, seed: of `coophash.corruptions`; the seed is also that of the recovery.
        options: of `CoopHash.recover`.

    Raises:
        ValueError: no kinds or strengths, unknown ones, or a model that cannot recover.
    """
    from coophash.recovery import can_recover  # torch, which scores alone do without

    if not can_recover(model):
        raise ValueError(
            f"model cannot recover: {type(model).__name__} ({model.method}) has no generator with "
            "an inference head; use evaluate_corruptions"
        )
    kinds, strengths = _some("kinds", kinds), _some("strengths", strengths)
    if unknown := [kind for kind in kinds if kind not in MENDED]:
        raise ValueError(f"kinds must be of {', '.join(MENDED)}, got {unknown[0]!r}")
    score = _scorer(model, database, queries, radius)
    as_is: dict[str, dict[int, RetrievalScores]] = {kind: {} for kind in kinds}
    recovered: dict[str, dict[int, RetrievalScores]] = {kind: {} for kind in kinds}
    for kind in kinds:
        for level in strengths:
            mask = None
            if kind in SPOILING:
                spoilt, mask = spoil(queries, kind, level, seed)
            else:
                spoilt = corrupt(queries, kind, level, seed)
            as_is[kind][level] = score(spoilt)
            mended = model.recover(spoilt, mask, seed=seed, **options)
            recovered[kind][level] = score(mended)
    return RecoveryScores(score(queries), as_is, recovered, seed)


def _scorer(model: ImageHasher, database: ImageSet, queries: ImageSet, radius: int) -> Any:
    """A function from images of the queries to their scores; the database is encoded once."""
    codes = model.encode(database)

    def score(images: Any) -> RetrievalScores:
        return evaluate_codes(
            model.encode(images), codes, queries.labels, database.labels,
            bits=model.config.bits, radius=radius,
        )  # fmt: skip

    return score


def _some(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be several names, got the text {values!r}: ({values!r},)")
    found = tuple(dict.fromkeys(values))
    if not found:
        raise ValueError(f"{name} must name at least one")
    return found


def _plain(scores: dict[str, dict[int, RetrievalScores]]) -> dict[str, dict[str, Any]]:
    return {
        kind: {str(level): each.as_dict() for level, each in levels.items()}
        for kind, levels in scores.items()
    }
