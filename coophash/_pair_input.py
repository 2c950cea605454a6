"""What `UCCH` and its training check of what they are given."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coophash.data.pairs import PairSet, feature_matrix, source_features
from coophash.features import Source
from coophash.ucch_backbone import PixelEncoder, pixels_of

if TYPE_CHECKING:
    from coophash.ucch import UCCH


def check_features(values: Any, width: int, name: str) -> Any:
    """Features as float32 (N, width): an array for an array, a tensor for a tensor.

    Raises:
        TypeError, ValueError: another dtype or width, or NaN or infinity.
    """
    if isinstance(values, Tensor):
        if not values.is_floating_point():
            raise TypeError(f"{name} must be floating (N, {width}), got {values.dtype}")
        values = values.float()
        if values.ndim == 2 and not torch.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity: repair them first")
    else:
        values = feature_matrix(values, name)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(
            f"{name} must be features (N, {width}) as in training, got {tuple(values.shape)}"
        )
    return values


def features_of(values: Any, source: Source | None, kind: str) -> Any:
    """Features of a `PairSet`, of pixels, or of a list of files or texts; else as it is."""
    if isinstance(values, PairSet):
        values = values.images if kind == "image" else values.texts
    if isinstance(values, (str, bytes, os.PathLike)):
        raise TypeError(f"{kind}s must be a list of them, got one: give [{kind}]")
    if isinstance(values, np.ndarray) and values.dtype.kind == "U" and values.ndim == 1:
        values = values.tolist()
    raw = isinstance(values, np.ndarray) and values.ndim == 4 and kind == "image"
    if not raw and not isinstance(values, (list, tuple)):
        return values
    named = [] if raw else [isinstance(value, (str, os.PathLike)) for value in values]
    if any(named) and not all(named):
        odd = values[named.index(False)]
        raise TypeError(f"{kind}s must all be {'files' if kind == 'image' else 'texts'}, got {odd}")
    if not all(named):  # rows of numbers
        return values
    if source is None:
        raise ValueError(
            f"the model takes features of {kind}s: set model.{kind}_source to what makes them, or "
            "give the features"
        )
    return source_features(source, values, kind)


def check_pairs(pairs: PairSet, model: UCCH, name: str, least: int = 2) -> None:
    """Raise unless pairs are what the model takes, and enough of them.

    Raises:
        TypeError, ValueError: they are not.
    """
    if len(pairs) < least:
        raise ValueError(f"{name} has {len(pairs)} pairs; training needs at least {least}")
    check_features(pairs.texts[:1], model.config.text_dim, f"{name} texts")
    if isinstance(model.image_encoder, PixelEncoder):
        pixels_of(pairs, model.image_encoder)
        return
    if pairs.raw:
        raise TypeError(
            f"{name} has raw images, {pairs!r}: make features of them first, "
            "pairs.with_features(source) with a source of coophash.features, or train a backbone "
            "with them, coophash.ucch_backbone"
        )
    check_features(pairs.images[:1], model.config.image_dim, f"{name} images")


def digest_of(pairs: PairSet) -> str:
    """Tells a resumed run that its pairs are others."""
    told = hashlib.blake2b(digest_size=8)
    for values in (pairs.images, pairs.texts):
        told.update(np.ascontiguousarray(values).data)
    return told.hexdigest()


def labels_digest(trained: PairSet, queries: PairSet, held: PairSet | None) -> str:
    """Tells a resumed run that what chooses its epoch is another: labels, and pairs of their own.

    held: the validation pairs where they are no part of the training pairs.
    """
    told = hashlib.blake2b(("" if held is None else digest_of(held)).encode(), digest_size=8)
    for labels in (trained.labels, queries.labels):
        if labels is None:
            told.update(b"none")
        else:
            told.update(f"{labels.shape}".encode())
            told.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return told.hexdigest()


def check_seed(seed: object, name: str = "seed") -> int:
    """A seed as NumPy, torch and the kernels all take it.

    Raises:
        TypeError, ValueError: it is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"{name} must be from 0 to 2**63 - 1, got {seed}")
    return int(seed)
