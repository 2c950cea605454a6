"""How false negatives hurt: mAP as the share of same-class negatives in the batch grows.

python benchmarks/ucch_false_negatives.py --out results.json [--figure figure.png]

Halves of MNIST digits; every batch is drawn from m of the 10 classes, chosen anew for each batch,
so a share of about 1 / m of a pair's negatives in it is of its own class. Data, updates and
evaluation (500 query pairs, 4,500 pairs that train and are searched) are the same throughout.
Compared: the cross-modal ranking loss L_r (CRL), the max-margin loss L'_r, which it replaces, each
alone, and UCCH with both of its losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import coophash as ch
from coophash.cross_modal import evaluate_cross_modal
from coophash.data import PairSet, read_mnist_halves, split_indices
from coophash.environment import machine, versions
from coophash.ucch import MemoryBank, ucch_step

BITS, BATCH = 32, 128
CLASSES = (10, 5, 3, 2, 1)
VARIANTS: dict[str, dict[str, Any]] = {
    "CRL": {"contrast_weight": 0.0},
    "max-margin": {"contrast_weight": 0.0, "ranking": "max-margin"},
    "UCCH": {"contrast_weight": 0.7},
}


def run(parts: dict[str, PairSet], variant: str, classes: int, seed: int, updates: int) -> float:
    """Train on batches of so many classes; the mean mAP of both directions."""
    train, query = parts["train"], parts["query"]
    model = ch.UCCH(
        BITS, train.image_dim, train.text_dim, seed=seed, image_hidden=(256,), text_hidden=(256,),
        negatives=1024, **VARIANTS[variant],
    )  # fmt: skip
    images, texts = torch.from_numpy(train.images), torch.from_numpy(train.texts)
    bank = MemoryBank(len(train), BITS, seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    random = np.random.default_rng([seed, classes])
    assert train.labels is not None
    members = [np.flatnonzero(train.labels == label) for label in range(train.classes)]
    model.train()
    for update in range(updates):
        chosen = random.permutation(train.classes)[:classes]
        pool = np.concatenate([members[label] for label in chosen])
        rows = torch.from_numpy(random.permutation(pool)[:BATCH])
        ucch_step(
            model, bank, rows, images[rows], texts[rows], optimizer, seed, update,
            warm_up=update < len(train) // BATCH,
        )  # fmt: skip
    scores = evaluate_cross_modal(
        model.encode_image(query), model.encode_text(query), model.encode_image(train),
        model.encode_text(train), query.labels, train.labels, bits=BITS,
    )  # fmt: skip
    return scores.mean_average_precision


def same_class_share(labels: np.ndarray, classes: int, seed: int = 0) -> float:
    """Share of a pair's negatives in a batch that are of its class, measured."""
    random, shares = np.random.default_rng(seed), []
    count = int(labels.max()) + 1
    for _ in range(200):
        pool = np.flatnonzero(np.isin(labels, random.permutation(count)[:classes]))
        batch = labels[random.permutation(pool)[:BATCH]]
        same = batch[:, None] == batch[None, :]
        shares.append((same.sum() - len(batch)) / (len(batch) * (len(batch) - 1)))
    return float(np.mean(shares))


def table(record: dict[str, Any]) -> str:
    """Markdown: a row for each share."""
    lines = ["| same-class negatives | " + " | ".join(VARIANTS) + " |"]
    lines.append("|---" * (1 + len(VARIANTS)) + "|")
    for point in record["points"]:
        cells = []
        for variant in VARIANTS:
            values = point["map"][variant]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {100 * point['share']:.0f} % | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(record: dict[str, Any], path: Path) -> None:
    """The table as a figure."""
    import base64

    from coophash.figures import curves_uri

    shares = [100 * point["share"] for point in record["points"]]
    series = {
        variant: (shares, [statistics.mean(point["map"][variant]) for point in record["points"]])
        for variant in VARIANTS
    }
    picture = curves_uri(
        [("Halves of MNIST digits, 32 bits", "mAP, mean of both directions", series)],
        x_label="same-class pairs among the negatives of a batch, %", columns=1, marker="o",
    )  # fmt: skip
    path.write_bytes(base64.b64decode(picture.partition(",")[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    halves = read_mnist_halves()
    assert halves.labels is not None
    began, points = time.perf_counter(), []
    for classes in CLASSES:
        maps: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for seed in range(options.seeds):
            rows = split_indices(halves.labels, {"query": 500, "train": None}, seed)
            parts = {name: halves.subset(part, name) for name, part in rows.items()}
            for variant in VARIANTS:
                maps[variant].append(run(parts, variant, classes, seed, options.updates))
        share = same_class_share(halves.labels, classes)
        points.append({"classes": classes, "share": share, "map": maps})
        told = ", ".join(f"{name} {statistics.mean(values):.3f}" for name, values in maps.items())
        print(f"{100 * share:.0f} % same-class negatives: {told}", flush=True)
    record = {
        "bits": BITS, "batch": BATCH, "updates": options.updates, "points": points,
        "seconds": round(time.perf_counter() - began, 1), "versions": versions(),
        "machine": machine(),
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    if options.figure:
        draw(record, options.figure)
    print(table(record))


if __name__ == "__main__":
    main()
