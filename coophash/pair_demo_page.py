"""The report of the demo of UCCH, laid out by `coophash.report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coophash.data.halves import half_image
from coophash.environment import machine, versions
from coophash.figures import curves_uri, image_uri, precision_recall_uri
from coophash.report import Figure, Neighbour, Ranking, Section, Table, bold_best, write_report

if TYPE_CHECKING:
    from coophash.pair_demo import PairDemo

HEADER = (
    "method", "mAP, left finds right", "mAP, right finds left", "P@100", "P@100, reverse",
    "own half in first 10", "train, s",
)  # fmt: skip
BEST = (1, 2, 3, 4, 5)
DIRECTIONS = {"image to text": "left finds right", "text to image": "right finds left"}
_MISSING = -0.5  # grey, where the other half would be


def result_rows(demo: PairDemo) -> list[list[str]]:
    """One row of text per method under HEADER, for the page and the terminal."""
    rows = []
    for method in demo.methods:
        there, back = method.scores.image_to_text, method.scores.text_to_image
        own = np.mean([recall[10] for recall in method.recall.values()])
        rows.append(
            [
                method.name,
                f"{there.mean_average_precision:.3f}", f"{back.mean_average_precision:.3f}",
                f"{there.precision_at_k:.3f}", f"{back.precision_at_k:.3f}", f"{own:.3f}",
                f"{method.seconds:.1f}",
            ]
        )  # fmt: skip
    return rows


def write_pair_page(demo: PairDemo, path: Path) -> Path:
    """Write the demo's page."""
    rows = result_rows(demo)
    ours = demo.methods[0]
    sizes = {name: len(part) for name, part in demo.parts.items()}
    database = demo.parts["train"]
    assert database.labels is not None and demo.parts["query"].labels is not None
    shares = np.bincount(database.labels, minlength=database.classes) / len(database)
    chance = float(shares[demo.parts["query"].labels].mean())
    there, back = ours.scores.image_to_text, ours.scores.text_to_image
    return write_report(
        path,
        title=f"UCCH on halves of MNIST digits: {demo.settings['bits']}-bit codes without labels",
        lead=(
            f"The left half of a digit stands for an image, the right half for its text. From "
            f"{sizes['train']:,} pairs and no label, left halves rank right halves with a mean "
            f"average precision of {there.mean_average_precision:.3f}, and the reverse with "
            f"{back.mean_average_precision:.3f}; chance is {chance:.3f}."
        ),
        table=Table(
            HEADER, rows, bold_best(rows, BEST),
            f"{sizes['query']} query pairs search the {sizes['train']:,} pairs that trained, as in "
            "UCCH's own experiments; a result is right if it is a half of the same digit class. "
            "mAP: over the whole ranking, the expected value over all orders of halves at the same "
            "distance. P@100: among the first 100. Own half: share of queries that find their own "
            "other half among the first 10, searching the queries' other halves. The networks keep "
            f"the epoch in which {sizes['validation']} validation pairs found their own halves "
            "best; labels score and do nothing else. L_c (contrast) and L_r (ranking) are the two "
            "losses of UCCH, L'_r is max-margin in place of L_r; CCA-ITQ is linear.",
        ),
        curve=Figure(
            precision_recall_uri(
                {
                    f"{method.name}, {DIRECTIONS[direction]}": (curve.precision, curve.recall)
                    for method in (ours, demo.methods[-1])
                    for direction, curve in method.curves.items()
                },
                chance,
            ),
            "Precision against recall of UCCH and CCA-ITQ in both directions; the table has the "
            "scores.",
            "One point per Hamming radius, from 0 bits on the left; mean over the queries.",
        ),
        neighbours=_rankings(demo, "image to text", 0),
        neighbours_text=(
            "Left halves and the right halves that they find, from one index that holds both "
            "halves of every training pair; the first query of each class, nearest first, ties in "
            "order of id. d: Hamming distance. ✓ and a solid border: the query's class; ✗ and a "
            f"dashed border: another. All {2 * sizes['query']} searches took "
            f"{1000 * demo.search_seconds:.1f} ms."
        ),
        sections=[_backwards(demo), _training(demo)],
        facts=_facts(demo),
    )  # fmt: skip


def _rankings(demo: PairDemo, direction: str, first: int) -> list[Ranking]:
    """The first query of each class with what it found, as pictures of halves."""
    from coophash.pair_demo import IMAGE_SHAPE

    queries, database = demo.parts["query"], demo.parts["train"]
    assert queries.labels is not None and database.labels is not None
    names = database.class_names or ()
    asked, there = (
        (queries.images, database.texts) if direction == "image to text"
        else (queries.texts, database.images)
    )  # fmt: skip
    sides = ("left", "right") if direction == "image to text" else ("right", "left")
    rows, distances = demo.found[direction]
    rankings = []
    for label in range(queries.classes):
        query = int(np.flatnonzero(queries.labels == label)[first])
        neighbours = [
            Neighbour(
                image_uri(_placed(half_image(there[row], IMAGE_SHAPE), sides[1])),
                names[int(database.labels[row])],
                int(distance),
                int(database.labels[row]) == label,
            )
            for row, distance in zip(rows[query].tolist(), distances[query].tolist(), strict=True)
            if row >= 0
        ]
        picture = image_uri(_placed(half_image(asked[query], IMAGE_SHAPE), sides[0]))
        rankings.append(Ranking(picture, names[label], neighbours))
    return rankings


def _placed(half: np.ndarray, side: str) -> np.ndarray:
    """A half (C, H, W // 2) where it stands in the whole, the other half grey: (C, H, W)."""
    blank = np.full_like(half, _MISSING)
    return np.concatenate([half, blank] if side == "left" else [blank, half], axis=2)


def _backwards(demo: PairDemo) -> Section:
    """The other direction, as one sheet of pictures."""
    from coophash.figures import grid_uri
    from coophash.pair_demo import IMAGE_SHAPE

    queries, database = demo.parts["query"], demo.parts["train"]
    assert queries.labels is not None and database.labels is not None
    rows, _ = demo.found["text to image"]
    first = [int(np.flatnonzero(queries.labels == label)[0]) for label in range(queries.classes)]
    sheet = np.stack(
        [
            np.stack(
                [half_image(queries.texts[query], IMAGE_SHAPE)]
                + [half_image(database.images[row], IMAGE_SHAPE) for row in rows[query]]
            )
            for query in first
        ]
    )
    return Section(
        "The other direction",
        ["The same digits from the other side: right halves, and the left halves that they find."],
        figures=[
            Figure(
                grid_uri(sheet),
                "A row for each class: a right half of a digit and the left halves nearest to it.",
                "First column: the query. On the left its class, and how many of what it finds are "
                "of that class.",
                columns=["query", *(str(n + 1) for n in range(rows.shape[1]))],
                rows=[
                    f"{label}: {(database.labels[rows[query]] == label).sum()} of {rows.shape[1]}"
                    for label, query in enumerate(first)
                ],
                width=440,
            )
        ],
    )


def _training(demo: PairDemo) -> Section:
    ours = demo.histories[demo.methods[0].name]
    panels = [
        ("Validation pairs find their own other half", "mean reciprocal rank",
         {name: h.curve("validation_map") for name, h in demo.histories.items()}),
        ("Similarity of UCCH's outputs in training", "<h_x, h_y>",
         {"own pair": ours.curve("similarity_own"), "others": ours.curve("similarity_others")}),
        ("Contrast of UCCH", "L_c", {"L_c": ours.curve("contrast")}),
        ("Ranking of UCCH", "L_r", {"L_r": ours.curve("ranking")}),
    ]  # fmt: skip
    return Section(
        "Training",
        ["In the first epoch the batch gives the keys, so L_c starts lower: it has fewer of them."],
        figures=[
            Figure(
                curves_uri(panels, x_label="update"),
                "Four line plots over the updates: validation of every variant, similarities, and "
                "the two losses of UCCH.",
            )
        ],
    )


def _facts(demo: PairDemo) -> dict[str, dict[str, object]]:
    settings = demo.settings
    return {
        "Run": {
            "seed": settings["seed"], "bits": settings["bits"], "epochs": settings["epochs"],
            **{f"{name} pairs": f"{len(part):,}" for name, part in demo.parts.items()},
            "whole run": f"{demo.seconds:.0f} s",
        },
        "Model and training": {
            key.replace("_", " "): value for key, value in settings["model"].items()
            if key not in ("bits", "epochs")
        },
        "Versions and machine": {**versions(), **machine()},
    }  # fmt: skip
