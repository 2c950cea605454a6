"""The demo's report: what `coophash.demo` found, laid out by `coophash.report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coophash.corruptions import STRENGTHS
from coophash.environment import machine, versions
from coophash.figures import curves_uri, grid_uri, precision_recall_uri
from coophash.report import Figure, Ranking, Section, Table, bold_best, retrieved, write_report

if TYPE_CHECKING:
    from coophash.demo import Demo

PLAIN = "not cooperative"  # the same network, trained on real images alone

HEADER = ("method", "mAP", "worst - best", "P@radius 2", "P@100", "train, s")
BEST = (1, 3, 4)  # columns in which the largest value is best


def result_rows(demo: Demo) -> list[list[str]]:
    """One row of text per method under HEADER, for the page and the terminal."""
    return [
        [
            method.name,
            f"{method.scores.mean_average_precision:.3f}",
            f"{method.scores.map_worst:.3f} - {method.scores.map_best:.3f}",
            f"{method.scores.precision_at_radius:.3f}",
            f"{method.scores.precision_at_k:.3f}",
            f"{method.seconds:.1f}",
        ]
        for method in demo.methods
    ]


def write_page(demo: Demo, path: Path) -> Path:
    """Write the demo's page."""
    rows = result_rows(demo)
    scores = {method.name: method.scores.mean_average_precision for method in demo.methods}
    (name, score), *others = scores.items()
    compared = ", ".join(f"{value:.3f} ({other})" for other, value in others)
    sizes = {part: len(images) for part, images in demo.parts.items()}
    bits = demo.settings["bits"]
    chance = float(np.mean(_class_shares(demo)))
    return write_report(
        path,
        title=f"CoopHash on MNIST digits: {bits}-bit codes from {sizes['train']} labels",
        lead=(
            f"{name} ranks {sizes['database']:,} digits for {sizes['query']} queries with a mean "
            f"average precision of {score:.3f}; in the same run: {compared}."
        ),
        table=Table(
            HEADER, rows, bold_best(rows, BEST),
            "mAP: mean average precision over the whole ranking, the expected value over all "
            "orders of digits at the same distance; beside it the worst and the best that any "
            "order gives. P@radius 2: share of right digits within 2 bits, 0 for a query that "
            "finds nothing there. P@100: among the first 100. Train, s: seconds of training or "
            f"fitting. {PLAIN.capitalize()}: the same network with the same labels, trained on "
            "real digits alone. ITQ and random projections use no labels; they were fitted on "
            "the pixels of the training and database digits. Both networks keep the latest update "
            "whose mAP on the validation digits is within one standard error of the best; no query "
            "enters any choice.",
        ),
        curve=Figure(
            precision_recall_uri(
                {m.name: (m.curve.precision, m.curve.recall) for m in demo.methods}, chance
            ),
            "Precision against recall of " + ", ".join(scores) + "; the table has the scores.",
            "One point per Hamming radius, from 0 bits on the left; mean over the queries.",
        ),
        neighbours=_rankings(demo),
        neighbours_text=(
            "The first query of each class, with its nearest digits in the database by Hamming "
            "distance d; ties stand in order of id. ✓ and a solid border: the query's class; "
            f"✗ and a dashed border: another. The search of all {sizes['query']} queries took "
            f"{1000 * demo.search_seconds:.1f} ms."
        ),
        sections=[_pairs(demo), _generator(demo), _recovery(demo), _training(demo)],
        facts=_facts(demo),
    )  # fmt: skip


def _class_shares(demo: Demo) -> Any:
    """For each query the share of the database that is of its class: precision by chance."""
    database = demo.parts["database"]
    return (database.class_counts / len(database))[demo.parts["query"].labels]


def _rankings(demo: Demo) -> list[Ranking]:
    queries = demo.parts["query"]
    first = np.array([np.flatnonzero(queries.labels == c)[0] for c in range(queries.classes)])
    return retrieved(
        queries.subset(first), demo.parts["database"], demo.rows[first], demo.distances[first]
    )


def _pairs(demo: Demo) -> Section:
    names = demo.parts["train"].class_names
    t = demo.triplets
    kinds = (
        ("real x", t.real),
        ("x⁺ generated", t.positive),
        ("x⁺ after the chain", t.revised),
        ("x⁻ generated", t.negative),
    )
    return Section(
        "Contrastive pairs",
        [
            "The hash function learns from a real image x and two synthetic ones made from the "
            "same latent z: x⁺ of its own class and x⁻ of another. The Langevin chain on the "
            "learned energy then revises x⁺; its samples teach the energy, the inference head and "
            "the generator, and here they also stand in for x⁺ in the triplets."
        ],
        figures=[
            Figure(
                grid_uri(np.stack([images for _, images in kinds])),
                "Four rows of digits, one column for each class: " + ", ".join(k for k, _ in kinds),
                "Each column has a z of its own. Above it: class of x and x⁺ / class of x⁻.",
                columns=[
                    f"{names[a]} / {names[b]}"
                    for a, b in zip(t.labels, t.negative_labels, strict=True)
                ],
                rows=[kind for kind, _ in kinds],
                width=640,
            ),
        ],
    )


def _generator(demo: Demo) -> Section:
    report, names = demo.report, demo.parts["train"].class_names
    rows = [
        [name, *(f"{value:.{digits}f}" for value, digits in zip(values, (3, 2, 2), strict=True))]
        for name, *values in (
            ("real queries", report.accuracy_real, report.distance_real, report.nearest_real),
            ("generated x⁺", report.accuracy, report.distance_synthetic, report.nearest_synthetic),
            ("x⁺ after the chain", report.accuracy_revised, report.distance_revised,
             report.nearest_revised),
        )
    ]  # fmt: skip
    energies = list(report.chain_energies)
    latents = [f"z {number + 1}" for number in range(len(demo.grid))]
    return Section(
        "What the generator has learned",
        [
            "Two failures would leave the pairs without use: a generator that ignores z makes one "
            "image per class, one that ignores the label makes the same images for every class. "
            "In the grid a row shares z and a column the class, so rows should differ in style "
            "and columns in digit.",
        ],
        tables=[
            Table(
                ["images", "classified right", "distance within a class",
                 "distance to the nearest training digit"], rows, (),
                f"{report.samples} synthetic digits of each class. The classifier is the "
                "category head of the network without the cooperative part, which has seen real "
                "digits alone. Distance: mean Euclidean distance between two digits of a class, "
                f"pixels from -1 to 1; synthetic digits have {100 * report.diversity:.0f} % of the "
                "real ones' variety.",
            )
        ],
        figures=[
            Figure(
                grid_uri(demo.grid),
                f"{len(demo.grid)} rows of generated digits 0 to 9; a row shares one latent z.",
                "Generated x⁺: rows share z, columns are classes.",
                columns=names,
                rows=latents,
                width=460,
            ),
            Figure(
                grid_uri(demo.grid_revised),
                f"The same {len(demo.grid)} rows of digits after the Langevin chain.",
                "The same after the chain.",
                columns=names,
                rows=latents,
                width=460,
            ),
            Figure(
                curves_uri(
                    [("Along the chain", "mean energy",
                      {"energy": (list(range(len(energies))), energies)})],
                    x_label="Langevin step", columns=1, marker="o",
                ),
                f"Mean energy of the generated digits falls from {energies[0]:.2f} to "
                f"{energies[-1]:.2f} along the chain."
                if energies[-1] < energies[0]
                else f"Mean energy of the generated digits goes from {energies[0]:.2f} to "
                f"{energies[-1]:.2f} along the chain.",
                f"The chain changes a pixel by {report.chain_move:.3f} on average.",
                width=500,
            ),
        ],
    )  # fmt: skip


def _recovery(demo: Demo) -> Section:
    found, names = demo.recovery, demo.parts["query"].class_names
    shares = STRENGTHS["occlusion"]
    rows = [
        [
            f"{100 * shares[level - 1]:.0f} %",
            f"{score.mean_average_precision:.3f}",
            f"{found.recovered['occlusion'][level].mean_average_precision:.3f}",
        ]
        for level, score in found.as_is["occlusion"].items()
    ]
    shown = list(found.as_is["occlusion"])[len(rows) // 2]
    return Section(
        "Recovery of occluded queries",
        [
            "A rectangle of each query is hidden and the codes of the damaged query rank the same "
            "clean database. Recovery knows which pixels are hidden and nothing else: samples of "
            "the generator that agree with the visible pixels fill the gap, the inference head "
            "gives z, the generator draws the digit anew, and the Langevin chain revises what was "
            "hidden while the visible pixels are held.",
        ],
        tables=[
            Table(
                ["hidden", "mAP as it is", "mAP recovered"], rows, (),
                f"Of the same {found.clean.queries} queries undamaged the mAP is "
                f"{found.clean.mean_average_precision:.3f}.",
            )
        ],
        figures=[
            Figure(
                grid_uri(demo.recovery_images),
                "Three rows of digits, a column for each class: real, occluded, recovered.",
                f"The first query of each class with {100 * shares[shown - 1]:.0f} % of it hidden; "
                "none is chosen for its looks.",
                columns=names,
                rows=["real", "occluded", "recovered"],
                width=640,
            )
        ],
    )  # fmt: skip


def _training(demo: Demo) -> Section:
    coop, plain = demo.histories.values()
    name, other = demo.histories
    hash_curves = {name: coop.curve("hash"), other: plain.curve("hash")}
    panels = [
        ("Retrieval of the validation digits", "mAP",
         {name: coop.curve("validation_map"), other: plain.curve("validation_map")}),
        ("Hash loss", "loss", hash_curves),
        ("Energy of real and revised digits", "mean energy",
         {"real": coop.curve("energy_real"), "revised": coop.curve("energy_revised")}),
        ("Category loss", "cross-entropy",
         {name: coop.curve("category"), other: plain.curve("category")}),
        ("Reconstruction of revised digits", "squared error",
         {"reconstruction": coop.curve("reconstruction")}),
        ("Information in z", "KL, nats", {"KL": coop.curve("kl")}),
    ]  # fmt: skip
    updates = {n: h.kept_update for n, h in demo.histories.items() if h.kept_update is not None}
    kept = "; ".join(f"{n}: update {update:,}" for n, update in updates.items())
    return Section(
        "Training",
        [f"Weights kept, by the validation score: {kept}."] if kept else [],
        figures=[
            Figure(
                curves_uri(panels, x_label="update"),
                "Six line plots over the updates: validation mAP, hash loss, energies of real and "
                "revised digits, category loss, reconstruction error and KL.",
                "The two energies should stay close to each other and bounded; a KL near 0 would "
                "mean that z carries nothing.",
            )
        ],
    )


def _facts(demo: Demo) -> dict[str, dict[str, Any]]:
    settings = demo.settings
    model = {
        key.replace("_", " "): value
        for key, value in settings["model"].items()
        if key not in ("bits", "cooperative")
    }
    training = {
        key.replace("_", " "): value
        for key, value in settings["training"].items()
        if key not in ("updates", "seed")
    }
    updates = {f"updates, {name}": f"{count:,}" for name, count in settings["updates"].items()}
    return {
        "Run": {
            "seed": settings["seed"],
            "bits": settings["bits"],
            **{f"{name} digits": f"{len(part):,}" for name, part in demo.parts.items()},
            **updates,
            "whole run": f"{demo.seconds:.0f} s",
        },
        "Training": training,
        "Model": model,
        "Versions and machine": {**versions(), **machine()},
    }
