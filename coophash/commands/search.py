"""`coophash search`: the nearest codes of an index."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from numpy.typing import NDArray
from rich.markup import escape

from coophash.commands.common import (
    Device,
    DeviceOption,
    FitOption,
    Split,
    SplitOption,
    console,
    new_table,
    say,
)
from coophash.commands.index import ITEMS_FILE

if TYPE_CHECKING:
    from coophash.encoded import EncodedSet

_SHOWN = 5  # queries printed in full


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` made.")],
    queries: Annotated[
        Path,
        typer.Argument(
            metavar="QUERIES",
            help="Codes (.npz); with --model also an image file, a data set or, for pairs, words.",
        ),
    ],
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Model to encode the queries with.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours for each query.")] = 10,
    split: SplitOption = "all",
    fit: FitOption = False,
    device: DeviceOption = "auto",
    find: Annotated[
        Literal["image", "text"] | None,
        typer.Option(help="Of image-text pairs, find these alone; by default both."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all results here, as .npz or .csv."),
    ] = None,
) -> None:
    """Search an index: for each query the k nearest codes, by (distance, id)."""
    from coophash.encoded import EncodedSet, check_writable
    from coophash.search import HammingIndex

    if out is not None:
        if out.suffix not in (".npz", ".csv"):
            raise ValueError(f"--out must end in .npz or .csv, got {str(out)!r}")
        check_writable(out)
    opened = HammingIndex.open(index)
    items_path = index / ITEMS_FILE
    items = EncodedSet.load(items_path) if items_path.exists() else None
    encoded = _read_queries(queries, model, split, fit, device)
    if encoded.bits != opened.bits:
        raise ValueError(
            f"the queries have {encoded.bits} bits, the index {opened.bits}: encode the queries "
            "with the model that the index was made with"
        )
    allowed = None if find is None else _of_modality(items, find)
    began = time.perf_counter()
    distances, ids = opened.search(encoded.codes, k, allow=allowed)
    seconds = time.perf_counter() - began
    _print(encoded, items, distances, ids)
    say(
        f"{len(encoded):,} {'query' if len(encoded) == 1 else 'queries'}, {len(opened):,} codes, "
        f"{1000 * seconds:.1f} ms"
    )
    if out is not None:
        _write(out, encoded, items, distances, ids)
        say(f"all results in {out}")
    elif len(encoded) > _SHOWN:
        say(f"the first {_SHOWN} queries are shown; --out FILE writes all")


def _of_modality(items: EncodedSet | None, find: str) -> NDArray[Any]:
    """Ids of the images, or of the texts, of an index."""
    if items is None or items.modalities is None:
        raise ValueError("--find is for an index of image-text pairs")
    chosen: NDArray[Any] = items.ids[items.modalities == ("image", "text").index(find)]
    return chosen


def _read_queries(
    path: Path, model: Path | None, split: Split, fit: bool, device: Device
) -> EncodedSet:
    """Codes from a file of codes, or of images through the model."""
    from coophash.encoded import EncodedSet

    if model is None:
        if path.exists() and path.suffix.lower() != ".npz":
            raise ValueError(
                f"{str(path)!r} is no .npz file of codes: to search for images give --model FOLDER"
            )
        return EncodedSet.load(path)
    from coophash.checkpoints import load
    from coophash.commands.common import encode_images, model_data, place, read_image
    from coophash.commands.pairs import is_pair_model, query_codes

    if is_pair_model(model):
        return query_codes(model, path, split, device)
    if path.suffix.lower() == ".npz":
        raise ValueError(f"{str(path)!r} holds codes already: leave --model out")
    hasher = place(load(model), device)
    if not path.exists():
        raise FileNotFoundError(f"no queries at {str(path)!r}")
    if path.is_file():
        codes = hasher.encode(read_image(path, hasher.config.image_shape))
        return EncodedSet(codes, hasher.config.bits, paths=(str(path),))
    images = model_data(hasher, path, split, fit)
    return EncodedSet(
        encode_images(hasher, images), hasher.config.bits, images.ids, images.labels,
        images.class_names, images.paths,
    )  # fmt: skip


def _print(
    queries: EncodedSet, items: EncodedSet | None, distances: NDArray[Any], ids: NDArray[Any]
) -> None:
    places = _places(items)
    for q in range(min(len(queries), _SHOWN)):
        table = new_table(
            "rank", "distance", "id", *(["item"] if items is not None else []),
            title=escape(f"query {int(queries.ids[q])}  {queries.describe(q)}".rstrip()),
        )  # fmt: skip
        if items is not None:
            table.columns[-1].justify = "left"
        for rank, (distance, item) in enumerate(
            zip(distances[q].tolist(), ids[q].tolist(), strict=True), start=1
        ):
            if item < 0:
                break  # fewer codes than k
            row = [str(rank), str(distance), str(item)]
            if items is not None:
                row.append(escape(items.describe(places[item])) if item in places else "")
            table.add_row(*row)
        console.print(table)


def _places(items: EncodedSet | None) -> dict[int, int]:
    """id -> row of the items."""
    return {} if items is None else {item: row for row, item in enumerate(items.ids.tolist())}


def _write(
    path: Path, queries: EncodedSet, items: EncodedSet | None, distances: NDArray[Any],
    ids: NDArray[Any],
) -> None:  # fmt: skip
    from coophash.encoded import save_arrays

    if path.suffix == ".npz":
        save_arrays(path, {"query_ids": queries.ids, "distances": distances, "ids": ids})
        return
    places = _places(items)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "rank", "distance", "id", "item"])
        for query, row_distances, row_ids in zip(
            queries.ids.tolist(), distances.tolist(), ids.tolist(), strict=True
        ):
            for rank, (distance, item) in enumerate(
                zip(row_distances, row_ids, strict=True), start=1
            ):
                if item >= 0:
                    text = items.describe(places[item]) if items and item in places else ""
                    writer.writerow([query, rank, distance, item, text])
