"""The rows of an index: codes and ids in a few runs of memory, what was removed, and look-up by id.

A run is either as it was read from disk and never changes, or the last one, which grows. Removing
marks rows; the marks are the bitset that the scan skips by. Arrays given to a search are never
written to afterwards where the search reads them, so searches need no lock; nor does who reads a
`snapshot`.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ID = (1 << 63) - 2

Span = tuple[NDArray[np.uint8], NDArray[np.int64] | None, int, NDArray[np.uint64] | None]


class Source(NamedTuple):
    """The file that an array is mapped from, and was not checked against.

    Attributes:
        file: its name, for messages.
        head: what stands before the array.
        crc32: of head and array.
    """

    file: str
    head: bytes
    crc32: int


class Run(NamedTuple):
    """Rows that lie together in memory.

    Attributes:
        codes: uint8 (capacity, width); rows from `length` on are room to grow.
        ids: int64 (capacity,), or None: row r has the id first_id + r.
        first_id: used where ids is None.
        length: rows in use.
        alive: uint64 (ceil(length / 64),), bit r % 64 of word r // 64 is set if row r was not
            removed; None if no row was.
        frozen: whether codes and ids belong to someone else (a file) and must not be written to.
        codes_from, ids_from: the files that codes and ids are mapped from; None for memory.
    """

    codes: NDArray[np.uint8]
    ids: NDArray[np.int64] | None
    first_id: int
    length: int
    alive: NDArray[np.uint64] | None
    frozen: bool
    codes_from: Source | None = None
    ids_from: Source | None = None

    def all_ids(self) -> NDArray[np.int64]:
        """The ids of all rows, removed ones among them."""
        if self.ids is None:
            return np.arange(self.first_id, self.first_id + self.length, dtype=np.int64)
        return self.ids[: self.length]

    def alive_mask(self) -> NDArray[np.bool_]:
        """Which rows were not removed, bool (length,)."""
        if self.alive is None:
            return np.ones(self.length, np.bool_)
        return from_bitset(self.alive, self.length)


def to_bitset(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """A mask as uint64 words, bit r % 64 of word r // 64; bits past the end are 0."""
    words = np.zeros((mask.size + 63) // 64, "<u8")
    packed = np.packbits(mask, bitorder="little")
    words.view(np.uint8)[: packed.size] = packed
    return words.astype(np.uint64, copy=False)


def bitset_of(rows: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """The same of row numbers 0 to count - 1, in any order, some perhaps more than once."""
    if rows.size > count // 128:  # setting bits one by one takes longer than packing a mask
        mask = np.zeros(count, np.bool_)
        mask[rows] = True
        return to_bitset(mask)
    words = np.zeros((count + 63) // 64, "<u8")
    bits = np.left_shift(np.uint8(1), (rows & 7).astype(np.uint8))
    np.bitwise_or.at(words.view(np.uint8), rows >> 3, bits)
    return words.astype(np.uint64, copy=False)


def from_bitset(words: NDArray[np.uint64], count: int) -> NDArray[np.bool_]:
    """The inverse of `to_bitset`."""
    octets = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, count=count, bitorder="little").view(np.bool_)


class Rows:
    """Codes with ids. Arguments are checked here where that needs what is stored, else before."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.runs: list[Run] = []
        self.next_id = 0  # above every id ever given
        self.increasing = True  # ids grow from row to row, over all runs
        self.removed = 0  # rows marked as removed
        self.removals = 0  # rows ever removed, dropped ones among them
        self.moved: list[int] = []  # for each time that rows were dropped: the first place affected
        self.retired = np.empty(0, np.int64)  # sorted ids whose rows are gone for good
        self._sorted: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return sum(run.length for run in self.runs) - self.removed

    def snapshot(self) -> Rows:
        """These rows as they are now, to be read only: they share memory with what comes later."""
        same = copy.copy(self)
        same.runs, same.moved = self.runs.copy(), self.moved.copy()
        return same

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids of the rows there are, int64 (len,), in order of arrival."""
        parts = [
            run.all_ids() if run.alive is None else run.all_ids()[run.alive_mask()]
            for run in self.runs
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, room to grow included; files that are mapped count too."""
        arrays = [a for run in self.runs for a in (run.codes, run.ids, run.alive)]
        return sum(a.nbytes for a in (*arrays, self.retired) if a is not None)

    def append(self, codes: NDArray[np.uint8], ids: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Add rows and return their ids; new ones for `ids` None."""
        count = codes.shape[0]
        if ids is None:
            if count > MAX_ID + 1 - self.next_id:
                raise ValueError(
                    f"ids are used up to {self.next_id - 1}, no room for {count} more: give ids"
                )
            assigned = np.arange(self.next_id, self.next_id + count, dtype=np.int64)
        else:
            assigned = ids
            self._check_new(assigned)
        if count == 0:
            return assigned
        ordered = bool(assigned[0] >= self.next_id and (np.diff(assigned) > 0).all())
        consecutive = ordered and int(assigned[-1] - assigned[0]) == count - 1
        start = sum(run.length for run in self.runs)
        self._grow(codes, assigned, consecutive)
        self._merge_sorted(assigned, start)
        self.increasing = self.increasing and ordered
        self.next_id = max(self.next_id, int(assigned.max()) + 1)
        return assigned

    def attach(
        self,
        codes: NDArray[np.uint8],
        ids: NDArray[np.int64] | None,
        first_id: int,
        last_id: int,
        increasing: bool,
        codes_from: Source | None = None,
        ids_from: Source | None = None,
    ) -> None:
        """Add a run of rows that is used where it lies, such as a mapped file.

        Args:
            codes: (length, width), not empty.
            ids: (length,), or None: row r has the id first_id + r.
            first_id: the id of the first row.
            last_id: the largest id.
            increasing: whether ids grow from row to row.
            codes_from, ids_from: see `Run`.
        """
        self.runs.append(
            Run(codes, ids, first_id, codes.shape[0], None, True, codes_from, ids_from)
        )
        self.increasing = self.increasing and increasing and first_id >= self.next_id
        self.next_id = max(self.next_id, last_id + 1)
        self._sorted = None

    def all_removed(self) -> NDArray[np.int64]:
        """The ids that were removed, sorted."""
        marked = [run.all_ids()[~run.alive_mask()] for run in self.runs if run.alive is not None]
        return np.unique(np.concatenate([self.retired, *marked]))

    def locate(self, ids: NDArray[np.int64], removed: bool = False) -> NDArray[np.int64]:
        """The place of each id, counted over all runs, or -1 if no row has it.

        Args:
            removed: whether to find rows that were removed, too.
        """
        places = np.full(ids.shape, -1, np.int64)
        if self.increasing:
            start = 0
            for run in self.runs:
                places = np.where(places < 0, _find_increasing(run, ids, start), places)
                start += run.length
        else:
            keys, order = self._lookup()
            if keys.size:
                at = np.minimum(np.searchsorted(keys, ids), keys.size - 1)
                places = np.where(keys[at] == ids, order[at], -1)
        return places if removed else self._alive_only(places)

    def take(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The codes at places that `locate` gave."""
        codes = np.empty((places.size, self.width), np.uint8)
        start = 0
        for run in self.runs:
            here = (places >= start) & (places < start + run.length)
            codes[here] = run.codes[places[here] - start]
            start += run.length
        return codes

    def remove(self, places: NDArray[np.int64]) -> None:
        """Mark rows, given by different places, as removed."""
        start = 0
        for i, run in enumerate(self.runs):
            local = places[(places >= start) & (places < start + run.length)] - start
            start += run.length
            if local.size:
                # a copy: a search that is under way goes on with the old marks
                alive = to_bitset(run.alive_mask()) if run.alive is None else run.alive.copy()
                bits = np.left_shift(np.uint64(1), (local % 64).astype(np.uint64))
                np.bitwise_and.at(alive, local // 64, ~bits)
                self.runs[i] = run._replace(alive=alive)
        self.removed += places.size
        self.removals += places.size
        self._compact()

    def spans(
        self, allow: NDArray[np.bool_] | None = None, places: NDArray[np.int64] | None = None
    ) -> list[Span]:
        """What the extension searches.

        Args:
            allow: rows that count, bool, by order among the rows there are; None for all.
            places: the places of the rows that count, and perhaps of others that were removed;
                None for all.
        """
        spans: list[Span] = []
        start = 0
        for run in self.runs:
            alive = run.alive
            if allow is not None:
                mask = allow[start:]
                if alive is None:
                    alive = to_bitset(mask[: run.length])
                    start += run.length
                else:
                    there = np.flatnonzero(run.alive_mask())
                    alive = bitset_of(there[mask[: there.size]], run.length)
                    start += there.size
            elif places is not None:
                here = places[(places >= start) & (places < start + run.length)] - start
                some = bitset_of(here, run.length)
                alive = some if alive is None else some & alive
                start += run.length
            ids = None if run.ids is None else run.ids[: run.length]
            spans.append((run.codes[: run.length], ids, run.first_id, alive))
        return spans

    def _check_new(self, ids: NDArray[np.int64]) -> None:
        unique, counts = np.unique(ids, return_counts=True)
        if unique.size != ids.size:
            raise ValueError(f"ids must differ, {unique[counts > 1][0]} is given more than once")
        if unique.size and (unique[0] < 0 or unique[-1] > MAX_ID):
            raise ValueError(f"ids must be 0 to {MAX_ID}, got {unique[0]} to {unique[-1]}")
        if unique.size == 0 or unique[0] >= self.next_id:
            return
        known = (self.locate(unique, removed=True) >= 0) | np.isin(unique, self.retired)
        if known.any():
            clash = unique[known][:1]
            live = self.locate(clash)[0] >= 0
            state = "is in the index" if live else "was removed, and an id is never used again"
            raise ValueError(f"ids must be new, {clash[0]} {state}")

    def _grow(self, codes: NDArray[np.uint8], ids: NDArray[np.int64], consecutive: bool) -> None:
        count = codes.shape[0]
        if not self.runs or self.runs[-1].frozen:
            implicit = None if consecutive else ids.copy()
            self.runs.append(Run(codes.copy(), implicit, int(ids[0]), count, None, False))
            return
        run = self.runs[-1]
        total = run.length + count
        old_ids = run.ids
        if old_ids is None and not (consecutive and ids[0] == run.first_id + run.length):
            old_ids = np.empty(run.codes.shape[0], np.int64)
            old_ids[: run.length] = run.all_ids()
        buffer = run.codes
        if total > buffer.shape[0]:
            capacity = max(total, buffer.shape[0] * 3 // 2, 64)
            buffer = _enlarged(buffer, run.length, capacity)
            old_ids = None if old_ids is None else _enlarged(old_ids, run.length, capacity)
        buffer[run.length : total] = codes
        if old_ids is not None:
            old_ids[run.length : total] = ids
        alive = run.alive
        if alive is not None:
            alive = to_bitset(np.concatenate([run.alive_mask(), np.ones(count, np.bool_)]))
        self.runs[-1] = Run(buffer, old_ids, run.first_id, total, alive, False)

    def _compact(self) -> None:
        """Drop removed rows from the last run once they are the greater part of it."""
        if not self.runs or self.runs[-1].frozen:
            return
        run = self.runs[-1]
        alive = run.alive_mask()
        dead = run.length - int(np.count_nonzero(alive))
        if 2 * dead <= run.length:
            return
        ids = run.all_ids()
        self.retired = np.union1d(self.retired, ids[~alive])
        self.runs.pop()
        self.moved.append(sum(kept.length for kept in self.runs))
        if dead < run.length:
            codes = run.codes[: run.length][alive]
            self.runs.append(Run(codes, ids[alive], 0, run.length - dead, None, False))
        self.removed -= dead
        self._sorted = None

    def _alive_only(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        start = 0
        for run in self.runs:
            if run.alive is not None:
                here = np.flatnonzero((places >= start) & (places < start + run.length))
                local = places[here] - start
                bits = run.alive[local // 64] >> (local % 64).astype(np.uint64)
                places[here[(bits & np.uint64(1)) == 0]] = -1
            start += run.length
        return places

    def _lookup(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All ids sorted, and their places."""
        if self._sorted is None:
            ids = np.concatenate([np.empty(0, np.int64), *(run.all_ids() for run in self.runs)])
            order = np.argsort(ids, kind="stable")
            self._sorted = ids[order], order
        return self._sorted

    def _merge_sorted(self, ids: NDArray[np.int64], start: int) -> None:
        """Keep the look-up, once there is one, as rows with these ids are added at `start`."""
        if self._sorted is not None:
            keys, order = self._sorted
            by_id = np.argsort(ids, kind="stable")
            at = np.searchsorted(keys, ids[by_id])
            self._sorted = np.insert(keys, at, ids[by_id]), np.insert(order, at, start + by_id)


def _find_increasing(run: Run, ids: NDArray[np.int64], start: int) -> Any:
    if run.ids is None:
        local = ids - run.first_id
        return np.where((local >= 0) & (local < run.length), local + start, -1)
    keys = run.ids[: run.length]
    at = np.minimum(np.searchsorted(keys, ids), run.length - 1)
    return np.where(keys[at] == ids, at + start, -1)


def _enlarged(array: Any, count: int, capacity: int) -> Any:
    bigger = np.empty((capacity, *array.shape[1:]), array.dtype)
    bigger[:count] = array[:count]
    return bigger
