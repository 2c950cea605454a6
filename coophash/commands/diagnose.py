"""`coophash diagnose`: whether a model's generator uses its label and its latent, in figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coophash.commands.common import (
    DataArgument,
    DeviceOption,
    FitOption,
    SeedOption,
    SkipOption,
    SplitOption,
    console,
    new_table,
    say,
)

if TYPE_CHECKING:
    from coophash.diagnostics import GeneratorReport

REPORT_FILE = "report.json"


def diagnose(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    data: DataArgument,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to write pictures and numbers.")
    ] = Path("diagnosis"),
    split: SplitOption = "all",
    samples: Annotated[
        int, typer.Option(min=2, help="Synthetic images of each class that are measured.")
    ] = 50,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the pictures.")] = 8,
    classifier: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Model trained on real images alone (train --method plain); without it one is "
            "trained here on half of the data.",
        ),
    ] = None,
    fit: FitOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    skip_damaged: SkipOption = False,
) -> None:
    """Measure a generator, with pictures: a row shares the latent, a column the class."""
    from coophash.checkpoints import load
    from coophash.commands.common import model_data, place
    from coophash.coop import CoopHash
    from coophash.diagnostics import generator_report
    from coophash.encoded import check_writable
    from coophash.figures import grid_uri, training_uri, write_png
    from coophash.generation import latent_grid
    from coophash.history import History

    hasher, judge = load(model), None
    if not isinstance(hasher, CoopHash):
        raise ValueError(f"{str(model)!r} holds a {type(hasher).__name__}: it has no generator")
    if classifier is not None:
        judge = load(classifier)
        if not isinstance(judge, CoopHash) or judge.config.without == "category":
            raise ValueError(
                f"--classifier {str(classifier)!r} has no category head: give a model of "
                "`coophash train --method plain`"
            )
        if judge.config.classes != hasher.config.classes:
            raise ValueError(
                f"--classifier {str(classifier)!r} knows {judge.config.classes} classes, the model "
                f"{hasher.config.classes}"
            )
        if judge.config.image_shape != hasher.config.image_shape:
            raise ValueError(
                f"--classifier {str(classifier)!r} takes images of {judge.config.image_shape}, the "
                f"model {hasher.config.image_shape}"
            )
        place(judge, device)
    place(hasher, device)
    images = model_data(hasher, data, split, fit, skip_damaged)
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out / REPORT_FILE)
    if judge is None:
        say("training a classifier on half of the images")
    report = generator_report(hasher, images, classifier=judge, samples=samples, seed=seed)
    names = hasher.class_names or tuple(map(str, range(hasher.config.classes)))
    _show(report, names)
    written = ["generated.png"]
    write_png(grid_uri(latent_grid(hasher, rows, seed)), out / "generated.png")
    if report.chain_energies:
        write_png(grid_uri(latent_grid(hasher, rows, seed, revised=True)), out / "revised.png")
        written.append("revised.png")
    history = model / "history.json"
    if history.is_file():
        write_png(training_uri(History.load(history)), out / "training.png")
        written.append("training.png")
    record = {**report.as_dict(), "class_names": list(names)}
    (out / REPORT_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    say(f"in {out}: {', '.join([*written, REPORT_FILE])}")


def _show(report: GeneratorReport, names: tuple[str, ...]) -> None:
    table = new_table(
        "images", "recognised", "distance within a class", "to the nearest real one", "energy",
        title=f"{report.samples} synthetic images of each of {len(names)} classes",
    )  # fmt: skip
    for name, *values in (
        ("real", report.accuracy_real, report.distance_real, report.nearest_real,
         report.energy_real),
        ("generated x+", report.accuracy, report.distance_synthetic, report.nearest_synthetic,
         report.energy_generated),
        ("revised x~", report.accuracy_revised, report.distance_revised, report.nearest_revised,
         report.energy_revised),
    ):  # fmt: skip
        cells = [
            "-" if value is None else f"{value:.{digits}f}"
            for value, digits in zip(values, (3, 2, 2, 3), strict=True)
        ]
        table.add_row(str(name), *cells)
    console.print(table)
    missing = ", ".join(names[i] for i in report.missing_classes) or "none"
    say(
        f"diversity {report.diversity:.2f} of the real ({report.diversity_revised:.2f} revised), "
        f"novelty {report.novelty:.2f}, missing classes: {missing}"
    )
    if report.chain_energies:
        path = " -> ".join(f"{energy:.3f}" for energy in report.chain_energies)
        say(f"energy along the chain: {path}; a pixel moves by {report.chain_move:.3f}")
