"""Multi-index hashing for HammingIndex: which rows have tables, and when tables are built.

Tables never change, so added rows go without at first: they are searched flat, beside the tables,
and what is found is merged. Once they are a sixteenth of the rows, or 65,536 if that is more, they
get tables of their own, a new *level*; a level that has grown to a quarter of the one before it is
merged with it, in one build. So there are few levels, and a row takes part in few builds: together
they cost a small multiple of building once.

Removed rows are skipped as a flat search skips them, by the bitset of rows that count. All tables
are built again without them once half the rows that are in tables were removed.

Everything is built by the search that finds it due. Other searches do not wait for it: they go on
with the tables there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coophash import _memory, _native
from coophash._rows import Rows, Span

MIN_ROWS = 1 << 16  # fewer are searched flat in some microseconds
MAX_ROWS = 1 << 31  # of a level: row numbers in tables have 32 bits


class Snapshot(NamedTuple):
    """What a search that began at some moment reads.

    Attributes:
        spans: the rows that count, for the extension.
        increasing: whether ids grow from row to row.
        ends: the place behind the last row of each run of rows.
        growing: whether the last run can grow, so that its end may come to lie inside of it.
        removals: how many rows had been removed ever.
        moved: for each time that rows were dropped for good the first place that has another row
            since. Only grows; the first `moves` entries are those of this moment.
        moves: see `moved`.
        kept: as spans, with nothing left out but what was removed.
    """

    spans: list[Span]
    increasing: bool
    ends: list[int]
    growing: bool
    removals: int
    moved: list[int]
    moves: int
    kept: list[Span]

    @classmethod
    def of(cls, rows: Rows, spans: list[Span] | None) -> Snapshot:
        """Taken under the lock of the index; spans None for all rows."""
        kept = rows.spans()
        ends = np.cumsum([run.length for run in rows.runs], dtype=np.int64).tolist()
        growing = bool(rows.runs) and not rows.runs[-1].frozen
        state = rows.removals, rows.moved, len(rows.moved)
        return cls(spans or kept, rows.increasing, ends, growing, *state, kept)

    def last_place(self) -> int:
        """Where tables can end: behind a run that stays as it is, or at a word of its bitset."""
        if not self.ends:
            return 0
        begin = self.ends[-2] if len(self.ends) > 1 else 0
        return self.ends[-1] - (self.ends[-1] - begin) % 64 if self.growing else self.ends[-1]


class Level(NamedTuple):
    """Tables over the rows at places begin to end - 1."""

    begin: int
    end: int
    native: Any
    removals: int  # as in the snapshot that it was built from
    moves: int

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether it has the rows of the snapshot at its places, and all of them."""
        first, last = sorted((self.moves, snapshot.moves))
        return (
            self.end <= (snapshot.ends[-1] if snapshot.ends else 0)
            and self.removals <= snapshot.removals
            and all(self.end <= place for place in snapshot.moved[first:last])
        )


class MultiIndex:
    """The tables of one HammingIndex.

    Attributes:
        substrings: how many tables a level has; -1: as predicted costs say. For tests.
        scale: how much dearer than a flat search a query may become before it is given to one; inf:
            never given, 0: always. For tests.
        min_rows: the fewest rows to build tables for. For tests.
    """

    def __init__(self, bits: int, width: int) -> None:
        self.bits = bits
        self.width = width
        self.substrings = -1
        self.scale = 1.0
        self.min_rows = MIN_ROWS
        self._levels: tuple[Level, ...] = ()
        self._builds = 0
        self._counts = np.zeros(4, np.int64)
        self._building = threading.Lock()
        self._counting = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(level.native.info()["bytes"] for level in self._levels)

    def stats(self) -> dict[str, Any]:
        """What the searches did so far, for tests and benchmarks.

        Returns:
            queries, flat: how many there were, and how many the flat search answered.
            buckets, compared: what the others looked up, and the codes that were in it.
            builds: how often tables were built.
            levels: one dictionary each: begin, end, bytes, rows, groups (different codes),
                substrings (the bits of each; none: all groups are compared with).
        """
        names = ("queries", "flat", "buckets", "compared")
        with self._counting:
            counts = dict(zip(names, self._counts.tolist(), strict=True))
        levels = [
            {"begin": level.begin, "end": level.end, **level.native.info()}
            for level in self._levels
        ]
        return {**counts, "builds": self._builds, "levels": levels}

    def search(
        self, snapshot: Snapshot, queries: NDArray[np.uint8], k: int, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """As HammingIndex.search."""
        distances, ids, counts = _native.library().multi_topk(
            self._prepare(snapshot, threads),
            snapshot.spans,
            self.width,
            snapshot.increasing,
            queries,
            k,
            threads,
            _native.isa(),
            self.scale,
        )
        self._note(counts)
        return distances, ids

    def range_search(
        self,
        snapshot: Snapshot,
        queries: NDArray[np.uint8],
        radius: int,
        threads: int,
        admit: Callable[[int], None],
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """As HammingIndex.range_search."""
        limits, distances, ids, counts = _native.library().multi_range(
            self._prepare(snapshot, threads),
            snapshot.spans,
            self.width,
            snapshot.increasing,
            queries,
            radius,
            threads,
            _native.isa(),
            self.scale,
            admit,
        )
        self._note(counts)
        return limits, distances, ids

    def _note(self, counts: tuple[int, ...]) -> None:
        with self._counting:
            self._counts += counts

    def _prepare(self, snapshot: Snapshot, threads: int) -> list[Any]:
        """The tables for a snapshot, after building what is due."""
        if self._building.acquire(blocking=False):
            try:
                self._build(snapshot, threads)
            finally:
                self._building.release()
        return [level.native for level in self._levels if level.fits(snapshot)]

    def _build(self, snapshot: Snapshot, threads: int) -> None:
        levels = list(self._levels)
        state = snapshot.removals, snapshot.moves
        if any(level.removals > state[0] or level.moves > state[1] for level in levels):
            return  # the snapshot is older than the tables
        while levels and not levels[-1].fits(snapshot):
            levels.pop()
        indexed = sum(level.native.info()["rows"] for level in levels)
        gone = snapshot.removals - min((level.removals for level in levels), default=0)
        if levels and 2 * gone > indexed > 0:
            levels.clear()

        end = snapshot.last_place()
        covered = levels[-1].end if levels else 0
        if end - covered < max(self.min_rows, covered // 16, 1):
            self._levels = tuple(levels)
            return
        begin = covered
        while levels and 4 * (end - begin) > begin - levels[-1].begin:
            if end - levels[-1].begin > MAX_ROWS:
                break
            begin = levels.pop().begin
        _check_memory(end - begin)
        for at in range(begin, end, MAX_ROWS):
            until = min(end, at + MAX_ROWS)
            native = _native.library().multi_build(
                snapshot.kept,
                self.width,
                snapshot.increasing,
                at,
                until,
                self.bits,
                self.substrings,
                threads,
                _native.isa(),
            )
            levels.append(Level(at, until, native, *state))
        self._builds += 1
        self._levels = tuple(levels)


def _check_memory(rows: int) -> None:
    """Refuse to build what there is no memory for, before the system ends the process."""
    size = 48 * rows  # codes and row numbers being sorted, and the tables
    available = _memory.available_memory()
    if available is not None and size > max(available, 1 << 20):
        raise MemoryError(
            f"building the tables of {rows:,} codes takes up to {size / 1e9:.2g} GB and this "
            f'machine has {available / 1e9:.2g} GB free: use method="flat"'
        )
