"""`EncodedSet`: packed codes with what they stand for, and the `.npz` file that keeps them.

The file is an ordinary NumPy archive without pickled objects: `numpy.load(path)` reads it anywhere.
Arrays: `codes` uint8 (N, ceil(bits / 8)), `bits`, `ids` int64 (N,), and where known `labels`
int64 (N,) or bool (N, C), `class_names` (C,) and `paths` (N,), both text, `modalities` uint8 (N,),
`learned` bool (N,).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coophash.codes import check_bits

# What `np.load` and reading an array raise on files that are cut short, altered or something else.
_DAMAGE = (ValueError, EOFError, OSError, KeyError, MemoryError, OverflowError,
           zipfile.BadZipFile, zlib.error, NotImplementedError)  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class EncodedSet:
    """Packed codes of a set of items.

    Attributes:
        codes: uint8, (N, ceil(bits / 8)), as `coophash.pack` makes them.
        bits: bits per code, 1 to 4096.
        ids: int64, (N,): the name of each item in an index; 0 to N - 1 by default.
        labels: int64, (N,): classes, each from 0 to len(class_names) - 1; or bool, (N, C), where
            an item may have several; None when not known.
        class_names: in the order of the labels; None when not known.
        paths: where each item came from, or of a text the text; None when not known.
        modalities: uint8, (N,): 0 for an image, 1 for a text, of image-text pairs; then an id is
            2 * pair + modality, see `coophash.cross_modal`. None for images alone.
        learned: bool, (N,): True for images that the model was trained on; None when not known.

    Raises:
        TypeError, ValueError: a field has the wrong type, shape or range.
    """

    codes: NDArray[np.uint8]
    bits: int
    ids: NDArray[np.int64] = None  # type: ignore[assignment]  # counted by __post_init__
    labels: NDArray[Any] | None = None
    class_names: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    modalities: NDArray[np.uint8] | None = None
    learned: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.dtype != np.uint8 or codes.ndim != 2:
            raise TypeError(
                f"codes must be uint8 (N, ceil(bits / 8)), got {codes.dtype} {codes.shape}: call "
                "coophash.pack(outputs) first"
            )
        bits = check_bits(self.bits)
        if codes.shape[1] != -(-bits // 8):
            raise ValueError(
                f"codes must be {-(-bits // 8)} bytes wide for {bits} bits, got {codes.shape}"
            )
        if bits % 8 and (codes[:, -1] >> (bits % 8)).any():
            raise ValueError(f"codes must have their spare bits 0; some beyond bit {bits} are set")
        count = len(codes)
        ids = np.arange(count) if self.ids is None else np.asarray(self.ids)
        labels = None if self.labels is None else np.asarray(self.labels)
        several = labels is not None and labels.ndim == 2 and labels.dtype == np.bool_
        if several and len(labels) != count:  # type: ignore[arg-type]
            raise ValueError(f"labels must be ({count}, C), got {labels.shape}")  # type: ignore[union-attr]
        for name, array in (("ids", ids), ("labels", None if several else labels)):
            if array is not None and (array.shape != (count,) or array.dtype.kind not in "iu"):
                raise ValueError(
                    f"{name} must be integers ({count},), got {array.dtype} {array.shape}"
                )
            if array is not None and count and int(array.max()) >= 1 << 63:
                raise ValueError(f"{name} must fit into int64, got {array.max()}")
        names = None if self.class_names is None else tuple(str(n) for n in self.class_names)
        if labels is not None and count:
            low, high = (0, labels.shape[1] - 1) if several else (labels.min(), labels.max())
            if low < 0 or (names is not None and high >= len(names)):
                last = "" if names is None else f" to {len(names) - 1}"
                raise ValueError(f"labels must be from 0{last}, got {low} to {high}")
        paths = None if self.paths is None else tuple(str(p) for p in self.paths)
        if paths is not None and len(paths) != count:
            raise ValueError(f"paths must be one per code: {count}, got {len(paths)}")
        modalities = None if self.modalities is None else np.asarray(self.modalities)
        if modalities is not None:
            if modalities.shape != (count,) or not np.isin(modalities, (0, 1)).all():
                raise ValueError(
                    f"modalities must be 0 or 1, one for each code ({count},), got "
                    f"{modalities.dtype} {modalities.shape}"
                )
            object.__setattr__(self, "modalities", modalities.astype(np.uint8))
        learned = None if self.learned is None else np.asarray(self.learned)
        if learned is not None and (learned.shape != (count,) or learned.dtype != np.bool_):
            raise ValueError(
                f"learned must be bool ({count},), got {learned.dtype} {learned.shape}"
            )
        object.__setattr__(self, "learned", learned)
        object.__setattr__(self, "codes", np.ascontiguousarray(codes))
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "ids", np.ascontiguousarray(ids, dtype=np.int64))
        if labels is not None:
            kind = np.bool_ if several else np.int64
            object.__setattr__(self, "labels", np.ascontiguousarray(labels, dtype=kind))
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "paths", paths)

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"EncodedSet({len(self):,} codes, {self.bits} bits)"

    def subset(self, rows: NDArray[np.int64]) -> EncodedSet:
        """The codes chosen, in the order given, with their ids, labels and paths."""
        return EncodedSet(
            self.codes[rows], self.bits, self.ids[rows],
            None if self.labels is None else self.labels[rows], self.class_names,
            None if self.paths is None else tuple(self.paths[int(row)] for row in rows),
            None if self.modalities is None else self.modalities[rows],
            None if self.learned is None else self.learned[rows],
        )  # fmt: skip

    def describe(self, row: int) -> str:
        """Class and path of one item, as far as they are known, for people to read."""
        parts = []
        if self.modalities is not None:
            parts.append(("image", "text")[self.modalities[row]])
        if self.labels is not None:
            chosen = (
                np.flatnonzero(self.labels[row])
                if self.labels.ndim == 2
                else [int(self.labels[row])]
            )
            names = self.class_names
            parts.append(", ".join(str(c) if names is None else names[c] for c in chosen))
        if self.paths is not None:
            parts.append(self.paths[row])
        return "  ".join(parts)

    def save(self, path: str | Path) -> Path:
        """Write the `.npz` file, in one rename; the ending is added if it is missing.

        Raises:
            FileNotFoundError: the folder to write into is not there.
        """
        arrays: dict[str, Any] = {"codes": self.codes, "bits": np.int64(self.bits), "ids": self.ids}
        if self.labels is not None:
            arrays["labels"] = self.labels
        if self.modalities is not None:
            arrays["modalities"] = self.modalities
        if self.learned is not None:
            arrays["learned"] = self.learned
        for name, texts in (("class_names", self.class_names), ("paths", self.paths)):
            if texts is not None:
                arrays[name] = np.array(texts, dtype=np.str_)
        return save_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> EncodedSet:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no file of codes, or is damaged.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no codes file at {str(path)!r}: `coophash encode` makes one")
        if not path.is_file():
            raise ValueError(f"codes file {str(path)!r} is a folder: give a .npz file")
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except _DAMAGE as error:
            reason = str(error).strip() or type(error).__name__
            if not zipfile.is_zipfile(path):
                reason = "no NumPy .npz archive, or one cut short"
            raise ValueError(
                f"codes file {str(path)!r} cannot be read ({reason}): make it again with "
                "`coophash encode`"
            ) from None
        if missing := sorted({"codes", "bits"} - set(arrays)):
            raise ValueError(
                f"codes file {str(path)!r} has no array {missing[0]!r}, only {sorted(arrays)}: "
                "make it with `coophash encode`"
            )
        if arrays["bits"].shape != () or arrays["bits"].dtype.kind not in "iu":
            raise ValueError(f"codes file {str(path)!r}: bits must be one integer")
        try:
            return cls(
                arrays["codes"], int(arrays["bits"]), cast(Any, arrays.get("ids")),
                arrays.get("labels"), _texts(arrays, "class_names"), _texts(arrays, "paths"),
                arrays.get("modalities"), arrays.get("learned"),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise ValueError(f"codes file {str(path)!r}: {error}") from None


def _texts(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    texts = arrays[name]
    if texts.ndim != 1 or texts.dtype.kind not in "US":
        raise ValueError(f"{name} must be a list of texts, got {texts.dtype} {texts.shape}")
    return tuple(str(text) for text in texts.astype(np.str_).tolist())


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> Path:
    """Write a compressed `.npz` archive in one rename, so that no reader sees half of one."""
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_writable(path: Path) -> None:
    """Raise before the work is done, not after, where a result could not be written.

    Raises:
        FileNotFoundError: the folder is not there.
        IsADirectoryError: the name is taken by a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}: make it first"
        )
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {str(path)!r}: it is a folder; give a file name")
