"""Checks of data sets that come as list files and the images that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from coophash.data.finding import Finding, Level, digest, git_id
from coophash.data.image_list import LIST_FILES, ImageList, read_image_list
from coophash.data.known import KnownSet
from coophash.errors import require

Lists = dict[str, ImageList]


def check_lists(root: Path, folder: Path, known: KnownSet, images: int) -> Iterator[Finding]:
    """Findings about the lists in `folder` and their images under `root`.

    Args:
        images: how many images are opened for their size.
    """
    lists: Lists = {}
    for part, name in LIST_FILES.items():
        path = folder / name
        if not path.is_file():
            yield Finding("missing", name, f"no list of the {part} images in {folder}")
            continue
        try:
            lists[part] = read_image_list(path)
        except ValueError as error:
            yield Finding("differs", name, str(error))
            continue
        yield from _check_list(lists[part], part, path, known)
    yield from _check_overlap(lists, known)
    there: dict[str, list[Path]] = {}
    for part, listed in lists.items():
        files = listed.files(root)
        there[part] = [file for file in files if file.is_file()]
        if len(there[part]) == len(files):
            yield Finding("ok", f"{part} images", f"all {len(files):,} are there")
        else:
            gone = next(
                p for p, file in zip(listed.paths, files, strict=True) if not file.is_file()
            )
            yield Finding(
                "missing", f"{part} images",
                f"{len(files) - len(there[part]):,} of {len(files):,} are not under {root}, first "
                f"{gone}",
            )  # fmt: skip
    yield from _check_content(there)
    yield from _check_sizes(list(dict.fromkeys(chain.from_iterable(there.values()))), images)


def _check_list(listed: ImageList, part: str, path: Path, known: KnownSet) -> Iterator[Finding]:
    name = path.name
    told = f"{len(listed):,} images, {listed.classes} classes"
    faults = []
    expected = known.parts[part]
    if expected is not None and len(listed) != expected:
        faults.append(f"{expected:,} images are published")
    several = listed.labels.ndim == 2
    if known.classes is not None:
        fits = listed.classes == known.classes if several else listed.classes <= known.classes
        if not fits:
            faults.append(f"{known.title} has {known.classes} classes")
    per_class = known.per_class.get(part)
    if several and per_class is not None and not faults:
        wrong = np.flatnonzero(listed.labels.sum(axis=0) != np.array(per_class))
        if wrong.size:
            faults.append(f"{wrong.size} classes have another number of images than published")
    repeated = [path for path, times in Counter(listed.paths).items() if times > 1]
    if repeated:
        faults.append(f"{len(repeated):,} paths are there more than once, first {repeated[0]}")
    if several and not known.multi_label:
        ones = np.flatnonzero(listed.labels.sum(axis=1) != 1)
        if ones.size:
            faults.append(
                f"{ones.size:,} images have no label or several, first {listed.paths[ones[0]]}"
            )
    published = known.list_ids.get(part)
    same = published is not None and git_id(path) == published
    if published is not None and not same and not faults:
        faults.append("it is not the published list, although its counts are")
    if faults:
        yield Finding("differs", name, f"{told}; {'; '.join(faults)}")
    else:
        yield Finding("ok", name, f"{told}{', the published list' if same else ''}")
    empty = int((~listed.labels.any(axis=1)).sum()) if several else 0
    if empty and known.multi_label:
        yield Finding("note", name, f"{empty:,} images have no label: relevant to nothing")


def _check_overlap(lists: Lists, known: KnownSet) -> Iterator[Finding]:
    """By path: queries must be nowhere else, and an image has the same labels everywhere."""
    paths = {part: set(listed.paths) for part, listed in lists.items()}
    for other in ("database", "train"):
        if {"query", other} <= set(lists):
            shared = paths["query"] & paths[other]
            title = f"query, {other}"
            if shared:
                first = next(path for path in lists["query"].paths if path in shared)
                yield Finding(
                    "differs", title,
                    f"{len(shared):,} of {len(paths['query']):,} queries are in the {other} list "
                    f"too, first {first}",
                )  # fmt: skip
            else:
                yield Finding("ok", title, "no path in both")
    if {"train", "database"} <= set(lists):
        shared = paths["train"] & paths["database"]
        all_in = shared == paths["train"]
        told = f"{len(shared):,} of {len(paths['train']):,} training images are in the database"
        published = known.train_in_database
        fits = published is None or (all_in if published else not shared)
        partly = bool(shared) and not all_in
        level: Level = "note" if published is None and partly else "ok" if fits else "differs"
        more = "" if fits else f"; published are {'all' if published else 'none'}"
        yield Finding(level, "train, database", told + more)
    labels: dict[str, bytes] = {}
    for listed in lists.values():
        rows = np.ascontiguousarray(listed.labels)
        for path, row in zip(listed.paths, rows, strict=True):
            if labels.setdefault(path, row.tobytes()) != row.tobytes():
                yield Finding("differs", "labels", f"{path} has other labels in {listed.name}")
                return


def _check_content(there: dict[str, list[Path]]) -> Iterator[Finding]:
    """Queries whose file is, byte for byte, also in the database or training list."""
    if "query" not in there or len(there) < 2:
        return
    queries = set(there["query"])
    by_size: dict[int, list[Path]] = {}
    for file in queries:
        by_size.setdefault(file.stat().st_size, []).append(file)
    # Only files of equal size can be equal: few of the others have to be read.
    known: dict[int, dict[bytes, Path]] = {}
    twins: dict[Path, Path] = {}
    others = dict.fromkeys(chain(there.get("database", ()), there.get("train", ())))
    for file in others:
        if file in queries:
            continue  # told by its path already
        size = file.stat().st_size
        if size not in by_size:
            continue
        if size not in known:
            known[size] = {digest(query.read_bytes()): query for query in by_size[size]}
        query = known[size].get(digest(file.read_bytes()))
        if query is not None:
            twins.setdefault(query, file)
    if twins:
        first = min(twins)
        yield Finding(
            "differs", "content",
            f"{len(twins):,} queries have a twin among the other images, byte for byte, first "
            f"{first} and {twins[first]}",
        )  # fmt: skip
    elif queries:
        yield Finding("ok", "content", "no query has a twin, byte for byte, among the others")


def _check_sizes(files: list[Path], images: int) -> Iterator[Finding]:
    """Sizes of some images, by their headers."""
    if not files or images == 0:
        return
    try:
        pillow = require("PIL.Image", "data", "opening images")
    except ImportError as error:
        yield Finding("note", "sizes", str(error))
        return
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, images).astype(int))]
    sizes: list[tuple[int, int]] = []
    damaged: list[tuple[Path, str]] = []
    for file in chosen:
        try:
            with pillow.open(file) as image:
                sizes.append((image.height, image.width))
        except Exception as error:  # decoders raise anything
            damaged.append((file, str(error) or type(error).__name__))
    if damaged:
        yield Finding(
            "differs", "sizes",
            f"{len(damaged):,} of {len(chosen):,} images opened are damaged, first "
            f"{damaged[0][0]}: {damaged[0][1]}",
        )  # fmt: skip
    if sizes:
        (low, high), (left, right) = ((min(x), max(x)) for x in zip(*sizes, strict=True))
        tall = f"{low}" if low == high else f"{low} to {high}"
        wide = f"{left}" if left == right else f"{left} to {right}"
        yield Finding(
            "ok", "sizes",
            f"{len(chosen):,} of {len(files):,} images opened: {tall} high, {wide} wide",
        )  # fmt: skip
