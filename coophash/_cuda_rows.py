"""The rows of an index in the memory of a CUDA device.

The index keeps its rows in main memory or in files, as every index does; the device has a copy of
the codes. A search brings it up to date first: what was added since is uploaded, what was dropped
for good is cut off. Rows lie on the device in the order of their ids, so that that of places is the
same. Codes that do not fit stay where they are and are streamed through the device by each
search.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coophash import _native
from coophash._cuda import DeviceSpan, Identify, Target
from coophash._device_arrays import DeviceArray, upload
from coophash._mih import Snapshot
from coophash._rows import Span, from_bitset, to_bitset

_WORD = 64


class _Segment(NamedTuple):
    """Codes of the rows at places begin to end - 1, on the device."""

    begin: int
    end: int
    memory: Any


class _Order(NamedTuple):
    """Rows of an index whose ids do not grow from row to row, sorted by id.

    Attributes:
        key: what they were sorted at: how many rows, and how often rows had been dropped.
        places: int64 (rows,), where they stand in the index.
        codes: uint8 (rows, width), in the order of ids.
    """

    key: tuple[int, int]
    places: NDArray[np.int64]
    codes: NDArray[np.uint8]


class DeviceRows:
    """The copy of one index on one device.

    Attributes:
        budget: bytes of codes to hold at the most; None for what is free, less an eighth of the
            device's memory or 1 GB, whichever is less, for searches to work in.
    """

    def __init__(self, device: int, width: int) -> None:
        self.device = device
        self.width = width
        self.budget: int | None = None
        self._segments: list[_Segment] = []
        self._moves = 0  # how often rows had been dropped when the segments were made
        self._order: _Order | None = None  # that the segments are in
        self._alive: tuple[tuple[int, ...], list[DeviceArray | None]] | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return sum(segment.memory.bytes for segment in self._segments)

    def target(self, snapshot: Snapshot) -> Target:
        """What a search of a snapshot looks at, after the copy was brought up to date."""
        with self._lock:
            if snapshot.moves < self._moves:  # older than the copy: search it where it lies
                return self._make_target(snapshot, self._sorted(snapshot), [])
            order = self._sorted(snapshot)
            if order is not self._order:
                self._order = order
                self._segments.clear()
            self._update(snapshot, order)
            return self._make_target(snapshot, order, list(self._segments))

    def _sorted(self, snapshot: Snapshot) -> _Order | None:
        """The rows of a snapshot in the order of ids; None if they are."""
        if snapshot.increasing:
            return None
        key = (snapshot.ends[-1] if snapshot.ends else 0, snapshot.moves)
        if self._order is not None and self._order.key == key:
            return self._order
        ids = np.concatenate([np.empty(0, np.int64), *(_ids(span) for span in snapshot.kept)])
        places = np.argsort(ids, kind="stable")
        codes = [np.empty((0, self.width), np.uint8), *(span[0] for span in snapshot.kept)]
        return _Order(key, places, np.concatenate(codes)[places])

    def _update(self, snapshot: Snapshot, order: _Order | None) -> None:
        """Bring the segments up to date with a snapshot that is not older than they are."""
        rows = snapshot.ends[-1] if snapshot.ends else 0
        valid = rows
        if order is None:
            valid = min([rows, *snapshot.moved[self._moves : snapshot.moves]])
        self._moves = snapshot.moves
        held = self._segments[-1].end if self._segments else 0
        if held > valid and valid < rows:  # rows were dropped: what stands behind is another one
            while self._segments and self._segments[-1].begin >= valid:
                self._segments.pop()
            if self._segments and self._segments[-1].end > valid:
                self._segments[-1] = self._segments[-1]._replace(end=valid)
        begin = self._segments[-1].end if self._segments else 0
        while begin < rows:
            if order is None:
                run, start = _run_at(snapshot, begin)
                end, codes = snapshot.ends[run], snapshot.kept[run][0]
            else:
                start, end, codes = 0, rows, order.codes
            fitting = begin + self._room() // self.width
            if fitting < end:  # what is streamed begins at a word of its run's filter
                end = start + (fitting - start) // _WORD * _WORD
            if end <= begin:
                return
            self._append(begin, end, codes[begin - start : end - start])
            begin = end

    def _room(self) -> int:
        """Bytes of codes that may still be uploaded."""
        if self.budget is not None:
            return max(0, self.budget - self.nbytes)
        free, total = _native.cuda().cuda_memory(self.device)
        return max(0, int(free) - min(int(total) // 8, 10**9))

    def _append(self, begin: int, end: int, codes: NDArray[np.uint8]) -> None:
        """Upload rows; a segment that is no longer than what follows it is merged with that."""
        library = _native.cuda()
        first = len(self._segments)
        while (
            first and end - begin >= self._segments[first - 1].end - self._segments[first - 1].begin
        ):
            first -= 1
            begin = self._segments[first].begin
        merged = self._segments[first:]
        try:
            memory = library.CudaMemory(self.device, (end - begin) * self.width)
        except MemoryError:  # to merge takes both at once
            begin, merged = end - len(codes), []
            memory = upload(codes, self.device, f"{len(codes):,} codes").owner
            self._segments.append(_Segment(begin, end, memory))
            return
        for segment in merged:
            size = (segment.end - segment.begin) * self.width
            at = memory.pointer + (segment.begin - begin) * self.width
            library.cuda_copy(self.device, at, segment.memory.pointer, size)
        at = memory.pointer + (end - begin - len(codes)) * self.width
        library.cuda_upload(self.device, at, np.ascontiguousarray(codes))
        self._segments[len(self._segments) - len(merged) :] = [_Segment(begin, end, memory)]

    def _make_target(
        self, snapshot: Snapshot, order: _Order | None, segments: list[_Segment]
    ) -> Target:
        rows = snapshot.ends[-1] if snapshot.ends else 0
        segments = [s._replace(end=min(s.end, rows)) for s in segments if s.begin < rows]
        keep: list[Any] = [segments]
        spans: list[DeviceSpan] = []
        words = self._words(snapshot, order, segments)
        for segment, word in zip(segments, words, strict=True):
            keep.append(word)
            pointer = word.pointer if word is not None else 0
            spans.append((segment.memory.pointer, pointer, segment.end - segment.begin, False))
        begin = segments[-1].end if segments else 0
        while begin < rows:
            if order is None:
                run, start = _run_at(snapshot, begin)
                end, codes, full = snapshot.ends[run], *snapshot.spans[run][::3]
                host = None if full is None else full[(begin - start) // _WORD :]
                if host is not None and (begin - start) % _WORD:
                    host = _some_words(snapshot, order, begin, end)
            else:
                start, end, codes = 0, rows, order.codes
                host = _some_words(snapshot, order, begin, end) if _filtered(snapshot) else None
            codes = np.ascontiguousarray(codes[begin - start : end - start])
            host = None if host is None else np.ascontiguousarray(host)
            keep += [codes, host]
            pointer = 0 if host is None else host.ctypes.data
            spans.append((codes.ctypes.data, pointer, end - begin, True))
            begin = end
        return Target(spans, self.device, 0, self.width, _identify(snapshot, order), keep)

    def _words(
        self, snapshot: Snapshot, order: _Order | None, segments: list[_Segment]
    ) -> list[DeviceArray | None]:
        """The filters of segments on the device. That of removed rows alone is kept for later."""
        if not _filtered(snapshot):
            return [None] * len(segments)
        plain = snapshot.spans is snapshot.kept
        key = (snapshot.removals, snapshot.moves, *(s.begin for s in segments),
               *(s.end for s in segments))  # fmt: skip
        if plain and self._alive is not None and self._alive[0] == key:
            return self._alive[1]
        found: list[DeviceArray | None] = [
            upload(
                _some_words(snapshot, order, segment.begin, segment.end),
                self.device,
                f"the filter of {segment.end - segment.begin:,} codes",
            )
            for segment in segments
        ]
        if plain:
            self._alive = key, found
        return found


def _filtered(snapshot: Snapshot) -> bool:
    """Whether any rows are left out."""
    return any(span[3] is not None for span in snapshot.spans)


def _ids(span: Span) -> NDArray[np.int64]:
    codes, ids, first_id, _ = span
    return np.arange(first_id, first_id + len(codes), dtype=np.int64) if ids is None else ids


def _run_at(snapshot: Snapshot, place: int) -> tuple[int, int]:
    """The run that has a place, and the place of its first row."""
    run = int(np.searchsorted(snapshot.ends, place, side="right"))
    return run, snapshot.ends[run - 1] if run else 0


def _some_words(
    snapshot: Snapshot, order: _Order | None, begin: int, end: int
) -> NDArray[np.uint64]:
    """The filter of the rows at places begin to end - 1 (of the order, if there is one)."""
    masks = []
    start = 0
    for codes, _, _, words in snapshot.spans:
        stop = start + len(codes)
        if order is None and start == begin and words is not None and end <= stop:
            used = words[: (end - begin + _WORD - 1) // _WORD]
            if end == stop:
                return used
        if order is not None or (start < end and begin < stop):
            mask = (
                np.ones(len(codes), np.bool_) if words is None else from_bitset(words, len(codes))
            )
            first = 0 if order is not None else max(0, begin - start)
            last = len(codes) if order is not None else end - start
            masks.append(mask[first:last])
        start = stop
    whole = np.concatenate([np.empty(0, np.bool_), *masks])
    return to_bitset(whole if order is None else whole[order.places[begin:end]])


def _identify(snapshot: Snapshot, order: _Order | None) -> Identify | None:
    """Ids of places; None where these are the same."""
    ends = np.array(snapshot.ends, np.int64)
    starts = np.concatenate([[0], ends])
    plain = order is None and all(
        span[1] is None and span[2] == start
        for span, start in zip(snapshot.kept, starts, strict=False)
    )
    if plain:
        return None
    runs = list(snapshot.kept)
    places_of = None if order is None else order.places

    def identify(places: NDArray[np.int64]) -> NDArray[np.int64]:
        at = places if places_of is None else places_of[places]
        ids = np.empty(at.shape, np.int64)
        run_of = np.searchsorted(ends, at, side="right")
        for number in np.unique(run_of):
            here = run_of == number
            local = at[here] - starts[number]
            _, own, first_id, _ = runs[number]
            ids[here] = first_id + local if own is None else own[local]
        return ids

    return identify
