"""Reading pickles of plain data and NumPy arrays without trusting them.

Some data sets are published as Python 2 pickles (CIFAR's "python version"). A pickle is a program
for a small machine that may import and call anything, so this reader gives that machine only what
such files need: the instructions that build numbers, texts, bytes, lists, tuples and dicts, and
three names that stand for a NumPy array of plain numbers. Those names never reach NumPy: they stand
for builders here, which check shape, type and length, and copy the bytes. Any other instruction or
name is an error, raised before anything is called.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

# The instructions of protocols 0 to 2, less those that make objects of any class (INST, OBJ,
# NEWOBJ, BINPERSID, EXT1, ...), and the ones for bytes and short text of protocol 3 and 4.
_ALLOWED = (
    "PROTO STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET GLOBAL REDUCE "
    "BUILD"
)
# Python's own reader in Python, not the one in C: its memo is a dict, so that a file cannot ask for
# gigabytes with one instruction, and its table of instructions can be cut down.
_Base: Any = cast(Any, pickle)._Unpickler
_PLAIN = (str, bytes, int, float, type(None))


class _Forbidden(Exception):
    """What a file wants that plain data do not need."""


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of plain data: dicts, lists, tuples, numbers, texts, bytes, NumPy arrays.

    Texts that Python 2 wrote come as bytes, keys of dicts too. Arrays are of booleans, integers or
    floats, in the machine's byte order, and own their memory; a tuple that holds one comes as a
    list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file wants anything else (the message names what), or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    with path.open("rb") as file:
        try:
            return _finish(_PlainUnpickler(file, encoding="bytes").load())
        except _Forbidden as error:
            raise ValueError(
                f"{path} is not read: it is a pickle that asks for {error}, which plain data do "
                "not need and which could run any program; nothing of it was run. Fetch the file "
                "from its publisher again"
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # damaged pickles raise anything
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{path} is no pickle of plain data, or is damaged ({reason}): fetch it again"
            ) from None


class _Instructions(dict[int, Any]):
    """The table of instructions; one that is not in it is forbidden, not merely unknown."""

    def __missing__(self, code: int) -> Any:
        names = [
            name
            for name, value in vars(pickle).items()
            if name.isupper() and isinstance(value, bytes) and value == bytes([code])
        ]
        if not names:
            raise ValueError(f"unknown instruction {code}")
        raise _Forbidden(f"the instruction {names[0]}")


class _PlainUnpickler(_Base):  # type: ignore[misc]  # the class is not in the stubs
    dispatch = _Instructions(
        (code, _Base.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _ALLOWED.split())
    )

    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((module, name))
        if known is None:
            raise _Forbidden(f"{module}.{name}")
        return _Name(known)


class _Name:
    """What a name in the file stands for: it can be called and nothing else.

    A new object each time and without attributes of its own, so that a BUILD instruction cannot
    change it for the rest of the process.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets the state of a name")


class _Type:
    """A NumPy type in the making: booleans, integers and floats."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not re.fullmatch("b1|[iu][1248]|f[248]", text):
            raise ValueError(f"it has an array of type {text!r}")
        self._code, self._order = text, "|"

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"it has an array of byte order {order!r}")
        if any(part is not None for part in state[2:5]):
            raise ValueError("it has an array of records")
        self._order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _Array:
    """A NumPy array in the making."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, fortran, raw = state
        if not isinstance(kind, _Type) or not isinstance(shape, tuple):
            raise ValueError("it has an array without type or shape")
        if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 32:
            raise ValueError(f"it has an array of shape {shape!r}")
        if isinstance(raw, str):  # protocol 2 written by Python 3 and read as latin-1 by its writer
            raw = raw.encode("latin-1")
        dtype = kind.dtype()
        if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it has an array {shape} of {dtype} whose bytes do not fit")
        array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        self.value = array.astype(dtype.newbyteorder("="), order="C")


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes in protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
        raise ValueError("it has bytes in an unknown form")
    return text.encode("latin-1")


_NAMES: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Type,
    # Only ever an argument of _reconstruct; called by itself it makes an empty shell.
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


def _finish(value: Any) -> Any:
    """The value with its arrays taken out of their builders, in place, however deep."""
    holder = [value]
    seen: set[int] = set()
    todo: list[Any] = [holder]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict) and not all(isinstance(k, (str, bytes, int)) for k in part):
            raise ValueError("it has a dict whose keys are no texts or integers")
        for place, item in list(part.items() if isinstance(part, dict) else enumerate(part)):
            inner = item
            if isinstance(item, tuple) and not all(isinstance(x, _PLAIN) for x in item):
                inner = part[place] = list(item)
            if isinstance(inner, _Array):
                if inner.value is None:
                    raise ValueError("it has an array without contents")
                part[place] = inner.value
            elif isinstance(inner, (dict, list)):
                todo.append(inner)
            elif not isinstance(inner, (*_PLAIN, tuple)):
                raise ValueError("it has a bare name or type")
    return holder[0]
