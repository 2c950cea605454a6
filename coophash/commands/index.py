"""`coophash index`: codes to an index on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coophash.commands.common import say

ITEMS_FILE = "items.npz"  # beside the index: labels, class names and paths, to show with results


def index(
    codes: Annotated[Path, typer.Argument(metavar="CODES.npz", help="What `encode` wrote.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The index, a new folder.")],
) -> None:
    """Build an index of codes on disk, for `coophash search`."""
    from coophash.encoded import EncodedSet
    from coophash.search import HammingIndex

    encoded = EncodedSet.load(codes)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{str(out)!r} is there already: give a new folder for the index")
    built = HammingIndex(bits=encoded.bits)
    built.add(encoded.codes, ids=encoded.ids)
    built.save(out)
    encoded.save(out / ITEMS_FILE)
    say(f"{out}: {built!r}")
