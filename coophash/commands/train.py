"""`coophash train`: learn a model from labelled images."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coophash.commands.common import (
    DataArgument,
    DeviceOption,
    SeedOption,
    SkipOption,
    SplitOption,
    say,
)
from coophash.commands.lists import ImagesOption

if TYPE_CHECKING:
    from coophash.data import ImageSet
    from coophash.history import History

# Settings of the model that have an option of their own or follow from the data.
_ELSEWHERE = {
    "bits": "--bits",
    "method": "--method",
    "cooperative": "--method",
    "without": "--method",
    "classes": "the data",
    "image_shape": "the data and --image-size",
}


def train(
    ctx: typer.Context,
    data: DataArgument,
    model: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model is kept.")],
    bits: Annotated[int, typer.Option(min=1, max=4096, help="Length of the codes.")] = 48,
    updates: Annotated[int, typer.Option(min=1, help="Gradient steps in all.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per gradient step.")] = 64,
    seed: SeedOption = 0,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=1024, help="Resize images to this many pixels a side.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 for grey, 3 for colour; by default as the data are.")
    ] = None,
    split: SplitOption = "train",
    validation_fraction: Annotated[
        float, typer.Option(help="Share of the images held out to choose the update to keep.")
    ] = 0.1,
    labels_per_class: Annotated[
        int | None, typer.Option(min=2, help="Train on so many images of each class alone.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="coophash, coophash-without-PART, plain, dpsh, dtsh, hashnet, greedyhash, csq or "
            "orthohash; ucch for image-text pairs, DATA a feature file or a table.",
        ),
    ] = "coophash",
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, for the network; by default the method's own.")
    ] = None,
    shift: Annotated[
        int, typer.Option(min=0, help="Move each training image by up to so many pixels.")
    ] = 0,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror every second training image left and right.")
    ] = False,
    images: ImagesOption = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Options of the model, name = value.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One option of the model; repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    skip_damaged: SkipOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the model's folder.")
    ] = False,
) -> None:
    """Learn a model from labelled images, in folders or in a list (.txt) with several labels each.

    Ctrl-C keeps a checkpoint; --resume goes on from it."""
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"--validation-fraction must be at least 0 and below 1, got {validation_fraction}"
        )
    if learning_rate is not None and not learning_rate > 0:
        raise ValueError(f"--learning-rate must be above 0, got {learning_rate}")
    options = read_options(config, set_ or [], method)
    checkpoint = _check_folder(model, resume)
    if method == "ucch":
        _refuse_image_options(ctx)
        from coophash.commands.pairs import train_pairs

        try:
            history, epochs = train_pairs(
                data, model, bits, seed, validation_fraction, options, device, resume
            )
        except KeyboardInterrupt:
            _report_interrupt(checkpoint, model)
        _report(history, model, f"{epochs:,} epochs")
        return

    from coophash.checkpoints import CONFIG_FILE
    from coophash.commands.common import place, read_images
    from coophash.commands.learned import keep_learned
    from coophash.commands.lists import (
        check_options,
        hold_out_several,
        is_list,
        read_listed,
    )
    from coophash.methods import make_model
    from coophash.training import fit

    check_options(data, images, skip_damaged, None if split == "train" else split)
    read: Any
    if is_list(data):
        read = read_listed(data, images, image_size, channels)
    else:
        read = read_images(data, split, image_size, channels, skip_damaged)
    train_set: Any
    validation: Any
    names: tuple[str, ...] | None = None
    if isinstance(read, tuple):  # several labels an image
        train_set, validation = hold_out_several(read, validation_fraction, labels_per_class, seed)
        classes, image_shape, kind = read[1].shape[1], read[0].shape[1:], "labels"
        counts = [0 if part is None else len(part[1]) for part in (train_set, validation)]
    else:
        train_set, validation = hold_out(read, validation_fraction, labels_per_class, seed)
        classes, image_shape, kind = read.classes, read.image_shape, "classes"
        names = read.class_names
        counts = [0 if part is None else len(part) for part in (train_set, validation)]
    learned = train_set[0] if isinstance(train_set, tuple) else train_set.images
    hasher = make_model(method, bits, classes, image_shape, names, seed, **options)
    place(hasher, device)
    shape = " x ".join(map(str, image_shape))
    say(
        f"{counts[0]:,} images to train on, {counts[1]:,} held out, {classes} {kind}, "
        f"{shape}; seed {seed}, on {next(hasher.parameters()).device.type}"
    )
    try:
        history = fit(
            hasher, train_set, validation, updates=updates, batch_size=batch_size, seed=seed,
            learning_rate=learning_rate, shift=shift, flip=flip, folder=model, resume=resume,
        )  # fmt: skip
    except (KeyboardInterrupt, FloatingPointError) as error:
        if (model / CONFIG_FILE).is_file():
            keep_learned(model, learned)
        if isinstance(error, KeyboardInterrupt):
            _report_interrupt(checkpoint, model)
        raise
    keep_learned(model, learned)
    _report(history, model, f"{updates:,} updates")


def _report(history: History, model: Path, length: str) -> None:
    """Keep the history beside the model, and say what came out."""
    history.save(model / "history.json")
    score = dict(history.validation).get(history.kept_update or -1)
    kept = (
        "" if score is None else f", validation mAP {score:.4f} at update {history.kept_update:,}"
    )
    say(f"model in {model}: {length} in {history.seconds:.0f} s{kept}")


def _refuse_image_options(ctx: typer.Context) -> None:
    """Options of the command that mean nothing for pairs must not be taken in silence."""
    mends = {
        "updates": "--set epochs=N", "batch_size": "--set batch_size=N",
        "learning_rate": "--set learning_rate=RATE", "image_size": "--set size=N",
        "shift": None, "flip": None, "images": None, "channels": None,
        "labels_per_class": None, "split": None, "skip_damaged": None,
    }  # fmt: skip
    for name, mend in mends.items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} is not for --method ucch: {f'give {mend}' if mend else 'leave it out'}"
            )


def read_options(
    config: Path | None, assignments: list[str], method: str = "coophash"
) -> dict[str, Any]:
    """Options of a method from a TOML file and from NAME=VALUE texts, the latter winning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no valid TOML, an unknown name, or a name that is set elsewhere.
    """
    if method == "ucch":
        from coophash.commands.pairs import option_names as names_of_pairs

        known = names_of_pairs()
    else:
        from coophash.methods import option_names

        known = list(option_names(method))
    from coophash.recipe import parse_toml

    options: dict[str, Any] = {}
    if config is not None:
        if not config.is_file():
            raise FileNotFoundError(f"no options file at {str(config)!r}")
        try:
            options.update(parse_toml(config.read_text(encoding="utf-8")))
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are of this kind
            raise ValueError(f"options file {str(config)!r} is no valid TOML: {error}") from None
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
        try:
            options[name.strip()] = parse_toml(f"value = {value}")["value"]
        except ValueError:
            options[name.strip()] = value.strip()  # a bare word is a text
    for name in options:
        if name in _ELSEWHERE:
            raise ValueError(f"option {name!r} is set by {_ELSEWHERE[name]}, not here")
        if name not in known:
            raise ValueError(f"unknown option {name!r}; {method} has {', '.join(known)}")
    return options


def hold_out(
    images: ImageSet, fraction: float, labels_per_class: int | None, seed: int
) -> tuple[ImageSet, ImageSet | None]:
    """Split into training and validation images, each class in proportion.

    Args:
        images: the data.
        fraction: share held out, rounded to whole images but at least two of each class, of which
            one can find the other; 0 holds nothing out.
        labels_per_class: keep so many training images of each class; None keeps all.
        seed: of the split.

    Raises:
        ValueError: a class has too few images.
    """
    from coophash.data import split_indices

    present = int((images.class_counts > 0).sum())
    if present < images.classes:
        absent = int(images.class_counts.argmin())
        from_1 = " (do the labels count from 1? They count from 0)" if absent == 0 else ""
        raise ValueError(
            f"class {images.class_names[absent]!r} has no images{from_1}: add some, or leave the "
            "class out"
        )
    sizes: dict[str, int | None] = {}
    if fraction:
        least = int(images.class_counts.argmin())
        if (count := int(images.class_counts[least])) in (2, 3):
            raise ValueError(
                f"class {images.class_names[least]!r} has {count} images, of which two would be "
                "held out and two must be left: add some, or hold none out with "
                "--validation-fraction 0"
            )
        sizes["validation"] = max(2 * present, round(fraction * len(images)))
    wanted = None if labels_per_class is None else labels_per_class * present
    held_out = sizes.get("validation") or 0
    if wanted is not None and wanted + held_out > len(images):
        raise ValueError(
            f"--labels-per-class {labels_per_class} needs {wanted} images of {present} classes "
            f"beside {held_out} held out; there are {len(images)}"
        )
    if wanted is None:
        sizes["train"] = None
        rows = split_indices(images.labels, sizes, seed, images.class_names)
        chosen = rows["train"]
    else:
        sizes["rest"] = None if wanted is None else len(images) - held_out
        rows = split_indices(images.labels, sizes, seed, images.class_names)
        chosen = _first_of_each(images, rows["rest"], labels_per_class or 0)
    validation = images.subset(rows["validation"], "validation") if fraction else None
    return images.subset(chosen, "train"), validation


def _first_of_each(images: ImageSet, rows: Any, count: int) -> Any:
    """The first `count` rows of each class, in their order."""
    import numpy as np

    labels = images.labels[rows]
    kept = np.zeros(len(rows), dtype=bool)
    for label, name in enumerate(images.class_names):
        places = np.flatnonzero(labels == label)
        if len(places) < count:
            raise ValueError(
                f"class {name!r} has {len(places)} images to train on, "
                f"--labels-per-class asks for {count}"
            )
        kept[places[:count]] = True
    return rows[kept]


def _check_folder(model: Path, resume: bool) -> Path:
    """Where the checkpoint is or will be; says at once, before any data is read, what is wrong."""
    from coophash.checkpoints import CHECKPOINT_FILE

    checkpoint = model / CHECKPOINT_FILE
    if model.exists() and not model.is_dir():
        raise NotADirectoryError(f"--model {str(model)!r} is a file: give a folder")
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(
            f"no checkpoint in {str(model)!r} to resume: leave --resume out to start"
        )
    if not resume and checkpoint.exists():
        raise FileExistsError(
            f"{str(model)!r} holds an earlier run: add --resume to go on with it, or give another "
            "folder"
        )
    return checkpoint


def _report_interrupt(checkpoint: Path, model: Path) -> None:
    """Say what was kept and how to go on, and exit."""
    from coophash.checkpoints import read_tensors
    from coophash.cli import INTERRUPTED

    if checkpoint.is_file():
        update = json.loads(read_tensors(checkpoint)[1]["facts"])["update"]
        print(
            f"interrupted: the checkpoint at update {update} is in {model}; go on with: "
            f"{resume_command(sys.argv)}",
            file=sys.stderr,
        )
    else:
        print("interrupted before the first update: nothing was kept", file=sys.stderr)
    sys.exit(INTERRUPTED)


def resume_command(arguments: list[str]) -> str:
    """The command that was given, with --resume, to paste into a shell."""
    program, *rest = arguments
    name = Path(program).name
    words = ["python", "-m", "coophash"] if name == "__main__.py" else [name]
    if "--resume" not in rest:
        rest = [*rest, "--resume"]
    return shlex.join([*words, *rest])
