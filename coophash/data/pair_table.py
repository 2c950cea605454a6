"""A table of image path and text, a row a pair: `.csv`, `.tsv` or `.jsonl`.

    image,text,label                        the column names; label may be missing
    photos/0001.jpg,"a red bus",bus         label: a class name, or several with | between them

A line of `.jsonl` is an object with the same names; label may be a list there.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coophash.data.pairs import PairSet, source_features

TABLES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, repr=False, eq=False)
class PairTable:
    """Pairs by path and text, no image read yet.

    Attributes:
        paths: of the image files, as written in the table.
        captions: the texts.
        labels: int64 (N,), or bool (N, C) where a row has several; None without that column.
        class_names: in the order of the labels.
        root: folder that the paths are relative to.
        name: what the set is called.
        ids: number of each row in the table, from 0.
    """

    paths: tuple[str, ...]
    captions: tuple[str, ...]
    labels: NDArray[Any] | None
    class_names: tuple[str, ...] | None
    root: Path
    name: str
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"PairTable({self.name!r}: {len(self):,} images and texts)"

    def files(self) -> list[Path]:
        """The image files, with the root before them."""
        return [self.root / path for path in self.paths]

    def subset(self, rows: Any) -> PairTable:
        """The rows chosen, in the order given."""
        index = np.arange(len(self))[rows]
        return replace(
            self,
            paths=tuple(self.paths[i] for i in index),
            captions=tuple(self.captions[i] for i in index),
            labels=None if self.labels is None else self.labels[index],
            ids=self.ids[index],
        )

    def features(
        self,
        image: Callable[[Sequence[Path]], Any],
        text: Callable[[Sequence[str]], Any],
    ) -> PairSet:
        """Features of all pairs.

        Args:
            image: image files -> (N, image_dim), e.g. `coophash.features.TimmFeatures`.
            text: texts -> (N, text_dim): a `BagOfWords`, or any sentence encoder.

        Raises:
            TypeError, ValueError: what they return are no finite features, a row for each pair.
        """
        return PairSet(
            source_features(image, self.files(), "image"),
            source_features(text, list(self.captions), "text"),
            self.labels, self.class_names, self.name, self.paths, self.captions, self.ids,
        )  # fmt: skip


def read_pair_table(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> PairTable:
    """Read a table of image paths and texts; the images are not opened.

    Args:
        path: the `.csv`, `.tsv` or `.jsonl` file, UTF-8.
        root: folder that image paths are relative to; that of the table by default.

    Raises:
        FileNotFoundError: no such table, or an image that it names is not there.
        ValueError: a column is missing, or a row is incomplete; the message says which.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path} must end in {', '.join(TABLES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no table at {str(path)!r}")
    paths, captions, labels = [], [], []
    for line, row in _rows(path):
        image, text = row.get("image"), row.get("text")
        for name, value in (("image", image), ("text", text)):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{path}, line {line}: {name} is empty or no text")
        paths.append(str(image).strip())
        captions.append(str(text))
        try:
            labels.append((line, _names(row.get("label"))))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not paths:
        raise ValueError(f"{path} has no rows")
    folder = path.parent if root is None else Path(root)
    missing = [p for p in paths if not (folder / p).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path} names {len(missing):,} images that are not in {folder}, first {missing[0]!r}: "
            "give the folder that the paths start from as root"
        )
    encoded, class_names = _encode(path, labels)
    return PairTable(
        tuple(paths), tuple(captions), encoded, class_names, folder, path.stem,
        np.arange(len(paths)),
    )  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, columns) of every row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".jsonl":
                yield from _json_rows(path, file)
                return
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            names = [str(name).strip().lower() for name in reader.fieldnames or ()]
            for name in ("image", "text"):
                if name not in names:
                    raise ValueError(
                        f"{path} has no column {name!r}, only {', '.join(names) or 'nothing'}: the "
                        "first line must name the columns image, text and, if there is one, label"
                    )
                if names.count(name) > 1:
                    raise ValueError(f"{path} has {names.count(name)} columns {name!r}: keep one")
            reader.fieldnames = names
            for row in reader:
                if None in row:  # a text cut at its first comma would go unseen
                    raise ValueError(
                        f"{path}, line {reader.line_num}: more fields than the {len(names)} "
                        "columns: put the text in double quotes"
                    )
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error})") from None
    except csv.Error as error:
        raise ValueError(f"{path} is no table ({error})") from None


def _json_rows(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: must be an object {{"image": ..., ...}}')
        yield number, row


def _names(label: Any) -> tuple[str, ...]:
    if label is None:
        return ()
    if isinstance(label, dict):
        raise ValueError(f"label must be a name or a list of names, got {label!r}")
    given = label if isinstance(label, list) else str(label).split("|")
    return tuple(name for name in (str(part).strip() for part in given) if name)


def _encode(
    path: Path, labels: list[tuple[int, tuple[str, ...]]]
) -> tuple[NDArray[Any] | None, tuple[str, ...] | None]:
    """Labels as numbers: None where no row has one."""
    if not any(names for _, names in labels):
        return None, None
    known = sorted({name for _, names in labels for name in names})
    places = {name: place for place, name in enumerate(known)}
    if any(len(set(names)) > 1 for _, names in labels):
        several = np.zeros((len(labels), len(known)), np.bool_)
        for row, (_, names) in enumerate(labels):
            several[row, [places[name] for name in names]] = True
        return several, tuple(known)
    for line, names in labels:
        if not names:
            raise ValueError(f"{path}, line {line}: no label, though other rows have one")
    return np.array([places[names[0]] for _, names in labels]), tuple(known)
