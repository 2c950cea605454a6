"""Image-text features in the files that this literature shares: `.mat`, `.h5`, `.npz`.

Layouts, told by the names of the variables:

    parts     I_tr, T_tr, L_tr, I_te, T_te, L_te (and I_db, T_db, L_db), in one file, as wiki.mat
    pooled    XAll, YAll, LAll, in one file (MS-COCO) or in several of one folder (MIRFlickr-25K,
              NUS-WIDE); the queries are the last rows
    database  VDatabase, YDatabase, databaseL, VTest, YTest, testL, in one file (IAPR TC-12)
    dcmh      images, YAll, LAll, in one file: FLICKR-25K.mat of DCMH, with pixels, and its
              descendants, with features; the queries are the first rows
    iall      IAll, YAll, LAll, in several files of one folder: the pixels of DCMH's sets apart, as
              DJSRH reads them; the queries are the first rows (DJSRH draws its own at random)
    dadh      image, text, label, in one file: features of NUS-WIDE; the queries are the first rows

Rows are pairs; pixels may also lie as MATLAB shows them, (H, W, C, N). Labels are class numbers,
from 0 or from 1, or zeros and ones with a column a class; they may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coophash.data.arrays import list_arrays, load_arrays
from coophash.data.pair_pixels import rows_first
from coophash.data.pairs import PairSet, label_array

Part = Literal["train", "test", "database", "all"]
SUFFIXES = (".mat", ".h5", ".hdf5", ".h5py", ".npz")

# Rows of the published sets -> queries (the authors' loaders of UCCH; Sec. 5.1 of DCMH).
QUERIES = {
    20_015: 2_000, 20_000: 2_000, 186_557: 2_100, 186_577: 2_100, 195_834: 2_100, 122_218: 5_000,
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Names of the variables of each part: images, texts, labels.

    A layout of one part, "all", has its queries at the end, or with `queries_first` at the start.
    """

    name: str
    parts: Mapping[str, tuple[str, str, str]]
    optional: tuple[str, ...] = ()
    queries_first: bool = False

    @property
    def whole(self) -> bool:
        """Whether queries and database are rows of the same arrays."""
        return "all" in self.parts


LAYOUTS = (
    Layout(
        "parts",
        {
            "train": ("I_tr", "T_tr", "L_tr"),
            "test": ("I_te", "T_te", "L_te"),
            "database": ("I_db", "T_db", "L_db"),
        },
        optional=("database",),
    ),
    Layout(
        "database",
        {
            "train": ("VDatabase", "YDatabase", "databaseL"),
            "test": ("VTest", "YTest", "testL"),
        },
    ),
    Layout("pooled", {"all": ("XAll", "YAll", "LAll")}),
    Layout("dcmh", {"all": ("images", "YAll", "LAll")}, queries_first=True),
    Layout("iall", {"all": ("IAll", "YAll", "LAll")}, queries_first=True),
    Layout("dadh", {"all": ("image", "text", "label")}, queries_first=True),
)


@dataclass(frozen=True)
class PairFiles:
    """Where the variables of a set are.

    Attributes:
        root: the file or folder that was given.
        layout: one of `LAYOUTS`.
        where: variable -> the file that holds it.
        shapes: variable -> its shape and type, as text.
    """

    root: Path
    layout: Layout
    where: Mapping[str, Path]
    shapes: Mapping[str, str]


def find_pairs(path: str | os.PathLike[str]) -> PairFiles:
    """Look for the variables of one of the layouts, without reading them.

    Args:
        path: a file, or a folder whose feature files are looked at.

    Raises:
        FileNotFoundError: there is no such file or folder, or no feature file in it.
        ValueError: no layout is complete; the message says what is missing from the nearest one.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise FileNotFoundError(f"{root} has no feature files ({', '.join(SUFFIXES)})")
    elif root.is_file():
        files = [root]
    else:
        raise FileNotFoundError(f"no feature file or folder at {str(root)!r}")
    where: dict[str, Path] = {}
    shapes: dict[str, str] = {}
    twice: dict[str, Path] = {}
    for file in files:
        for name, shape in list_arrays(file, numbers=False).items():
            if name in where:
                twice.setdefault(name, file)
            else:
                where[name], shapes[name] = file, shape
    for layout in LAYOUTS:
        needed = [
            name
            for part, names in layout.parts.items()
            if part not in layout.optional
            for name in names[:2]
        ]
        if all(name in where for name in needed):
            for part in layout.parts.values():
                for name in part:
                    if name in twice:
                        raise ValueError(
                            f"{root} has the variable {name!r} in {where[name].name} and in "
                            f"{twice[name].name}: give one file, or keep one set in a folder"
                        )
            return PairFiles(root, layout, where, shapes)
    raise ValueError(_nothing(root, where, shapes))


def read_pairs(
    path: str | os.PathLike[str], split: Part = "train", queries: int | None = None
) -> PairSet:
    """Read image-text features with their labels.

    Args:
        path: the file, or the folder that holds a set's files.
        split: "train": the training pairs, which for these sets are also what is searched;
            "test": the queries; "database": the pairs to search, where a set has them apart, else
            the training pairs; "all": training and test pairs, in this order.
        queries: for the layouts with all pairs in the same arrays, how many rows at the end (or
            the start, see above) are queries; by default known for MIRFlickr-25K, NUS-WIDE, IAPR
            TC-12 and MS-COCO by the number of rows.

    Returns:
        A `PairSet`, raw where the file has pixels; `ids` number the pairs of the whole file from 0,
        in its order, with parts apart training pairs first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a variable is missing or has another number of rows, NaN or infinity, labels
            that do not fit, or a damaged file. The message names the variable.
    """
    if split not in ("train", "test", "database", "all"):
        raise ValueError(f"split must be train, test, database or all, got {split!r}")
    found = find_pairs(path)
    name = found.root.stem if found.root.is_file() else found.root.name
    if found.layout.whole:
        whole = _read_parts(found, ["all"], name)["all"]
        if split == "all":
            return whole
        count = _queries(found, len(whole), queries)
        first = count if found.layout.queries_first else len(whole) - count
        before, after = slice(0, first), slice(first, None)
        asked, others = (before, after) if found.layout.queries_first else (after, before)
        return whole.subset(asked if split == "test" else others, f"{name} {split}")
    if queries is not None:
        raise ValueError(
            f"queries is for files with all pairs in the same arrays; {found.root} has its parts "
            "apart already"
        )
    parts = _read_parts(found, [p for p in found.layout.parts if _has(found, p)], name)
    if split == "all":
        return _together(parts["train"], parts["test"], name)
    return parts[split] if split in parts else parts["train"]


def _has(found: PairFiles, part: str) -> bool:
    """Whether a part is there; a piece of an optional one alone is an error."""
    there = [name for name in found.layout.parts[part][:2] if name in found.where]
    if len(there) == 1:
        lacking = next(name for name in found.layout.parts[part][:2] if name not in there)
        raise ValueError(f"{found.root} has {there[0]!r} but no {lacking!r}")
    return bool(there)


def _read_parts(found: PairFiles, parts: list[str], name: str) -> dict[str, PairSet]:
    """Every part, checked against the others."""
    arrays: dict[str, NDArray[Any]] = {}
    for part in parts:
        for variable in found.layout.parts[part]:
            if variable in found.where:
                file = found.where[variable]
                arrays[variable] = load_arrays(file, [variable], contiguous=False)[variable]
    labels = {
        part: arrays[found.layout.parts[part][2]]
        for part in parts
        if found.layout.parts[part][2] in arrays
    }
    if labels and len(labels) < len(parts):
        without = next(part for part in parts if part not in labels)
        raise ValueError(
            f"{found.root} has labels for {', '.join(labels)} but no "
            f"{found.layout.parts[without][2]!r} for {without}"
        )
    sets, first = {}, 0
    for part in parts:
        image, text, _ = found.layout.parts[part]
        if arrays[image].ndim == 4:
            try:
                arrays[image] = rows_first(arrays[image], len(arrays[text]), image)
            except ValueError as error:
                raise ValueError(f"{found.root}: {error}") from None
        _check_rows(found, image, text, arrays)
    tidy = _tidy_labels(found, labels, arrays)
    for part in parts:
        image, text, _ = found.layout.parts[part]
        ids = np.arange(first, first + len(arrays[image]))
        first += len(ids)
        title = name if part == "all" else f"{name} {part}"
        try:
            sets[part] = PairSet(arrays[image], arrays[text], tidy.get(part), name=title, ids=ids)
        except (ValueError, TypeError) as error:
            told = str(error).replace("images", image, 1).replace("texts", text, 1)
            raise ValueError(f"{found.root}: {told}") from None
    _check_widths(found, parts, arrays)
    return sets


def _check_rows(found: PairFiles, image: str, text: str, arrays: Mapping[str, Any]) -> None:
    a, b = arrays[image], arrays[text]
    for name, array in ((image, a), (text, b)):
        if array.ndim != 2 and not (name == image and array.ndim == 4):
            raise ValueError(
                f"{found.root}: {name} must be features (pairs, width), got {array.shape}"
            )
    if len(a) == len(b):
        return
    hint = "one of them lacks pairs, or they belong to different parts"
    if a.shape[1:] == b.shape[1:]:
        hint = f"both lie on their sides: store {image}.T and {text}.T"
    for name, array, other in ((image, a, b), (text, b, a)):
        if array.shape[1] == len(other):
            hint = f"{name} lies on its side: store {name}.T"
    raise ValueError(
        f"{found.root}: {image} has {len(a):,} rows and {text} {len(b):,}; row i of both must be "
        f"pair i: {hint}"
    )


def _check_widths(found: PairFiles, parts: list[str], arrays: Mapping[str, Any]) -> None:
    for kind in (0, 1):
        names = [found.layout.parts[part][kind] for part in parts]
        widths = {name: arrays[name].shape[1] for name in names}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{name} {width:,}" for name, width in widths.items())
            raise ValueError(f"{found.root}: the parts must have equally wide features, got {told}")


def _tidy_labels(
    found: PairFiles, labels: Mapping[str, NDArray[Any]], arrays: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Labels of all parts in one form, class numbers from 0."""
    tidy: dict[str, NDArray[Any]] = {}
    for part, values in labels.items():
        image, _, label = found.layout.parts[part]
        try:
            tidy[part] = label_array(values, len(arrays[image]), label)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{found.root}: {error}") from None
    forms = {
        found.layout.parts[part][2]: "class numbers"
        if values.ndim == 1
        else f"{values.shape[1]} columns of zeros and ones"
        for part, values in tidy.items()
    }
    if len(set(forms.values())) > 1:
        told = ", ".join(f"{name} {form}" for name, form in forms.items())
        raise ValueError(
            f"{found.root}: the labels of all parts must have one form, got {told}: turn "
            "class numbers into columns, numpy.eye(classes)[labels], or back, labels.argmax(1)"
        )
    numbers = [values for values in tidy.values() if values.ndim == 1 and values.size]
    if numbers and min(int(values.min()) for values in numbers) == 1:  # MATLAB counts from 1
        tidy = {part: values - 1 for part, values in tidy.items()}
    return tidy


def _queries(found: PairFiles, rows: int, queries: int | None) -> int:
    if queries is None and rows in QUERIES:
        return QUERIES[rows]
    if queries is None:
        raise ValueError(
            f"{found.root} has {rows:,} pairs without a split: say how many at the "
            f"{'start' if found.layout.queries_first else 'end'} are the queries, queries=N "
            "(coophash train: --set queries=N; coophash encode: --queries N)"
        )
    if isinstance(queries, bool) or not isinstance(queries, (int, np.integer)):
        raise TypeError(f"queries must be a whole number, got {queries!r}")
    if not 1 <= queries < rows:
        raise ValueError(f"queries must be from 1 to {rows - 1}, got {queries!r}")
    return int(queries)


def _together(first: PairSet, second: PairSet, name: str) -> PairSet:
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
    return PairSet(
        np.concatenate([first.images, second.images]), np.concatenate([first.texts, second.texts]),
        labels, name=name, ids=np.concatenate([first.ids, second.ids]),
    )  # fmt: skip


def _nothing(root: Path, where: Mapping[str, Path], shapes: Mapping[str, str]) -> str:
    """What is missing from the layout that is nearest to complete."""
    best, lacking = LAYOUTS[0], list[str]()
    most = -1.0
    for layout in LAYOUTS:
        needed = [
            name
            for part, names in layout.parts.items()
            if part not in layout.optional
            for name in names[:2]
        ]
        there = sum(name in where for name in needed) / len(needed)
        if there > most:
            best, most = layout, there
            lacking = [name for name in needed if name not in where]
    listed = ", ".join(f"{name} {shapes[name]}".strip() for name in list(where)[:12])
    if most > 0:
        return (
            f"{root} lacks {', '.join(lacking)} of the layout {best.name!r}; it has "
            f"{listed or 'no array of numbers'}"
        )
    wanted = "; ".join(
        ", ".join(name for part in layout.parts.values() for name in part) for layout in LAYOUTS
    )
    return (
        f"{root} has none of the layouts of image-text features ({wanted}), only "
        f"{listed or 'no array of numbers'}"
    )
