"""An index on disk.

An index is a folder: `manifest.json` and immutable segment files. A segment is

    segment-000001.faiss   its codes, a faiss IndexBinaryFlat file: a header of 33 bytes, raw codes
    segment-000001.ids     its ids, int64 little-endian; left out where they count up by one
    removed-000001.ids     ids that were removed and are never used again; left out if none were

The manifest has the settings, the sizes and a CRC-32 of each file, and one of itself. Saving
writes new files and syncs them, then puts the new manifest in place in one rename; files of the old
one are deleted last. Killed at any moment, the folder opens as what it was before or as the new
index. A save holds a lock on the file `index.lock`, which is there as long, and another to the same
folder waits for it. Opening needs no lock: where a file is gone since the manifest was read, it
begins again with the new one.

Opening checks headers and sizes at once. Checksums are checked where a file is read as a whole: by
opening it, unless it is mapped, and where an index with mapped files is saved or written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from coophash import _faiss_file
from coophash._rows import Rows, Source
from coophash.codes import check_bits, check_codes, width_of

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from coophash.search import HammingIndex

MANIFEST = "manifest.json"
LOCK = "index.lock"
FORMAT = "coophash-index"
VERSION = 1

_CHUNK_BYTES = 64 << 20
_TRIES = 100  # to open a folder that is saved to meanwhile
_FILE = re.compile(r"(?:segment|removed)-(\d{6,})\.(?:faiss|ids)")
_TEMPORARY = re.compile(re.escape(MANIFEST) + r"\.(?:\d+\.)?tmp")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

__all__ = ["open_index", "read_faiss", "save_index", "write_faiss"]


def read_faiss(path: str | os.PathLike[str]) -> HammingIndex:
    """Read a file that faiss or `HammingIndex.write_faiss` wrote.

    Args:
        path: an IndexBinaryFlat, or an IndexBinaryIDMap of one, up to 4096 bits.

    Returns:
        An index of the same codes and ids.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of index, or is damaged.
    """
    from coophash.search import HammingIndex  # it stands above this module

    file = _existing(path)
    layout = _faiss_file.read_layout(file)
    index = HammingIndex(8 * layout.width)
    try:
        index.add(_faiss_file.read_codes(file, layout), _faiss_file.read_ids(file, layout))
    except ValueError as error:  # ids that repeat, or negative ones
        raise ValueError(f"{file}: {error}") from None
    return index


def write_faiss(path: str | os.PathLike[str], rows: Rows) -> None:
    """Write rows as an IndexBinaryFlat, or an IndexBinaryIDMap where ids are not 0, 1, 2 ...

    Raises:
        ValueError: a file that rows are mapped from is damaged; the message names it.
    """
    target = Path(path)
    ids = _checked_ids(rows)
    plain = bool((ids == np.arange(ids.size)).all())
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if not plain:
                file.write(_faiss_file.id_map_header(rows.width, ids.size))
            file.write(_faiss_file.flat_header(rows.width, ids.size))
            for part in _code_chunks(rows):
                part.tofile(file)
            if not plain:
                file.write(_faiss_file.ids_header(ids.size))
                ids.astype("<i8", copy=False).tofile(file)
            _sync(file)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def save_index(path: str | os.PathLike[str], bits: int, method: str, rows: Rows) -> None:
    """Write rows to the folder `path` as one segment, and its manifest last.

    A save of another process or thread to the same folder is waited for.

    Raises:
        FileExistsError: path is a file, or a folder with something else in it.
        ValueError: a file that rows are mapped from is damaged; the message names it.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: an index is saved as a folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise FileExistsError(f"{folder} holds something that is no index: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        try:
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "bits": bits,
                "width": rows.width,
                "method": method,
                "next_id": rows.next_id,
                **_write_rows(folder, rows),
            }
            manifest["crc32"] = _manifest_crc(manifest)
            temporary = folder / f"{MANIFEST}.{os.getpid()}.tmp"
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1)
                file.write("\n")
                _sync(file)
            temporary.replace(folder / MANIFEST)
            _sync_folder(folder)
        except BaseException:
            with contextlib.suppress(OSError, ValueError):  # the first error is the one to tell
                _drop_others(folder)
            raise
        _drop_others(folder)


def _write_rows(folder: Path, rows: Rows) -> dict[str, Any]:
    """Write the segment and the removed ids, and return what the manifest says of them."""
    # No name is used again, not even after an empty index: a reader may have an old manifest.
    last = _read_manifest(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    numbers = [int(m[1]) for f in folder.iterdir() if (m := _FILE.fullmatch(f.name))]
    number = max([int(last.get("number", 0)), *numbers]) + 1
    stem = f"{number:06d}"
    ids = _checked_ids(rows)
    segments = []
    if ids.size:
        codes = f"segment-{stem}.faiss"
        header = _faiss_file.flat_header(rows.width, ids.size)
        segment: dict[str, Any] = {
            "rows": int(ids.size),
            "codes": _write(folder / codes, header, _code_chunks(rows)),
            "ids": None,
            "first_id": int(ids[0]),
            "last_id": int(ids.max()),
            "increasing": bool((np.diff(ids) > 0).all()),
        }
        if not (segment["increasing"] and ids[-1] - ids[0] == ids.size - 1):
            segment["ids"] = _write(folder / f"segment-{stem}.ids", b"", [ids.astype("<i8")])
        segments.append(segment)
    gone = rows.all_removed()
    removed = None
    if gone.size:
        removed = _write(folder / f"removed-{stem}.ids", b"", [gone.astype("<i8")])
    return {"number": number, "segments": segments, "removed": removed}


def open_index(path: str | os.PathLike[str], mmap: bool) -> tuple[int, str, Rows]:
    """Read the folder `path`: bits, method and rows.

    Raises:
        FileNotFoundError: there is no index at path, or one of its files is missing.
        ValueError: a file of it is damaged; the message names it.
    """
    folder = Path(path)
    if not folder.is_dir():
        hint = ": read a faiss file with coophash.read_faiss" if folder.is_file() else ""
        raise FileNotFoundError(f"there is no index folder {folder}{hint}")
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no index: it has no {MANIFEST}")
    manifest = _read_manifest(file)
    for _ in range(_TRIES):
        try:
            return _open(folder, manifest, mmap)
        except (FileNotFoundError, ValueError):
            found, manifest = manifest, _read_manifest(file)
            if manifest == found:
                raise
    raise FileNotFoundError(
        f"{folder} could not be opened, other processes saved it {_TRIES} times meanwhile: try "
        "again, or save less often"
    )


def _open(folder: Path, manifest: dict[str, Any], mmap: bool) -> tuple[int, str, Rows]:
    """Read what the manifest names. Files are gone, or others, if someone has saved since."""
    try:
        bits = check_bits(manifest["bits"])
        method, width, next_id = str(manifest["method"]), manifest["width"], manifest["next_id"]
        if width != width_of(bits):
            raise ValueError(f"{width} bytes do not hold {bits} bits")
        rows = Rows(width)
        for segment in manifest["segments"]:
            _attach(rows, folder, segment, bits, mmap)
        rows.next_id = max(rows.next_id, int(next_id))
        if manifest["removed"] is not None:
            rows.retired = np.array(_read_ids(folder, manifest["removed"], None, False))
    except (KeyError, TypeError) as error:  # the checksum was right, so someone wrote it so
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder / MANIFEST} is damaged: {reason}") from None
    return bits, method, rows


def _attach(rows: Rows, folder: Path, segment: dict[str, Any], bits: int, mmap: bool) -> None:
    file = _checked_file(folder, segment["codes"])
    layout = _faiss_file.read_layout(file)
    if (layout.width, layout.rows) != (rows.width, segment["rows"]) or layout.ids_offset:
        raise ValueError(
            f"{file} is damaged: it has {layout.rows} codes of {layout.width} bytes, the manifest "
            f"says {segment['rows']} of {rows.width}"
        )
    codes_from = ids_from = ids = None
    if mmap:
        data = np.asarray(np.memmap(file, np.uint8, "r"))
        codes = data[layout.codes_offset :].reshape(layout.rows, layout.width)
        head = data[: layout.codes_offset].tobytes()
        codes_from = Source(str(file), head, segment["codes"]["crc32"])
    else:
        _check_crc(file, segment["codes"])
        codes = check_codes(_faiss_file.read_codes(file, layout), str(file), bits)
    if segment["ids"] is not None:
        ids = _read_ids(folder, segment["ids"], layout.rows, mmap)
        if mmap:
            ids_from = Source(str(folder / segment["ids"]["file"]), b"", segment["ids"]["crc32"])
    rows.attach(
        codes,
        ids,
        segment["first_id"],
        segment["last_id"],
        segment["increasing"],
        codes_from,
        ids_from,
    )


def _read_ids(
    folder: Path, entry: dict[str, Any], count: int | None, mmap: bool
) -> NDArray[np.int64]:
    file = _checked_file(folder, entry)
    if count is not None and entry["bytes"] != 8 * count:
        raise ValueError(f"{file} is damaged: {entry['bytes']} bytes are not {count} ids")
    if mmap:
        return np.asarray(np.memmap(file, "<i8", "r"))
    _check_crc(file, entry)
    return np.fromfile(file, "<i8").astype(np.int64, copy=False)


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file} is no manifest of an index")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{file} has version {manifest.get('version')} of the format, this coophash reads "
            f"{VERSION}: install a newer one"
        )
    if manifest.pop("crc32", None) != _manifest_crc(manifest):
        raise ValueError(f"{file} is damaged: its checksum is wrong")
    return manifest


def _manifest_crc(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _entries(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for segment in manifest["segments"]:
        yield segment["codes"]
        if segment["ids"] is not None:
            yield segment["ids"]
    if manifest["removed"] is not None:
        yield manifest["removed"]


def _is_ours(folder: Path) -> bool:
    """Whether there is an index, or what a save that was killed left behind, and nothing else."""
    if (folder / MANIFEST).is_file():
        _read_manifest(folder / MANIFEST)  # never write over another program's manifest
        return True
    return all(
        f.name == LOCK or _FILE.fullmatch(f.name) or _TEMPORARY.fullmatch(f.name)
        for f in folder.iterdir()
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other savers from the folder, which the system does for as long as this one lives."""
    if fcntl is None:
        yield
        return
    file = _lock(folder / LOCK)
    try:
        yield
    finally:
        # gone before it is free: whoever waits for it sees that and makes a new one
        (folder / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile holds it no longer
        file.close()


def _lock(path: Path) -> BinaryIO:
    """The file `path`, made if need be, once no one else holds a lock on it."""
    while True:
        file = path.open("ab")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno in _NO_LOCKS:  # some network file systems: saved without one
                    return file
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # its holder took it away


def _drop_others(folder: Path) -> None:
    """Delete the files of an index that the manifest does not name. Only under the lock."""
    file = folder / MANIFEST
    kept = {entry["file"] for entry in _entries(_read_manifest(file))} if file.is_file() else set()
    for old in folder.iterdir():
        if (_FILE.fullmatch(old.name) and old.name not in kept) or _TEMPORARY.fullmatch(old.name):
            old.unlink()


def _write(file: Path, head: bytes, parts: Iterable[NDArray[Any]]) -> dict[str, Any]:
    """Write and sync a new file, and return its entry in the manifest."""
    crc, size = zlib.crc32(head), len(head)
    with file.open("xb") as out:
        out.write(head)
        for array in parts:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            out.write(data)
            crc, size = zlib.crc32(data, crc), size + data.nbytes
        _sync(out)
    return {"file": file.name, "bytes": size, "crc32": crc}


def _checked_file(folder: Path, entry: dict[str, Any]) -> Path:
    name = entry["file"]
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise ValueError(f"{folder / MANIFEST} is damaged: it names a file {name!r}")
    file = folder / name
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the index in {folder} is damaged")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise ValueError(f"{file} is damaged: it has {size} bytes, expected {entry['bytes']}")
    return file


def _check_crc(file: Path, entry: dict[str, Any]) -> None:
    crc = 0
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    if crc != entry["crc32"]:
        raise ValueError(f"{file} is damaged: its checksum is wrong")


def _code_chunks(rows: Rows) -> Iterator[NDArray[np.uint8]]:
    """The codes of all rows there are, in order, a chunk at a time.

    Raises:
        ValueError: behind the last chunk of a mapped file, if that is damaged.
    """
    step = max(64, _CHUNK_BYTES // rows.width)
    for run in rows.runs:
        alive = None if run.alive is None else run.alive_mask()
        crc = zlib.crc32(run.codes_from.head) if run.codes_from else 0
        for start in range(0, run.length, step):
            end = min(run.length, start + step)
            part = run.codes[start:end]
            if run.codes_from:
                crc = zlib.crc32(part.data, crc)
            yield part if alive is None else part[alive[start:end]]
        _compare_crc(run.codes_from, crc)


def _checked_ids(rows: Rows) -> NDArray[np.int64]:
    """The ids of all rows there are, once those in mapped files are found to be sound."""
    for run in rows.runs:
        if run.ids_from and run.ids is not None:
            _compare_crc(run.ids_from, zlib.crc32(run.ids.data, zlib.crc32(run.ids_from.head)))
    return rows.ids


def _compare_crc(source: Source | None, crc: int) -> None:
    if source and crc != source.crc32:
        raise ValueError(f"{source.file} is damaged: its checksum is wrong")


def _sync(file: BinaryIO | Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _existing(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        hint = ": open a folder with HammingIndex.open" if file.is_dir() else ""
        raise FileNotFoundError(f"there is no file {file}{hint}")
    return file
