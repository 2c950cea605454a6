"""`coophash encode`: images to packed codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coophash.commands.common import (
    DataArgument,
    DeviceOption,
    FitOption,
    SkipOption,
    say,
)
from coophash.commands.lists import ImagesOption


def encode(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    data: DataArgument,
    out: Annotated[Path, typer.Option(metavar="CODES.npz", help="Where to write the codes.")],
    split: Annotated[
        Literal["train", "test", "database", "all"],
        typer.Option(
            help="Which part of data that come in parts; database: of image-text pairs that have "
            "one apart from the training pairs."
        ),
    ] = "all",
    fit: FitOption = False,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pairs without a split: so many rows are the queries (--split test)."
        ),
    ] = None,
    device: DeviceOption = "auto",
    skip_damaged: SkipOption = False,
    images: ImagesOption = None,
) -> None:
    """Encode images, or image-text pairs: packed codes, labels, ids and paths in one .npz file."""
    from coophash.checkpoints import load
    from coophash.commands.common import encode_images, model_data, place
    from coophash.commands.learned import are_learned
    from coophash.commands.lists import check_options, encode_listed, is_list
    from coophash.commands.pairs import encode_pairs, is_pair_model
    from coophash.encoded import EncodedSet, check_writable

    check_writable(out)
    if is_pair_model(model):
        if fit or skip_damaged or images is not None:
            raise ValueError("--fit, --skip-damaged and --images are for images, not for pairs")
        encode_pairs(model, data, out, split, device, queries)
        return
    if queries is not None:
        raise ValueError("--queries is for image-text pairs, not for images")
    if split == "database":
        raise ValueError("--split database is for image-text pairs, not for images")
    hasher = place(load(model), device)
    check_options(data, images, skip_damaged, None if split == "all" else split)
    if is_list(data):
        from tqdm import tqdm

        with tqdm(desc="encode", unit="image", dynamic_ncols=True) as bar:
            encoded = encode_listed(hasher, data, images, model, bar.update)
    else:
        read = model_data(hasher, data, split, fit, skip_damaged)
        encoded = EncodedSet(
            encode_images(hasher, read), hasher.config.bits, read.ids, read.labels,
            read.class_names, read.paths, learned=are_learned(model, read.images),
        )  # fmt: skip
    written = encoded.save(out)
    say(f"{written}: {len(encoded):,} codes of {hasher.config.bits} bits")
