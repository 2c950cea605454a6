"""What the functions and the index of coophash.search check of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from coophash import _native
from coophash._memory import check_memory
from coophash._rows import Span, bitset_of, to_bitset
from coophash.codes import as_numpy, check_codes


def pair(
    first: str, a: Any, second: str, b: Any, bits: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Any]:
    """Both sets of codes, checked, and the way back to what the second was given as."""
    rows = check_codes(as_numpy(a, first)[0], first, bits)
    array, restore = as_numpy(b, second)
    codes = check_codes(array, second, bits)
    if rows.shape[1] != codes.shape[1]:
        raise ValueError(
            f"{first} and {second} must be codes of one length, got uint8 {rows.shape} and "
            f"{codes.shape}"
        )
    return rows, codes, restore


def span(rows: NDArray[np.uint8], allow: Any) -> Span:
    return rows, None, 0, allow_words(allow, rows.shape[0])


def allow_words(allow: Any, rows: int) -> NDArray[np.uint64] | None:
    """The bitset of the rows of a database that count, given as a mask or as row numbers."""
    if allow is None:
        return None
    array = check_allow(allow)
    if array.dtype == np.bool_:
        check_mask(array, rows, "of the database")
        return to_bitset(array)
    if array.size and (array.min() < 0 or array.max() >= rows):
        raise ValueError(
            f"allow must hold row numbers 0 to {rows - 1}, got {array.min()} to {array.max()}"
        )
    return bitset_of(array, rows)


def check_allow(allow: Any) -> NDArray[Any]:
    array, _ = as_numpy(allow, "allow")
    if array.dtype == np.bool_:
        if array.ndim != 1:
            raise ValueError(f"allow must be a mask (N,), got bool {array.shape}")
        return array
    rows = check_ids(array, "allow")
    if len(rows) > 2 and rows.min() == 0 and rows.max() == 1:
        raise ValueError(
            f"allow holds 0 and 1 alone, {len(rows):,} of them: a mask must be bool, "
            "allow.astype(bool); row numbers must differ"
        )
    return rows


def check_mask(mask: NDArray[np.bool_], rows: int, where: str) -> None:
    if mask.shape[0] != rows:
        raise ValueError(
            f"allow as a mask must have one entry for each of the {rows} codes {where}, got "
            f"{mask.shape[0]}"
        )


def check_ids(ids: Any, name: str) -> NDArray[np.int64]:
    array, _ = as_numpy(ids, name)
    if array.ndim != 1:
        mend = f": one id is [{array}]" if array.ndim == 0 else ""
        raise ValueError(f"{name} must be whole numbers (N,), got shape {array.shape}{mend}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers (N,), got {array.dtype}")
    if array.dtype.kind == "u" and array.max() >= 1 << 63:
        raise ValueError(f"{name} must fit into int64, got {array.max()}")
    return np.ascontiguousarray(array, np.int64)


def check_k(k: Any, queries: int, in_memory: bool = True) -> int:
    """k as int, and that main memory has room for the results if that is where they go."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be a whole number, got {type(k).__name__}")
    if not 0 <= k < 1 << 31:
        raise ValueError(f"k must be 0 to {(1 << 31) - 1}, got {k}")
    if in_memory:
        check_memory(12 * int(k) * queries, f"k = {k} results for each of {queries} queries")
    return int(k)


def check_radius(radius: Any, width: int) -> int:
    if isinstance(radius, bool) or not isinstance(radius, int | np.integer):
        raise TypeError(f"radius must be a whole number, got {type(radius).__name__}")
    if radius < 0:
        raise ValueError(f"radius must be >= 0, got {radius}")
    return min(int(radius), 8 * width)


def admit_range(radius: int, queries: int) -> Callable[[int], None]:
    """What a range search asks once it knows how many results there are."""

    def admit(results: int) -> None:
        found = f"the {results:,} codes within radius {radius} of {queries:,} queries"
        check_memory(12 * results, found)

    return admit


def check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")


def check_device(device: Any, method: str) -> int | None:
    """The number of a CUDA device, or None for the CPU.

    Raises:
        TypeError, ValueError: it is no device, or not one for this method.
        RuntimeError: there is no such device here; the message says why.
    """
    if not isinstance(device, str):
        raise TypeError(f'device must be "cpu", "cuda" or "cuda:0", got {type(device).__name__}')
    if device == "cpu":
        return None
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(f'device must be "cpu", "cuda" or "cuda:0" and so on, got {device!r}')
    if method != "flat":
        raise ValueError(
            f'method="{method}" searches on the CPU alone: it follows tables to a few codes, one '
            f'after another, which a GPU is slow at; give method="flat" with device={device!r}'
        )
    if why := _native.cuda_status():
        raise RuntimeError(
            f'device={device!r}: {why} (`coophash doctor` says more); device="cpu" gives the same '
            "results"
        )
    there = len(_native.cuda().cuda_devices())
    if int(number or 0) >= there:
        raise RuntimeError(f"device={device!r}: this machine has {there} CUDA devices, from cuda:0")
    return int(number or 0)
