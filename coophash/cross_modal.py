"""Retrieval across modalities: one index for image and text codes, and its scores.

    ids = 2 * pair + modality,  modality 0 for images and 1 for texts

so both codes of every pair stand in one `HammingIndex`, an id says what was found, and pairs can be
added later without renumbering. A search of one modality alone gives its ids as `allow`:

    index = cross_modal_index(image_codes, text_codes, bits=64)
    distances, ids = index.search(query_codes, 10, allow=modality_ids(len(image_codes), TEXT))
    pairs, modalities = split_ids(ids)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coophash._arguments import check_ids
from coophash._options import check_integer
from coophash.codes import as_numpy, check_codes
from coophash.evaluation import RetrievalScores, evaluate_codes
from coophash.metrics import PrecisionRecallCurve, precision_recall_curve
from coophash.search import HammingIndex, hamming_distances

IMAGE, TEXT = 0, 1
MODALITIES = ("image", "text")
_BLOCK = 1 << 22  # distances at a time


def modality_ids(pairs: int | ArrayLike, modality: int) -> NDArray[np.int64]:
    """Ids of the images or texts of pairs: of the numbers given, or of 0 to pairs - 1.

    Raises:
        TypeError, ValueError: numbers that are not whole, below 0 or of 2**62 or more.
    """
    if modality not in (IMAGE, TEXT):
        raise ValueError(f"modality must be IMAGE (0) or TEXT (1), got {modality!r}")
    if np.ndim(pairs) == 0:
        numbers = np.arange(check_integer("pairs", pairs, 0))
    else:
        numbers = check_ids(pairs, "pairs")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < 1 << 62:
        raise ValueError(
            f"pairs must be from 0 to 2**62 - 1, got {numbers.min()} to {numbers.max()}"
        )
    return np.asarray(2 * numbers + modality, np.int64)


def split_ids(ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(pair, modality) of ids, of any shape; both -1 where a search found nothing (id -1)."""
    given = np.asarray(ids)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"ids must be whole numbers, got {given.dtype} {given.shape}")
    values = given.astype(np.int64)
    missing = values < 0
    return np.where(missing, -1, values >> 1), np.where(missing, -1, values & 1)


def cross_modal_index(
    image_codes: Any, text_codes: Any, bits: int, pairs: ArrayLike | None = None, **options: Any
) -> HammingIndex:
    """An index of the codes of both modalities.

    Args:
        image_codes, text_codes: uint8 (N, ceil(bits / 8)), row i of both of pair i.
        bits: bits per code.
        pairs: the number of each pair, int64 (N,); 0 to N - 1 by default.
        options: of `HammingIndex`.

    Raises:
        TypeError, ValueError: not as many codes of one modality as of the other, or numbers that
            are not one a pair, as `modality_ids` takes them, and all different.
    """
    index = HammingIndex(bits=bits, **options)
    images = check_codes(as_numpy(image_codes, "image_codes")[0], "image_codes", bits)
    texts = check_codes(as_numpy(text_codes, "text_codes")[0], "text_codes", bits)
    if len(images) != len(texts):
        raise ValueError(
            f"image_codes and text_codes must be of the same pairs, got {len(images)} and "
            f"{len(texts)}"
        )
    numbers = np.arange(len(images)) if pairs is None else check_ids(pairs, "pairs")
    if len(numbers) != len(images):
        raise ValueError(f"pairs must be one number for each of {len(images)}, got {len(numbers)}")
    index.add(images, ids=modality_ids(numbers, IMAGE))
    index.add(texts, ids=modality_ids(numbers, TEXT))
    return index


@dataclass(frozen=True)
class CrossModalScores:
    """Scores of both directions; `coophash.evaluation.RetrievalScores` says what each means."""

    image_to_text: RetrievalScores
    text_to_image: RetrievalScores

    @property
    def mean_average_precision(self) -> float:
        """Mean of the two mAPs."""
        both = self.image_to_text, self.text_to_image
        return sum(one.mean_average_precision for one in both) / 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "image_to_text": self.image_to_text.as_dict(),
            "text_to_image": self.text_to_image.as_dict(),
        }


def evaluate_cross_modal(
    query_images: Any,
    query_texts: Any,
    database_images: Any,
    database_texts: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    bits: int,
    radius: int = 2,
    k: int | None = None,
) -> CrossModalScores:
    """mAP over all ranks and more: images search texts, texts search images.

    Args:
        query_images, query_texts: packed codes (Q, width) of the query pairs.
        database_images, database_texts: packed codes (N, width) of the pairs searched; other pairs.
        query_labels, database_labels: classes (Q,) and (N,), or multi-hot (Q, C) and (N, C); a
            result is right if it shares a label with the query.
        bits, radius, k: as for `coophash.evaluation.evaluate_codes`.
    """
    labels = (query_labels, database_labels)
    options = {"bits": bits, "radius": radius, "k": k}
    return CrossModalScores(
        evaluate_codes(query_images, database_texts, *labels, **options),  # type: ignore[arg-type]
        evaluate_codes(query_texts, database_images, *labels, **options),  # type: ignore[arg-type]
    )


def cross_modal_curves(
    query_images: Any,
    query_texts: Any,
    database_images: Any,
    database_texts: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    bits: int,
) -> dict[str, PrecisionRecallCurve]:
    """Precision and recall at every Hamming radius, "image to text" and "text to image".

    Arguments as for `evaluate_cross_modal`.
    """
    labels = (query_labels, database_labels)
    return {
        "image to text": precision_recall_curve(query_images, database_texts, *labels, bits=bits),
        "text to image": precision_recall_curve(query_texts, database_images, *labels, bits=bits),
    }


def instance_recall(
    query_codes: Any,
    database_codes: Any,
    query_instances: ArrayLike,
    database_instances: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[int, float]:
    """Recall@k of instance retrieval: the share of queries with a right item among the first k.

    As Flickr30K is scored: an image and its five texts are one instance. Items at the same distance
    are taken in the mean over their orders, exactly, so that no order of the database helps.

    Args:
        query_codes, database_codes: packed codes, uint8 (Q, width) and (N, width).
        query_instances, database_instances: integers (Q,) and (N,): what each belongs to.
        ks: the cut-offs, each at least 1.

    Returns:
        k -> recall, from 0 to 1.

    Raises:
        ValueError: shapes that do not fit, or a query whose instance is not in the database.

    Example:
        >>> codes = np.array([[0], [1], [7]], np.uint8)
        >>> instance_recall(codes, codes, [0, 1, 2], [0, 1, 2], ks=(1,))
        {1: 1.0}
    """
    queries = check_codes(as_numpy(query_codes, "query_codes")[0], "query_codes")
    database = check_codes(as_numpy(database_codes, "database_codes")[0], "database_codes")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"query_codes and database_codes must be codes of one length, got {queries.shape} and "
            f"{database.shape}"
        )
    asked, there = np.asarray(query_instances), np.asarray(database_instances)
    for name, array, codes in (
        ("query_instances", asked, queries), ("database_instances", there, database)
    ):  # fmt: skip
        if array.shape != (len(codes),) or array.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be integers ({len(codes)},), got {array.dtype} {array.shape}"
            )
    if isinstance(ks, str) or not isinstance(ks, Sequence) or not ks:
        raise TypeError(f"ks must be a list of whole numbers of at least 1, got {ks!r}")
    for k in ks:
        check_integer("ks", k, 1)
    if not len(queries):
        raise ValueError("query_codes must be at least one code, got none")
    if not np.isin(asked, there).all():
        lost = asked[~np.isin(asked, there)][0]
        raise ValueError(f"instance {lost} of the queries is not in the database")
    totals = dict.fromkeys(ks, 0.0)
    step = max(1, _BLOCK // len(database))
    for start in range(0, len(queries), step):
        distances = hamming_distances(queries[start : start + step], database)
        right = asked[start : start + step, None] == there
        nearest = np.where(right, distances, np.iinfo(np.int32).max).min(axis=1)
        before = (distances < nearest[:, None]).sum(axis=1)
        level = distances == nearest[:, None]
        tied, hits = level.sum(axis=1), (level & right).sum(axis=1)
        for k in ks:
            for b, n, r in zip(before.tolist(), tied.tolist(), hits.tolist(), strict=True):
                totals[k] += _chance(k - b, n, r)
    return {k: total / len(queries) for k, total in totals.items()}


def _chance(places: int, items: int, right: int) -> float:
    """Chance that one of `right` among `items` in random order stands on the first `places`."""
    if places <= 0:
        return 0.0
    if places > items - right:
        return 1.0
    return 1.0 - math.comb(items - right, places) / math.comb(items, places)
