"""The demo: CoopHash on 5,000 real MNIST digits beside three baselines, from pixels to a report.

    coophash demo --out demo-report

500 labelled digits train, 500 choose the update to keep, 500 are queries and 3,500 the database;
the four parts are disjoint. Every method ranks the same database for the same queries.
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

from coophash.baselines import ITQ, RandomProjection
from coophash.coop import CoopHash
from coophash.corruptions import spoil
from coophash.data import ImageSet, read_mnist5k, split_indices
from coophash.demo_page import PLAIN, write_page
from coophash.diagnostics import GeneratorReport, generator_report
from coophash.encoded import check_writable
from coophash.environment import machine, versions
from coophash.evaluation import (
    RecoveryScores,
    RetrievalScores,
    evaluate_codes,
    evaluate_recovery,
)
from coophash.generation import Triplets, latent_grid, triplets
from coophash.history import History
from coophash.metrics import PrecisionRecallCurve, precision_recall_curve
from coophash.search import HammingIndex
from coophash.training import fit

# CoopHash's updates take some minutes on 2 cores; beyond PLAIN_UPDATES the plain network's
# validation score no longer rises.
COOPHASH_UPDATES = 1300
PLAIN_UPDATES = 2000
BATCH_SIZE = 64
SHIFT = 2  # pixels: without it the plain network is 6 points worse, and a gain over it easy
SPLIT: dict[str, int | None] = {"train": 500, "validation": 500, "query": 500, "database": None}

COOPHASH = "CoopHash"
NEIGHBOURS = 10  # shown for each query
GRID_ROWS = 8  # latents in the grid of generated images
MOST_BITS = 28 * 28  # ITQ makes at most one bit per pixel
RADIUS = 2
CUT = 100  # k of precision@k
OCCLUSIONS = (1, 3, 5)  # strengths of `coophash.corruptions`; the pictures show the middle one


@dataclass(frozen=True)
class Method:
    """One method's codes, scored.

    Attributes:
        name: for tables.
        uses_labels: whether it was trained with labels.
        scores, curve: of ranking the database for the queries.
        seconds: of training, or of fitting.
    """

    name: str
    uses_labels: bool
    scores: RetrievalScores
    curve: PrecisionRecallCurve
    seconds: float


@dataclass(frozen=True)
class Demo:
    """Everything that the demo found.

    Attributes:
        parts: the split, by name.
        methods: CoopHash first.
        rows, distances: (Q, NEIGHBOURS): results of searching CoopHash's codes of the database.
        search_seconds: that search, once.
        report: of `coophash.diagnostics`; triplets: of `coophash.generation`.
        grid, grid_revised: generated digits and the same after the chain, (GRID_ROWS, classes, C,
            H, W), of `coophash.generation.latent_grid`.
        recovery: CoopHash's queries with a rectangle hidden, as they are and recovered.
        recovery_images: one digit of each class: real, occluded, recovered; (3, classes, C, H, W).
        histories: of the two trained networks, by name.
        seconds: the whole demo.
        settings: what it was called with and what follows from that.
    """

    parts: dict[str, ImageSet]
    methods: tuple[Method, ...]
    rows: NDArray[np.int64]
    distances: NDArray[np.int32]
    search_seconds: float
    report: GeneratorReport
    triplets: Triplets
    grid: NDArray[np.float32]
    grid_revised: NDArray[np.float32]
    recovery: RecoveryScores
    recovery_images: NDArray[np.float32]
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
                    "name": method.name,
                    "uses_labels": method.uses_labels,
                    "seconds": method.seconds,
                    **method.scores.as_dict(),
                    "curve": {
                        name: values.tolist() for name, values in method.curve._asdict().items()
                    },
                }
                for method in self.methods
            ],
            "generator": self.report.as_dict(),
            "recovery": self.recovery.as_dict(),
            "histories": {
                name: {"kept_update": history.kept_update, "records": history.records}
                for name, history in self.histories.items()
            },
            "search_seconds": self.search_seconds,
            "seconds": self.seconds,
            "versions": versions(),
            "machine": machine(),
        }


def run_demo(
    seed: int = 0,
    bits: int = 32,
    updates: int | None = None,
    *,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Demo:
    """Train, encode, index, search and score.

    Args:
        seed: of the split, of every initial weight and of every draw.
        bits: bits per code.
        updates: gradient steps of CoopHash, COOPHASH_UPDATES by default; the plain network's
            number changes in proportion.
        progress: show bars with the time left.
        say: called with a line for each stage.

    Raises:
        ImportError: an extra is missing: `pip install "coophash[demo]"`.
        ValueError: bits or updates out of range.
    """
    started = time.perf_counter()
    coop_updates = COOPHASH_UPDATES if updates is None else updates
    if coop_updates < 1:
        raise ValueError(f"updates must be at least 1, got {coop_updates}")
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits must be from 1 to {MOST_BITS}, the pixels of a digit, got {bits}")
    plain_updates = max(1, round(PLAIN_UPDATES * coop_updates / COOPHASH_UPDATES))

    digits = read_mnist5k()
    rows = split_indices(digits.labels, SPLIT, seed, digits.class_names)
    parts = {name: digits.subset(part, name) for name, part in rows.items()}
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    say(f"{len(digits):,} MNIST digits, split with seed {seed}: {sizes}")

    models, histories = {}, {}
    for name, cooperative, count in (
        (COOPHASH, True, coop_updates),
        (PLAIN, False, plain_updates),
    ):
        say(f"training {name}: {count:,} updates on {len(parts['train'])} labelled digits")
        model = CoopHash(
            bits, digits.classes, digits.image_shape, digits.class_names, seed=seed,
            cooperative=cooperative,
        )  # fmt: skip
        histories[name] = fit(
            model, parts["train"], parts["validation"], updates=count, batch_size=BATCH_SIZE,
            seed=seed, shift=SHIFT, progress=progress,
        )  # fmt: skip
        models[name] = model

    say("encoding the database and the queries, indexing, searching")
    methods = []
    codes: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for name, model in models.items():
        codes[name] = (model.encode(parts["query"]), model.encode(parts["database"]))
        methods.append(_score(name, True, codes[name], parts, bits, histories[name].seconds))
    # Neither of these sees a label, so they may look at the pixels of the database as well.
    unlabelled = np.concatenate([_vectors(parts["train"]), _vectors(parts["database"])])
    for name, hasher in (
        ("ITQ", ITQ(bits, seed=seed)),
        ("random projections", RandomProjection(bits, seed=seed)),
    ):
        began = time.perf_counter()
        hasher.fit(unlabelled)
        seconds = time.perf_counter() - began
        pair = tuple(hasher.encode(_vectors(parts[part])) for part in ("query", "database"))
        methods.append(_score(name, False, pair, parts, bits, seconds))

    index = HammingIndex(bits=bits)
    index.add(codes[COOPHASH][1])
    began = time.perf_counter()
    distances, ids = index.search(codes[COOPHASH][0], NEIGHBOURS)
    search_seconds = time.perf_counter() - began

    model = models[COOPHASH]
    say("looking at the generator, recovering occluded queries")
    return Demo(
        parts=parts,
        methods=tuple(methods),
        rows=ids,
        distances=distances,
        search_seconds=search_seconds,
        report=generator_report(
            model, parts["query"], classifier=models[PLAIN], training=parts["train"], seed=seed
        ),
        triplets=triplets(model, parts["train"], seed=seed),
        grid=latent_grid(model, GRID_ROWS, seed=seed),
        grid_revised=latent_grid(model, GRID_ROWS, seed=seed, revised=True),
        recovery=evaluate_recovery(
            model,
            parts["query"],
            parts["database"],
            kinds=("occlusion",),
            strengths=OCCLUSIONS,
            seed=seed,
        ),
        recovery_images=_recovered(model, parts["query"], seed),
        histories=histories,
        seconds=time.perf_counter() - started,
        settings={
            "seed": seed,
            "bits": bits,
            "updates": {COOPHASH: coop_updates, PLAIN: plain_updates},
            "batch_size": BATCH_SIZE,
            "model": histories[COOPHASH].settings["model"],
            "training": {
                key: value for key, value in histories[COOPHASH].settings.items() if key != "model"
            },
        },
    )


def write_demo(demo: Demo, folder: str | Path) -> tuple[Path, Path]:
    """Write `index.html` and `results.json` into the folder, made if it is missing.

    Returns:
        Their paths, in that order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    check_writable(results)
    results.write_text(json.dumps(demo.as_dict(), indent=1) + "\n", encoding="utf-8")
    return write_page(demo, folder / "index.html"), results


def _recovered(model: CoopHash, queries: ImageSet, seed: int) -> NDArray[np.float32]:
    """The first query of each class: real, occluded, recovered; (3, classes, C, H, W)."""
    first = [int(np.flatnonzero(queries.labels == c)[0]) for c in range(queries.classes)]
    chosen = queries.subset(first)
    hidden, observed = spoil(chosen, "occlusion", OCCLUSIONS[1], seed)
    return np.stack([chosen.float(), hidden, model.recover(hidden, observed, seed=seed)])


def _vectors(images: ImageSet) -> NDArray[np.float32]:
    """Pixels in [-1, 1] as rows: (N, C * H * W)."""
    return images.float().reshape(len(images), -1)


def _score(
    name: str, uses_labels: bool, codes: Any, parts: dict[str, ImageSet], bits: int, seconds: float
) -> Method:
    queries, database = codes
    data = (queries, database, parts["query"].labels, parts["database"].labels)
    return Method(
        name,
        uses_labels,
        evaluate_codes(*data, bits=bits, radius=RADIUS, k=CUT),
        precision_recall_curve(*data, bits=bits),
        seconds,
    )
