"""Search on a CUDA device: addresses, workspace and results around the extension.

A search runs where the database is, on the stream on which the queries are ready, and its results
are of the kind of the queries and where these are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coophash import _native
from coophash._arguments import allow_words
from coophash._device_arrays import (
    DeviceArray,
    describe,
    empty,
    on_device,
    out_of_memory,
    upload,
)
from coophash._memory import check_memory
from coophash.codes import as_numpy, check_codes, check_layout, spare_error

# Set by tests and benchmarks to force a way of comparing: "popc", "mma" or "wgmma".
path = ""
# Bytes of codes that are streamed at a time.
chunk_bytes = 64 << 20

DeviceSpan = tuple[int, int, int, bool]  # codes, allow or 0, rows, whether on the host
Identify = Callable[[NDArray[np.int64]], NDArray[np.int64]]


class Target(NamedTuple):
    """What is searched.

    Attributes:
        spans: rows in order of place, those on the device first.
        device: its number.
        stream: on which the codes are ready.
        width: bytes of a code.
        identify: ids of places, for places >= 0; None where a place is the id.
        keep: what must live as long as the search.
    """

    spans: list[DeviceSpan]
    device: int
    stream: int
    width: int
    identify: Identify | None
    keep: Any

    @property
    def rows(self) -> int:
        return sum(span[2] for span in self.spans)

    @property
    def streamed(self) -> bool:
        return any(span[3] and span[2] for span in self.spans)


@dataclass(frozen=True)
class Asked:
    """Queries on the device of a search, and the way of results back to the caller."""

    codes: DeviceArray
    to_host: Callable[[NDArray[Any]], Any] | None  # None: results stay on the device

    def give(self, result: DeviceArray) -> Any:
        """A result as the caller gets it."""
        if self.to_host is not None:
            return self.to_host(result.numpy())
        return result if result.library == "none" else result.owner


def usable() -> bool:
    """Whether arrays on a device are searched there: not if there is none for this build, nor if
    the environment asks for another backend."""
    return _native.backend() not in ("reference", "native") and not _native.cuda_status()


def forced() -> bool:
    """Whether the environment asks for CUDA.

    Raises:
        RuntimeError: it does, and there is no device; the message says why.
    """
    if _native.backend() != "cuda":
        return False
    if why := _native.cuda_status():
        raise RuntimeError(f"COOPHASH_BACKEND=cuda: {why}")
    return True


def wants(database: Any) -> bool:
    """Whether a search of `database` runs on a device."""
    return forced() or (on_device(database) and usable())


def check_device_codes(codes: DeviceArray, name: str, bits: int | None) -> None:
    """As `check_codes`, for codes on a device."""
    check_layout(str(codes.dtype), codes.shape, name, bits)
    if bits is None or bits % 8 == 0:
        return
    room = empty((1,), np.int64, codes, f"the check of {name}")
    row = _native.cuda().cuda_first_spare(
        codes.device, codes.stream, codes.pointer, *codes.shape, bits, room.pointer
    )
    if row >= 0:
        raise spare_error(name, bits, row)


def target_of(
    database: Any, allow: Any, name: str, bits: int | None = None, device: int = 0
) -> Target:
    """An array to search, on its device. One that is in main memory is uploaded to `device`, or
    streamed through it by each search if there is no room for it."""
    if on_device(database):
        codes = describe(database, name)
        check_device_codes(codes, name, bits)
    else:
        array = check_codes(as_numpy(database, name)[0], name, bits)
        try:
            codes = upload(array, device, f"the {array.shape[0]:,} codes of {name}")
        except MemoryError:
            return _streamed(array, allow, device)
    rows, width = codes.shape
    bitset = allow_words(allow, rows)
    words = None if bitset is None else upload(bitset, codes.device, "the bits of allow")
    span = (codes.pointer, words.pointer if words else 0, rows, False)
    return Target([span], codes.device, codes.stream, width, None, (codes, words))


def _streamed(array: NDArray[np.uint8], allow: Any, device: int) -> Target:
    """An array in main memory that stays there."""
    words = allow_words(allow, array.shape[0])
    span = (array.ctypes.data, 0 if words is None else words.ctypes.data, array.shape[0], True)
    return Target([span], device, 0, array.shape[1], None, (array, words))


def ask(queries: Any, target: Target, bits: int | None, name: str = "queries") -> Asked:
    """Queries where the search runs."""
    if on_device(queries):
        codes = describe(queries, name)
        if codes.device == target.device:
            check_device_codes(codes, name, bits)
            _check_width(codes.shape, target.width)
            if codes.stream != target.stream:  # both must be ready on one stream
                _native.cuda().cuda_wait(target.device, target.stream)
            return Asked(codes, None)
        if codes.library != "torch":
            raise ValueError(
                f"{name} must be on cuda:{target.device} as the codes are, they are on "
                f"cuda:{codes.device}"
            )
    array, restore = as_numpy(queries, name)
    array = check_codes(array, name, bits)
    _check_width(array.shape, target.width)
    codes = upload(array, target.device, f"{array.shape[0]:,} {name}")
    # uploads have been waited for; what is pending is on the stream of the codes
    _native.cuda().cuda_wait(target.device, target.stream)
    return Asked(codes, restore)


def _check_width(shape: tuple[int, ...], width: int) -> None:
    if shape[1] != width:
        raise ValueError(
            f"database and queries must be codes of one length, got {width} and {shape[1]} bytes a "
            "code"
        )


def topk(target: Target, asked: Asked, k: int) -> tuple[Any, Any]:
    """(distances, ids) as the caller of a search gets them; k was checked.

    Raises:
        ValueError: more neighbours are asked for than the device selects.
        MemoryError: the device has not enough memory; the message says how much is needed.
    """
    queries = asked.codes
    count = queries.shape[0]
    most = _native.cuda().cuda_most_neighbours()
    wanted = min(k, target.rows)
    if wanted > most:
        raise ValueError(
            f'k must be at most {most} on a CUDA device, got {k}: use range_search, or device="cpu"'
        )
    what = f"{count:,} results of {k} neighbours"
    distances = empty((count, k), np.int32, queries, what)
    places = empty((count, k), np.int64, queries, what)
    # fewer rows than k: the search is for all of them, and the rest is filled in
    full = wanted == k
    found = (distances, places) if full else (
        empty((count, wanted), np.int32, queries, what),
        empty((count, wanted), np.int64, queries, what),
    )  # fmt: skip
    sizes = _native.cuda().cuda_topk_workspace(max(1, count), target.width, wanted, target.streamed)
    call, _workspace = _call(target, queries, sizes, f"the search for {wanted} neighbours")
    _native.cuda().cuda_topk(
        target.spans, target.width, queries.pointer, count, wanted, call, found[0].pointer,
        found[1].pointer,
    )  # fmt: skip
    if not full:
        _pad(found[0], distances, np.iinfo(np.int32).max)
        _pad(found[1], places, -1)
    _rename(target, places)
    return asked.give(distances), asked.give(places)


def range_search(
    target: Target, asked: Asked, radius: int, admit: Callable[[int], None]
) -> tuple[Any, Any, Any]:
    """(limits, distances, ids) as the caller of a search gets them; radius was checked.

    Raises:
        MemoryError: the device has not enough memory; the message says how much is needed.
    """
    queries = asked.codes
    count = queries.shape[0]
    library = _native.cuda()
    sizes = library.cuda_range_workspace(max(1, count), target.width, target.streamed)
    call, _workspace = _call(target, queries, sizes, "the search within a radius")
    asks = (target.spans, target.width, queries.pointer, count, radius, call)
    counts = library.cuda_range_count(*asks)
    limits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    results = int(limits[-1])
    what = f"the {results:,} codes within radius {radius} of {count:,} queries"
    if asked.to_host is not None:
        admit(results)
    distances = empty((results,), np.int32, queries, what)
    places = empty((results,), np.int64, queries, what)
    keys = empty((results,), np.int64, queries, what)
    library.cuda_range_fill(*asks, limits, keys.pointer, distances.pointer, places.pointer)
    _rename(target, places)
    if asked.to_host is not None:
        return asked.to_host(limits), asked.give(distances), asked.give(places)
    shown = empty(limits.shape, np.int64, queries, what)
    library.cuda_wait(target.device, queries.stream)  # memory that is used again may have work left
    library.cuda_upload(target.device, shown.pointer, limits)
    return asked.give(shown), asked.give(distances), asked.give(places)


def histogram(target: Target, asked: Asked, bins: int, labels: Any) -> tuple[Any, Any]:
    """(total, relevant or None); labels are checked ones of `coophash._labels`, or None."""
    queries = asked.codes
    count = queries.shape[0]
    library = _native.cuda()
    grades, given, keep = 1, None, None
    if labels is not None:
        classes, words, grades = labels.native()
        keep = [upload(a, target.device, "labels") for a in (classes or words)]
        rows, query = (array.pointer for array in keep)
        number = 0 if words is None else words[0].shape[0]
        pair = (rows, query, 0, 0) if words is None else (0, 0, rows, query)
        given = (*pair, number, grades, target.rows)
    what = f"{count:,} histograms of {bins} distances"
    total = empty((count, bins), np.int64, queries, what)
    shape = (count, bins) if grades <= 2 else (count, bins, grades - 1)
    relevant = empty(shape, np.int64, queries, what) if given else None
    sizes = library.cuda_histogram_workspace(max(1, count), target.width, target.streamed)
    call, _workspace = _call(target, queries, sizes, "the histograms")
    library.cuda_histogram(
        target.spans, target.width, queries.pointer, count, given, bins, call, total.pointer,
        relevant.pointer if relevant else 0,
    )  # fmt: skip
    del keep
    return asked.give(total), asked.give(relevant) if relevant else None


def distances(a: Any, b: Any) -> Any:
    """All distances, int32 (N, M), for `a` on a device, where the result is, too.

    Raises:
        MemoryError: the device has not enough memory; the message says how much is needed.
    """
    first = describe(a, "a") if on_device(a) else None
    target = target_of(b, None, "b", None, 0 if first is None else first.device)
    asked = ask(a, target, None, "a")
    queries = asked.codes
    shape = (queries.shape[0], target.rows)
    what = f"{shape[0]:,} x {shape[1]:,} distances"
    if asked.to_host is not None:
        check_memory(4 * shape[0] * shape[1], what)
    out = empty(shape, np.int32, queries, what)
    library = _native.cuda()
    sizes = library.cuda_distances_workspace(max(1, shape[0]), target.width, target.streamed)
    call, _workspace = _call(target, queries, sizes, "all distances")
    library.cuda_distances(target.spans, target.width, queries.pointer, shape[0], call, out.pointer)
    return asked.give(out)


def _call(
    target: Target, queries: DeviceArray, sizes: tuple[int, int], what: str
) -> tuple[tuple[Any, ...], DeviceArray]:
    """How the extension is called, and the workspace that must live until it returns."""
    wanted, least = sizes
    try:
        workspace = empty((wanted,), np.uint8, queries, what)
    except MemoryError:
        if least == wanted:
            raise
        try:
            workspace = empty((least,), np.uint8, queries, what)
        except MemoryError as error:
            raise out_of_memory(target.device, least, what) from error
    threads = _native.check_threads(None)
    call = (
        *(target.device, queries.stream, workspace.pointer, workspace.nbytes),
        *(path, threads, chunk_bytes),
    )
    return call, workspace


def _pad(narrow: DeviceArray, wide: DeviceArray, value: int) -> None:
    """Rows of `narrow` into those of `wide`, `value` behind them."""
    array = np.full(wide.shape, value, wide.dtype)
    array[:, : narrow.shape[1]] = narrow.numpy()
    _native.cuda().cuda_upload(wide.device, wide.pointer, array)


def _rename(target: Target, places: DeviceArray) -> None:
    """Places to ids, where they differ."""
    if target.identify is None:
        return
    array = places.numpy()
    there = array >= 0
    array[there] = target.identify(array[there])
    _native.cuda().cuda_upload(target.device, places.pointer, array)
