"""The demo of UCCH: halves of 5,000 MNIST digits as two modalities, from pixels to a report.

    coophash demo --method ucch --out demo-report

The left half stands for an image, the right half for its text. 500 pairs are queries, 500 choose
the epoch to keep, 4,000 train and are searched, as in UCCH's own experiments. No method sees a
label; labels score.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.cca import CCAHash
from coophash.cross_modal import (
    IMAGE,
    TEXT,
    CrossModalScores,
    cross_modal_curves,
    cross_modal_index,
    evaluate_cross_modal,
    instance_recall,
    modality_ids,
    split_ids,
)
from coophash.data import PairSet, read_mnist_halves, split_indices
from coophash.encoded import check_writable
from coophash.environment import machine, versions
from coophash.history import History
from coophash.metrics import PrecisionRecallCurve
from coophash.ucch import UCCH
from coophash.ucch_training import fit_pairs

SPLIT: dict[str, int | None] = {"query": 500, "validation": 500, "train": None}
EPOCHS = 30
# Narrow networks, which learn digits in seconds; the authors' have 8,192 units.
DIGITS: dict[str, Any] = {
    "image_hidden": (512, 512), "text_hidden": (512, 512), "learning_rate": 1e-3,
    "schedule": "cosine", "standardize": True, "clip_features": 5.0,
}  # fmt: skip
UCCH_NAME = "UCCH"
ABLATIONS: dict[str, dict[str, Any]] = {
    UCCH_NAME: {},
    "L_c alone": {"contrast_weight": 1.0},
    "L_r alone": {"contrast_weight": 0.0},
    "L'_r alone": {"contrast_weight": 0.0, "ranking": "max-margin"},
}
CCA_NAME = "CCA-ITQ"
IMAGE_SHAPE = (1, 28, 28)
NEIGHBOURS = 8
MOST_BITS = 28 * 14
CUT = 100


@dataclass(frozen=True)
class PairMethod:
    """One method's codes, scored: both directions, curves, and recall of the own other half."""

    name: str
    scores: CrossModalScores
    curves: dict[str, PrecisionRecallCurve]
    recall: dict[str, dict[int, float]]
    seconds: float


@dataclass(frozen=True)
class PairDemo:
    """Everything that the demo found.

    Attributes:
        parts: the split, by name.
        methods: UCCH first.
        found: for each direction (rows of the training pairs, distances), (Q, NEIGHBOURS), from the
            one index that holds both halves of all training pairs.
        search_seconds: both searches.
        histories: of the trained networks, by name.
        seconds: the whole demo.
        settings: what it was called with and what follows from that.
    """

    parts: dict[str, PairSet]
    methods: tuple[PairMethod, ...]
    found: dict[str, tuple[NDArray[np.int64], NDArray[np.int32]]]
    search_seconds: float
    histories: dict[str, History]
    seconds: float
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the pictures."""
        return {
            "settings": self.settings,
            "split": {name: len(part) for name, part in self.parts.items()},
            "methods": [
                {
                    "name": method.name, "seconds": method.seconds, **method.scores.as_dict(),
                    "instance_recall": method.recall,
                }
                for method in self.methods
            ],
            "histories": {
                name: {"kept_update": history.kept_update, "records": history.records}
                for name, history in self.histories.items()
            },
            "search_seconds": self.search_seconds,
            "seconds": self.seconds,
            "versions": versions(),
            "machine": machine(),
        }  # fmt: skip


def run_pair_demo(
    seed: int = 0,
    bits: int = 32,
    epochs: int | None = None,
    *,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> PairDemo:
    """Train, encode, index, search and score.

    Args:
        seed: of the split, of every initial weight and of every draw.
        bits: bits per code.
        epochs: EPOCHS by default.
        progress: show bars with the time left.
        say: called with a line for each stage.

    Raises:
        ImportError: an extra is missing: `pip install "coophash[demo]"`.
        ValueError: bits or epochs out of range.
    """
    started = time.perf_counter()
    length = EPOCHS if epochs is None else epochs
    if length < 1:
        raise ValueError(f"epochs must be at least 1, got {length}")
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits must be from 1 to {MOST_BITS}, the pixels of a half, got {bits}")
    halves = read_mnist_halves()
    assert halves.labels is not None
    rows = split_indices(halves.labels, SPLIT, seed, halves.class_names)
    parts = {name: halves.subset(part, name) for name, part in rows.items()}
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    say(f"halves of {len(halves):,} MNIST digits, split with seed {seed}: {sizes}")

    histories: dict[str, History] = {}
    methods: list[PairMethod] = []
    model: UCCH | None = None
    for name, options in ABLATIONS.items():
        say(f"training {name}: {length} epochs, no labels")
        net = UCCH(
            bits, halves.image_dim, halves.text_dim, seed=seed, epochs=length,
            **{**DIGITS, **options},
        )  # fmt: skip
        # Without its labels: the epoch is chosen by how well halves find their own other half.
        histories[name] = fit_pairs(
            net, _bare(parts["train"]), _bare(parts["validation"]), seed=seed, progress=progress
        )
        methods.append(_score(name, net, parts, bits, histories[name].seconds))
        model = net if model is None else model
    began = time.perf_counter()
    cca = CCAHash(bits, seed=seed).fit(parts["train"])
    methods.append(_score(CCA_NAME, cca, parts, bits, time.perf_counter() - began))

    assert model is not None
    say("one index of both halves, searched from each side")
    found, seconds = _search(model, parts, bits)
    return PairDemo(
        parts, tuple(methods), found, seconds, histories, time.perf_counter() - started,
        settings={
            "seed": seed, "bits": bits, "epochs": length,
            "model": histories[UCCH_NAME].settings["model"],
        },
    )  # fmt: skip


def write_pair_demo(demo: PairDemo, folder: str | Path) -> tuple[Path, Path]:
    """Write `index.html` and `results.json` into the folder, made if it is missing.

    Returns:
        Their paths, in that order.
    """
    from coophash.pair_demo_page import write_pair_page

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    check_writable(results)
    results.write_text(json.dumps(demo.as_dict(), indent=1) + "\n", encoding="utf-8")
    return write_pair_page(demo, folder / "index.html"), results


def _bare(pairs: PairSet) -> PairSet:
    """The pairs without their labels."""
    return PairSet(pairs.images, pairs.texts, name=pairs.name, ids=pairs.ids)


def _score(
    name: str, model: UCCH | CCAHash, parts: dict[str, PairSet], bits: int, seconds: float
) -> PairMethod:
    q, d = parts["query"], parts["train"]
    codes = (
        model.encode_image(q), model.encode_text(q), model.encode_image(d), model.encode_text(d)
    )  # fmt: skip
    data = (*codes, q.labels, d.labels)
    own = np.arange(len(q))
    return PairMethod(
        name,
        evaluate_cross_modal(*data, bits=bits, k=CUT),
        cross_modal_curves(*data, bits=bits),
        {
            "image to text": instance_recall(codes[0], codes[1], own, own),
            "text to image": instance_recall(codes[1], codes[0], own, own),
        },
        seconds,
    )


def _search(
    model: UCCH, parts: dict[str, PairSet], bits: int
) -> tuple[dict[str, tuple[NDArray[np.int64], NDArray[np.int32]]], float]:
    q, d = parts["query"], parts["train"]
    index = cross_modal_index(model.encode_image(d), model.encode_text(d), bits)
    found, began = {}, time.perf_counter()
    for name, codes, wanted in (
        ("image to text", model.encode_image(q), TEXT),
        ("text to image", model.encode_text(q), IMAGE),
    ):
        allowed = modality_ids(len(d), wanted)
        distances, ids = index.search(codes, NEIGHBOURS, allow=allowed)
        found[name] = (split_ids(ids)[0], distances)
    return found, time.perf_counter() - began
