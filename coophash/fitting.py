"""`fit`: one name for the training of every model."""

from __future__ import annotations

from typing import Any

from coophash.history import History


def fit(model: Any, dataset: Any, *arguments: Any, **options: Any) -> History:
    """Train a model in place.

    Args:
        model: a `CoopHash`, `SupervisedHash` or `UCCH`.
        dataset: a `PairSet` for the last, labelled images for the others.
        arguments, options: those of `coophash.training.fit`, for a `UCCH` those of
            `coophash.ucch_training.fit_pairs`: validation data, length of the training, seed,
            folder for checkpoints, resume, progress.

    Returns:
        The run's `History`.

    Raises:
        TypeError, ValueError, FloatingPointError, KeyboardInterrupt: as these two.
    """
    from torch.nn import Module

    from coophash.ucch import UCCH

    given: object = model
    if not isinstance(given, Module):
        told = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise TypeError(
            f"model must be a CoopHash, SupervisedHash or UCCH, got {told}: make one first"
        )
    if isinstance(model, UCCH):
        from coophash.ucch_training import fit_pairs

        return fit_pairs(model, dataset, *arguments, **options)
    from coophash.training import fit as fit_images

    return fit_images(model, dataset, *arguments, **options)
