"""`coophash recipe`: run a grid of methods, bits and seeds from a TOML file, and make its table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coophash.commands.common import Device, say

if TYPE_CHECKING:
    from coophash.data import ImageSet
    from coophash.recipe import Data

app = typer.Typer(
    help="Compare methods: run a grid from a TOML file, make its table.", no_args_is_help=True
)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The recipe.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where runs are kept; runs/<name of the file>."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Folder of the images it is about.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop cleanly after so long; run again to go on.")
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU that torch finds.")] = "auto",
) -> None:
    """Do what is left of a recipe. What is recorded is skipped, what was begun goes on."""
    from coophash.recipe import read_recipe

    recipe = read_recipe(file)
    folder = Path("runs") / file.stem if out is None else out
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out {str(folder)!r} is a file: give a folder")
    images = _images(recipe.data, data)
    other = None if recipe.other is None else _images(recipe.other, None, "[other] of the recipe")

    from coophash.cli import INTERRUPTED
    from coophash.commands.common import torch_device
    from coophash.recipe_runner import run_recipe

    say(f"{recipe.title}: {len(recipe.runs)} runs on {len(images):,} images, in {folder}")
    try:
        found = run_recipe(
            recipe, images, folder, other=other, minutes=minutes, device=torch_device(device),
            say=say,
        )  # fmt: skip
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    text = f"{found.recorded} of {found.total} runs recorded"
    if found.elsewhere:
        text += f", {len(found.elsewhere)} under way in another process"
    if found.stopped is not None:
        text += f"; stopped after {minutes:g} minutes at {found.stopped}: the same command goes on"
    say(text)
    if found.recorded == found.total:
        say(f"table: coophash recipe table {folder}")


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where runs are kept.")],
    metric: Annotated[
        str, typer.Option(help="map, map_all, precision_at_radius, validation_map, seconds ...")
    ] = "map",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write it here as well.")
    ] = None,
) -> None:
    """Print the table of what is recorded, as Markdown: mean ± deviation over the seeds."""
    from coophash.encoded import check_writable
    from coophash.recipe_table import make_table, read_records

    if out is not None:
        check_writable(out)
    text = make_table(read_records(folder), metric)
    print(text, end="")
    if out is not None:
        out.write_text(text, encoding="utf-8")


def _images(data: Data, given: Path | None, what: str = "the recipe") -> ImageSet:
    """Those that a package brings, or those of a folder that the recipe or the user names."""
    from coophash.commands.common import read_images
    from coophash.data import adapt_images, read_mnist5k, read_uci_digits
    from coophash.recipe import INSIDE

    if data.name in INSIDE:
        if given is not None:
            raise ValueError(f"{data.name} comes with {INSIDE[data.name]}: leave --data out")
        read = {"mnist-5k": read_mnist5k, "uci-digits": read_uci_digits}[data.name]
        return adapt_images(read(), data.image_size, data.channels)
    place = data.path if given is None else given
    if place is None:
        mend = "--data FOLDER" if what == "the recipe" else "set its path"
        raise ValueError(f"{what} is about {data.name!r} and does not say where it is: {mend}")
    return read_images(place, "all", data.image_size, data.channels)
