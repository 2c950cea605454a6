"""Named arrays from the files that features and labels are published in: `.mat`, `.h5`, `.npz`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coophash.errors import require

_HDF5 = b"\x89HDF\r\n\x1a\n"


def load_arrays(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, contiguous: bool = True
) -> dict[str, NDArray[Any]]:
    """Read arrays by their names.

    The kind of file is told by its first bytes: MATLAB up to version 7 (needs SciPy), MATLAB 7.3
    and HDF5 (need h5py), NumPy's `.npz`. MATLAB 7.3 files hold arrays with their axes reversed;
    they are turned, so that a matrix has the shape that MATLAB shows, as from the older files.
    Sparse matrices of the older files come dense. Nothing is unpickled.

    Args:
        path: the file.
        names: the variables wanted, in HDF5 `group/name` too; None for all that are arrays of
            numbers.
        contiguous: False leaves turned arrays as views, which saves a copy of large ones.

    Returns:
        The arrays by name, in the order asked for; numbers and booleans, in the machine's byte
        order, C-contiguous if asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name is not there (the message lists what is), a variable is no array of
            numbers, or the file is damaged or of another kind.
        ImportError: SciPy or h5py is needed and not installed.

    Example:
        >>> features = load_arrays("wiki.mat", ["I_tr", "T_tr", "L_tr"])  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    if isinstance(names, str):
        raise TypeError(f"names must be a list of names, got the text {names!r}: give [{names!r}]")
    wanted = None if names is None else list(names)
    with path.open("rb") as file:
        start = file.read(520)
    # MATLAB puts 512 bytes of its own in front of an HDF5 file.
    matlab = start[:10] == b"MATLAB 7.3"
    try:
        if start[:8] == _HDF5 or start[512:520] == _HDF5:
            found = _read_hdf5(path, wanted, matlab)
        elif start[:2] == b"PK":
            found = _read_npz(path, wanted)
        else:
            found = _read_mat(path, wanted)
    except _Unsuitable as error:
        raise ValueError(f"{path}: {error}") from None
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # readers of damaged files raise anything
        raise _unreadable(path, error) from None
    order: Literal["C", "K"] = "C" if contiguous else "K"
    return {name: _tidy(array, order) for name, array in found.items()}


def list_arrays(path: str | os.PathLike[str], numbers: bool = True) -> dict[str, str]:
    """Names of the arrays in a file, each with its shape and type as text; none is read.

    Errors as for `load_arrays`.

    Args:
        path: the file.
        numbers: list arrays of numbers alone, not texts, cells and objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    with path.open("rb") as file:
        start = file.read(520)
    try:
        if start[:8] == _HDF5 or start[512:520] == _HDF5:
            return _list_hdf5(path, start[:10] == b"MATLAB 7.3", numbers)
        if start[:2] == b"PK":
            return _list_npz(path, numbers)
        io = require("scipy.io", "data", "reading .mat files")
        listed = {name: f"{shape} {kind}" for name, shape, kind in io.whosmat(path)}
        return {
            name: text for name, text in listed.items()
            if not (numbers and _unsuitable_class(text))
        }  # fmt: skip
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # readers of damaged files raise anything
        raise _unreadable(path, error) from None


def _list_npz(path: Path, numbers: bool) -> dict[str, str]:
    there = {}
    with zipfile.ZipFile(path) as archive:
        for entry in (name for name in archive.namelist() if name.endswith(".npy")):
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0
                if version >= (2, 0):
                    read = np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if not numbers or dtype.kind in "biuf":
                there[entry.removesuffix(".npy")] = f"{shape} {dtype}"
    return there


def _list_hdf5(path: Path, matlab: bool, numbers: bool) -> dict[str, str]:
    h5py = require("h5py", "data", "reading HDF5 and MATLAB 7.3 files")
    there: dict[str, str] = {}

    def note(name: str, item: Any) -> None:
        is_array = isinstance(item, h5py.Dataset) and not name.startswith("#")
        if is_array and (not numbers or item.dtype.kind in "biuf"):
            there[name] = f"{item.shape[::-1] if matlab else item.shape} {item.dtype}"

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return there


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{path} cannot be read as .mat, .h5 or .npz ({reason}): it is damaged or another kind "
        "of file"
    )


class _Unsuitable(Exception):
    """A variable is not in the file, or is no array of numbers."""


def _read_mat(path: Path, wanted: list[str] | None) -> dict[str, Any]:
    io = require("scipy.io", "data", "reading .mat files")
    there = {name: f"{shape} {kind}" for name, shape, kind in io.whosmat(path)}
    _check_there(wanted, there)
    # Objects and functions of MATLAB would be made by name; only what is asked for is read.
    numeric = [name for name in there if not _unsuitable_class(there[name])]
    read = io.loadmat(path, variable_names=numeric if wanted is None else wanted)
    dense = {
        name: read[name].toarray() if hasattr(read[name], "toarray") else read[name]
        for name in (numeric if wanted is None else wanted)
    }
    if wanted is None:  # complex numbers are not told apart before they are read
        return {name: array for name, array in dense.items() if array.dtype.kind in "biuf"}
    return {name: _numbers(name, array) for name, array in dense.items()}


def _unsuitable_class(description: str) -> bool:
    return description.rsplit(" ", 1)[-1] in (
        "cell", "struct", "object", "char", "function", "opaque", "unknown"
    )  # fmt: skip


def _read_npz(path: Path, wanted: list[str] | None) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        if wanted is not None:
            _check_there(wanted, dict.fromkeys(archive.files, ""))
            return {name: _numbers(name, archive[name]) for name in wanted}
        read = {name: archive[name] for name in archive.files}
    return {name: array for name, array in read.items() if array.dtype.kind in "biuf"}


def _read_hdf5(path: Path, wanted: list[str] | None, matlab: bool) -> dict[str, Any]:
    h5py = require("h5py", "data", "reading HDF5 and MATLAB 7.3 files")
    with h5py.File(path, "r") as file:
        there: dict[str, str] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("#"):
                there[name] = f"{item.shape} {item.dtype}"

        file.visititems(note)  # goes through groups, not through links to other files
        if wanted is not None:
            _check_there([name.strip("/") for name in wanted], there)
        suitable = [name for name in there if file[name].dtype.kind in "biuf"]
        arrays = {}
        for name in suitable if wanted is None else wanted:
            value = file[name][()]
            if matlab and file[name].attrs.get("MATLAB_empty", 0):
                value = np.empty(tuple(int(n) for n in np.ravel(value))[::-1])
            arrays[name] = _numbers(name, value)
    return {name: array.T for name, array in arrays.items()} if matlab else arrays


def _check_there(wanted: list[str] | None, there: dict[str, str]) -> None:
    for name in wanted or ():
        if name not in there:
            listed = ", ".join(f"{n} {text}".strip() for n, text in list(there.items())[:12])
            more = f" and {len(there) - 12} more" if len(there) > 12 else ""
            raise _Unsuitable(f"it has no variable {name!r}, only {listed or 'none at all'}{more}")


def _numbers(name: str, value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise _Unsuitable(f"variable {name!r} is no array of real numbers but {array.dtype}")
    return array


def _tidy(array: NDArray[Any], order: Literal["C", "K"]) -> NDArray[Any]:
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order=order)
