"""Whether image-text feature files fit together and hold what is published of a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coophash.data.finding import Finding, digest
from coophash.data.pair_files import QUERIES, find_pairs, read_pairs
from coophash.data.pairs import PairSet


@dataclass(frozen=True)
class PairFacts:
    """What is published of a set of image-text pairs: None where that is not known."""

    image_dim: int | None
    text_dim: int
    classes: int
    queries: int
    retrieval: int


# Section 4.1 of UCCH (Hu et al. 2023), and the authors' loaders; wiki: Rasiwasia et al. 2010.
PAIR_FACTS = {
    "wiki": PairFacts(128, 10, 10, 693, 2_173),
    "mirflickr25k_dcmh": PairFacts(None, 1_386, 24, 2_000, 18_015),
    "mirflickr25k_fea": PairFacts(4_096, 1_386, 24, 2_000, 18_015),
    "iapr_fea": PairFacts(4_096, 2_912, 255, 2_000, 18_000),
    "nus_wide_tc10_fea": PairFacts(4_096, 1_000, 10, 2_100, 184_457),
    "mscoco_fea": PairFacts(4_096, 300, 80, 5_000, 117_218),
}


def check_pairs(
    root: Path, facts: PairFacts | None, queries: int | None = None
) -> Iterator[Finding]:
    """Look at feature files: what is there, what is missing, what is misshapen, what differs.

    Args:
        root: the file or folder.
        facts: what is published; None for any other set.
        queries: as in `read_pairs`.
    """
    try:
        found = find_pairs(root)
    except (FileNotFoundError, ValueError) as error:
        yield Finding("missing", "variables", str(error))
        return
    files = sorted({str(path.name) for path in found.where.values()})
    yield Finding("ok", "files", f"{', '.join(files)}, layout {found.layout.name!r}")
    for names in found.layout.parts.values():
        for name in names:
            if name in found.shapes:
                yield Finding("ok", name, found.shapes[name])
    if queries is None and facts is not None and found.layout.whole:
        queries = facts.queries
    try:
        if found.layout.whole and queries is None:
            whole = read_pairs(root, "all")
            queries = QUERIES.get(len(whole))
        if found.layout.whole and queries is None:
            yield Finding(
                "note",
                "queries",
                f"which of the {len(whole):,} pairs are queries is for you to say",
            )
            train, test = whole, None
        else:
            train, test = read_pairs(root, "train", queries), read_pairs(root, "test", queries)
    except (ValueError, TypeError, FileNotFoundError) as error:
        yield Finding("differs", "contents", str(error))
        return
    parts = {"pairs": train} if test is None else {"training pairs": train, "queries": test}
    for title, part in parts.items():
        if not len(part):
            yield Finding("missing", title, "none: the arrays have no rows")
            return
    for title, part in parts.items():
        yield Finding("ok", title, repr(part))
    if facts is not None and test is not None:
        yield from _against(facts, train, test)
    for kind in ("texts",) if train.raw else ("images", "texts"):
        yield from _constant(kind, getattr(train, kind))
    if train.labels is None:
        yield Finding("note", "labels", "none: training needs none, scores do")
    else:
        yield from _labels(train, test)
    if test is not None:
        yield from _twins(train, test)


def _against(facts: PairFacts, train: PairSet, test: PairSet) -> Iterator[Finding]:
    for subject, got, published in (
        ("training pairs", len(train), facts.retrieval),
        ("queries", len(test), facts.queries),
        ("image features", None if train.raw else train.image_dim, facts.image_dim),
        ("text features", train.text_dim, facts.text_dim),
        ("classes", train.classes or facts.classes, facts.classes),
    ):
        if got is not None and published is not None and got != published:
            yield Finding("differs", subject, f"{got:,}; {published:,} are published")


def _constant(kind: str, features: np.ndarray) -> Iterator[Finding]:
    constant = int((features == features[0]).all(axis=0).sum())
    empty = int((features == 0).all(axis=1).sum())
    if constant:
        yield Finding(
            "note", kind, f"{constant:,} of {features.shape[1]:,} features are the same in all rows"
        )
    if empty:
        yield Finding("note", kind, f"{empty:,} of {len(features):,} rows are all zero")


def _labels(train: PairSet, test: PairSet | None) -> Iterator[Finding]:
    assert train.labels is not None
    asked = train.labels if test is None or test.labels is None else test.labels
    if train.labels.ndim == 1:
        unseen = np.setdiff1d(asked, train.labels)
        counts = np.unique(train.labels, return_counts=True)[1]
        if unseen.size:
            yield Finding(
                "note", "labels", f"classes {unseen[:5].tolist()} of the queries are in no "
                "training pair: they find nothing",
            )  # fmt: skip
        yield Finding(
            "ok", "labels", f"{len(counts)} classes of {counts.min():,} to {counts.max():,} "
            "training pairs",
        )  # fmt: skip
        return
    bare = int((~train.labels.any(axis=1)).sum()), int((~asked.any(axis=1)).sum())
    if any(bare):
        yield Finding(
            "note", "labels", f"{bare[0]:,} training pairs and {bare[1]:,} queries have none"
        )
    yield Finding("ok", "labels", f"{train.labels.sum(axis=1).mean():.2f} for a pair on average")


def _twins(train: PairSet, test: PairSet) -> Iterator[Finding]:
    """Queries whose image and text are in a training pair, number for number."""

    def marks(part: PairSet) -> list[bytes]:
        rows = zip(part.images, part.texts, strict=True)
        return [digest(image.tobytes() + text.tobytes()) for image, text in rows]

    known = set(marks(train))
    twins = sum(mark in known for mark in marks(test))
    if twins:
        yield Finding("note", "duplicates", f"{twins:,} queries are training pairs as well")
    else:
        yield Finding("ok", "duplicates", "no query is a training pair")
