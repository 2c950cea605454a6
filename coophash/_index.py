"""The index: codes with ids that are added, searched and removed. Public in coophash.search."""

from __future__ import annotations

import os
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coophash import _cuda, _native
from coophash._arguments import (
    admit_range,
    check_allow,
    check_choice,
    check_device,
    check_ids,
    check_k,
    check_mask,
    check_radius,
)
from coophash._cuda_rows import DeviceRows
from coophash._mih import MultiIndex, Snapshot
from coophash._rows import Rows
from coophash.codes import as_numpy, check_bits, check_codes, width_of

Method = Literal["flat", "mih"]


class HammingIndex:
    """Codes of one length with ids, searched exactly.

    Searches may run at once in several Python threads, and beside one that adds or removes: a
    search sees the index as it was when it began, and so does a save. The GIL is released while the
    codes are scanned.

    **When to use "mih".** For codes of 32 to some 128 bits, from about 100,000 of them on, where
    neighbours are near: learned codes, or any if there are millions and k is small. It is many
    times faster than "flat" for single queries and for clustered codes, and where many codes are
    equal, since equal codes are looked at once. Queries for which its proof would cost more than a
    flat search, such as those of long codes with no near neighbour, and those with a filter that
    leaves few codes, are answered by a flat search; so it is never much slower.

    Its tables take memory: at 64 bits about 28 bytes a code, and the codes 8 more; 4 bytes for each
    code that equals another (`nbytes` and `repr` tell). The first search builds them, and searches
    after many codes were added: some 2 seconds for 10 million codes on two cores, and half as much
    memory again while it lasts. Until then added codes are searched flat. Tables are not saved: the
    first search after `open` builds them again.

    Args:
        bits: length of a code, 1 to 4096.
        method: "flat" compares with every code. "mih", multi-index hashing, looks only at codes
            that agree with the query in most of some part of their bits, and stops when no other
            can be as near. Results are the same, bit for bit.
        device: "cpu", or "cuda" or "cuda:1" and so on for a GPU, with method "flat". The index
            stays in main memory or in its files, and the device has a copy of the codes; what does
            not fit there is streamed through it by each search. k is at most 16,384 then. Results
            are the same, bit for bit; they are where the queries are.
        threads: how many a search on the CPU uses; None for all cores.

    Raises:
        RuntimeError: there is no such device; the message says why.
    """

    def __init__(
        self,
        bits: int,
        method: Method = "flat",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._bits = check_bits(bits)
        check_choice("method", method, Method)
        number = check_device(device, method)
        _native.check_threads(threads)
        self._method = method
        self._device = device
        self.threads = threads
        self._rows = Rows(width_of(self._bits))
        self._tables = MultiIndex(self._bits, self._rows.width) if method == "mih" else None
        self._on_device = None if number is None else DeviceRows(number, self._rows.width)
        self._lock = threading.RLock()
        self._saving = threading.Lock()  # taken before the other

    @property
    def bits(self) -> int:
        """Length of a code."""
        return self._bits

    @property
    def width(self) -> int:
        """Bytes of a code."""
        return self._rows.width

    @property
    def method(self) -> str:
        """How it searches."""
        return self._method

    @property
    def device(self) -> str:
        """Where it searches."""
        return self._device

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids of all rows, int64 (len,), in order of arrival."""
        with self._lock:
            return self._rows.ids

    @property
    def nbytes(self) -> int:
        """Bytes held for codes, ids and the tables of "mih"; mapped files count as if in memory."""
        with self._lock:
            return self._rows.nbytes + (self._tables.nbytes if self._tables else 0)

    def __len__(self) -> int:
        with self._lock:
            return len(self._rows)

    def __contains__(self, id: object) -> bool:
        if isinstance(id, bool) or not isinstance(id, int | np.integer):
            return False
        if not 0 <= id < 1 << 63:
            return False
        with self._lock:
            return bool(self._rows.locate(np.array([id], np.int64))[0] >= 0)

    def __repr__(self) -> str:
        return (
            f"HammingIndex(bits={self._bits}, method={self._method!r}, device={self._device!r}, "
            f"threads={self.threads}): {len(self):,} codes, {self.nbytes / 1e6:,.1f} MB"
            f" ({self.nbytes / max(1, len(self)):.1f} bytes a code)"
        )

    def add(self, codes: Any, ids: Any = None) -> Any:
        """Add codes.

        Args:
            codes: uint8 (N, width). They are copied.
            ids: int64 (N,), 0 to 2^63 - 2, different from one another and from all ids that the
                index ever had; None to count on from the largest.

        Returns:
            The ids, int64 (N,), of the kind and on the device of `codes`.

        Raises:
            TypeError, ValueError: an argument is not what is expected. Then nothing was added.
        """
        array, restore = as_numpy(codes, "codes")
        array = check_codes(array, "codes", self._bits)
        given = None if ids is None else check_ids(ids, "ids")
        if given is not None and given.shape[0] != array.shape[0]:
            raise ValueError(
                f"ids must be as many as codes, got {given.shape[0]} ids for {array.shape[0]} codes"
            )
        with self._lock:
            return restore(self._rows.append(array, given))

    def search(self, queries: Any, k: int, allow: Any = None) -> tuple[Any, Any]:
        """The k nearest codes to each query.

        Args:
            queries: uint8 (Q, width).
            k: how many, >= 0; more than there are gives missing results.
            allow: codes that count: bool (len,), in the order of `index.ids`, or ids, of which
                those that are not in the index are passed over; None for all.

        Returns:
            distances: int32 (Q, k), ascending; 2147483647 where there is no code left.
            ids: int64 (Q, k), ascending where distances are equal; -1 where there is no code left.
        """
        if self._on_device:
            target = self._on_device.target(self._snapshot(allow))
            asked = _cuda.ask(queries, target, self._bits)
            k = check_k(k, asked.codes.shape[0], asked.to_host is not None)
            return _cuda.topk(target, asked, k)
        codes, restore = self._queries(queries)
        k = check_k(k, codes.shape[0])
        snapshot = self._snapshot(allow)
        if self._tables:
            found = self._tables.search(snapshot, codes, k, self._threads())
        else:
            found = _native.library().topk(
                snapshot.spans,
                self.width,
                snapshot.increasing,
                codes,
                k,
                self._threads(),
                _native.isa(),
            )
        return restore(found[0]), restore(found[1])

    def range_search(self, queries: Any, radius: int, allow: Any = None) -> tuple[Any, Any, Any]:
        """All codes within `radius` of each query.

        Args:
            queries: uint8 (Q, width).
            radius: the greatest distance that counts, >= 0.
            allow: as for `search`.

        Returns:
            limits: int64 (Q + 1,); what was found for query q is at limits[q] to limits[q + 1].
            distances: int32 (limits[Q],).
            ids: int64 (limits[Q],), by (distance, id) for each query.

        Raises:
            MemoryError: the results are more than there is memory for; the message says how many.
        """
        if self._on_device:
            target = self._on_device.target(self._snapshot(allow))
            asked = _cuda.ask(queries, target, self._bits)
            radius = check_radius(radius, self.width)
            admit = admit_range(radius, asked.codes.shape[0])
            return _cuda.range_search(target, asked, radius, admit)
        codes, restore = self._queries(queries)
        radius = check_radius(radius, self.width)
        snapshot = self._snapshot(allow)
        admit = admit_range(radius, len(codes))
        if self._tables:
            found = self._tables.range_search(snapshot, codes, radius, self._threads(), admit)
        else:
            found = _native.library().range(
                snapshot.spans,
                self.width,
                snapshot.increasing,
                codes,
                radius,
                self._threads(),
                _native.isa(),
                admit,
            )
        return restore(found[0]), restore(found[1]), restore(found[2])

    def remove(self, ids: Any) -> int:
        """Remove codes. Their ids are never used again.

        Args:
            ids: int64 (N,), each of them in the index; one that is given twice counts once.

        Returns:
            How many were removed.

        Raises:
            ValueError: an id is not in the index. Then nothing was removed.
        """
        unique = np.unique(check_ids(ids, "ids"))
        with self._lock:
            self._rows.remove(self._locate(unique))
        return int(unique.size)

    def get(self, ids: Any) -> Any:
        """The codes of ids: uint8 (N, width), of the kind and on the device of `ids`.

        Raises:
            ValueError: an id is not in the index.
        """
        wanted = check_ids(ids, "ids")
        restore = as_numpy(ids, "ids")[1]
        with self._lock:
            return restore(self._rows.take(self._locate(wanted)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder, see `coophash.store`.

        If the folder is an index already it is replaced in one step: killed at any moment, it opens
        as what it was before or as this index.

        Raises:
            FileExistsError: path is a file, or a folder with something else in it.
            ValueError: a file that this index is mapped from is damaged; the message names it.
        """
        from coophash import store

        with self._saving:
            store.save_index(path, self._bits, self._method, self._rows_now())

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mmap: bool = True,
        device: str = "cpu",
        threads: int | None = None,
    ) -> HammingIndex:
        """Open an index that `save` wrote.

        Args:
            path: the folder.
            mmap: map the codes, so that opening takes no time and memory is shared with other
                processes; sizes and headers are checked. False reads them and checks the checksums.
            device, threads: as for a new index.

        Raises:
            FileNotFoundError: there is no index at path.
            ValueError: a file of it is damaged; the message names it.
        """
        from coophash import store

        bits, method, rows = store.open_index(path, mmap)
        index = cls(bits, method, device, threads)  # type: ignore[arg-type]
        index._rows = rows
        return index

    def write_faiss(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `faiss.read_index_binary` reads.

        It is an IndexBinaryFlat if ids are 0, 1, 2 and so on, else an IndexBinaryIDMap of one.
        Codes are padded with zero bits to whole bytes, as faiss wants them.

        Raises:
            ValueError: a file that this index is mapped from is damaged; the message names it.
        """
        from coophash import store

        with self._saving:
            store.write_faiss(path, self._rows_now())

    def _rows_now(self) -> Rows:
        with self._lock:
            return self._rows.snapshot()

    def _queries(self, queries: Any) -> tuple[NDArray[np.uint8], Any]:
        array, restore = as_numpy(queries, "queries")
        return check_codes(array, "queries", self._bits), restore

    def _threads(self) -> int:
        return _native.check_threads(self.threads)

    def _locate(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        places = self._rows.locate(ids)
        if places.size and places.min() < 0:
            missing = ids[places < 0]
            raise ValueError(
                f"ids must be in the index, {missing[0]} is not"
                + (f" (nor are {missing.size - 1} others)" if missing.size > 1 else "")
            )
        return places

    def _snapshot(self, allow: Any) -> Snapshot:
        """What a search that begins now reads."""
        if allow is None:
            with self._lock:
                return Snapshot.of(self._rows, None)
        array = check_allow(allow)
        with self._lock:
            if array.dtype == np.bool_:
                check_mask(array, len(self._rows), "in the index")
                return Snapshot.of(self._rows, self._rows.spans(array))
            places = self._rows.locate(array)
            there = places[places >= 0]
            return Snapshot.of(self._rows, self._rows.spans(places=there))
