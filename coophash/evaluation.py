"""Retrieval quality as records, of what tables and reports are made.

    evaluate_codes, evaluate_sets   conventional retrieval: one ranking of a database
    evaluate_unseen                 queries and database of classes that were not trained on
    evaluate_collections            codes of one collection queried with another
    evaluate_corruptions            clean database, corrupted queries at five strengths
    evaluate_recovery               corrupted queries as they are, and after `CoopHash.recover`

Loss is relative throughout: 0.1 says that a tenth of the mAP is gone.
"""

from __future__ import annotations

from coophash._evaluation_corruption import (
    CorruptionScores,
    RecoveryScores,
    evaluate_corruptions,
    evaluate_recovery,
)
from coophash._evaluation_retrieval import (
    RetrievalScores,
    check_comparable,
    evaluate_codes,
    evaluate_sets,
    relative_loss,
)
from coophash._evaluation_shift import (
    CollectionScores,
    UnseenScores,
    choose_unseen,
    evaluate_collections,
    evaluate_unseen,
    without_classes,
)

__all__ = [
    "CollectionScores",
    "CorruptionScores",
    "RecoveryScores",
    "RetrievalScores",
    "UnseenScores",
    "check_comparable",
    "choose_unseen",
    "evaluate_codes",
    "evaluate_collections",
    "evaluate_corruptions",
    "evaluate_recovery",
    "evaluate_sets",
    "evaluate_unseen",
    "relative_loss",
    "without_classes",
]
