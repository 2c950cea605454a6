"""faiss's file format of binary flat indexes, as faiss 1.5 to 1.15 write it (little-endian).

    IndexBinaryFlat      "IBxF", header, then the codes as a vector of bytes
    IndexBinaryIDMap(2)  "IBMp" or "IBM2", header, an IndexBinaryFlat, the ids as a vector of int64

The header is bits (int32), width (int32), rows (int64), trained (1 byte), metric (int32, 1); a
vector is its length (uint64) and its values. So the codes begin at byte 33 of a flat file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coophash.codes import MAX_BITS

FLAT = b"IBxF"
ID_MAPS = (b"IBMp", b"IBM2")

_OTHER_KINDS = {
    b"IBwF": "IndexBinaryIVF",
    b"IBHf": "IndexBinaryHNSW",
    b"IBHc": "IndexBinaryHNSWCagra",
    b"IBHh": "IndexBinaryHash",
    b"IBHm": "IndexBinaryMultiHash",
    b"IBFf": "IndexBinaryFromFloat",
    b"IxF2": "IndexFlatL2, real vectors",
    b"IxFI": "IndexFlatIP, real vectors",
    b"IxHe": "IndexLSH, real vectors",
}

_HEADER = struct.Struct("<4siiq?i")
_LENGTH = struct.Struct("<Q")
FLAT_HEADER_BYTES = _HEADER.size + _LENGTH.size


class Layout(NamedTuple):
    """Where things are in a file.

    Attributes:
        width: bytes of a code.
        rows: how many codes.
        codes_offset: of the first code.
        ids_offset: of the first id, or None: ids are 0, 1, 2 and so on.
    """

    width: int
    rows: int
    codes_offset: int
    ids_offset: int | None


def flat_header(width: int, rows: int) -> bytes:
    """Everything before the codes of an IndexBinaryFlat."""
    return _HEADER.pack(FLAT, 8 * width, width, rows, True, 1) + _LENGTH.pack(rows * width)


def id_map_header(width: int, rows: int) -> bytes:
    """What stands before the IndexBinaryFlat of an IndexBinaryIDMap."""
    return _HEADER.pack(ID_MAPS[0], 8 * width, width, rows, True, 1)


def ids_header(rows: int) -> bytes:
    """What stands between the codes and the ids of an IndexBinaryIDMap."""
    return _LENGTH.pack(rows)


def read_layout(path: Path) -> Layout:
    """Read and check the headers of a file, and its size.

    Raises:
        ValueError: it is not such a file, or is damaged; the message names it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        kind, width, rows = _read_header(file, path)
        mapped = kind in ID_MAPS
        if mapped:
            inner = _read_header(file, path)
            if inner[0] != FLAT:
                raise ValueError(
                    f"{path} is an IndexBinaryIDMap of {_name(inner[0])}: only one of an "
                    "IndexBinaryFlat can be read"
                )
            if inner[1:] != (width, rows):
                raise ValueError(
                    f"{path} is damaged: an IndexBinaryIDMap of {rows} codes of {width} bytes on "
                    f"an IndexBinaryFlat of {inner[2]} codes of {inner[1]} bytes"
                )
        elif kind != FLAT:
            raise ValueError(
                f"{path} begins with {_name(kind)}, which is no binary flat index: write it with "
                "faiss.write_index_binary(faiss.IndexBinaryFlat(...)) or index.write_faiss(path)"
            )
        _read_length(file, path, rows * width, "bytes of codes")
        codes_offset = file.tell()
        end = codes_offset + rows * width
        ids_offset = None
        if mapped and end + _LENGTH.size <= size:
            file.seek(end)
            _read_length(file, path, rows, "ids")
            ids_offset = file.tell()
            end = ids_offset + 8 * rows
        elif mapped:
            end += _LENGTH.size + 8 * rows
    if size != end:
        raise ValueError(
            f"{path} is damaged: {rows} codes of {width} bytes make {end} bytes, it has {size}"
        )
    return Layout(width, rows, codes_offset, ids_offset)


def read_codes(path: Path, layout: Layout) -> NDArray[np.uint8]:
    """The codes, uint8 (rows, width)."""
    codes = np.fromfile(path, np.uint8, layout.rows * layout.width, offset=layout.codes_offset)
    return codes.reshape(layout.rows, layout.width)


def read_ids(path: Path, layout: Layout) -> NDArray[np.int64] | None:
    """The ids, int64 (rows,), or None."""
    if layout.ids_offset is None:
        return None
    ids = np.fromfile(path, "<i8", layout.rows, offset=layout.ids_offset)
    return ids.astype(np.int64, copy=False)


def _read_header(file: BinaryIO, path: Path) -> tuple[bytes, int, int]:
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size:
        raise ValueError(f"{path} is damaged: it ends within its header")
    kind, bits, width, rows, _, _ = _HEADER.unpack(data)
    if kind != FLAT and kind not in ID_MAPS:
        return kind, 0, 0  # another layout may follow: the caller says what it is
    if bits != 8 * width or rows < 0:
        raise ValueError(
            f"{path} is damaged: its header says {rows} codes of {bits} bits in {width} bytes"
        )
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"{path} has codes of {bits} bits: 8 to {MAX_BITS} can be read")
    return kind, width, rows


def _read_length(file: BinaryIO, path: Path, expected: int, what: str) -> None:
    data = file.read(_LENGTH.size)
    length = _LENGTH.unpack(data)[0] if len(data) == _LENGTH.size else -1
    if length != expected:
        raise ValueError(f"{path} is damaged: expected {expected} {what}, found {length}")


def _name(kind: bytes) -> str:
    text = kind.decode("ascii", "replace")
    if kind in _OTHER_KINDS:
        return f"{text!r} ({_OTHER_KINDS[kind]})"
    return f"{text!r}" if text.isprintable() else f"the bytes {kind.hex()}"
