"""Pickles as Python 2 wrote them, byte by byte: what the published CIFAR files look like."""

from __future__ import annotations

import struct

import numpy as np


def dumps(value) -> bytes:
    """Protocol 2 of a dict, list, text, integer or C-ordered array, texts as Python 2's `str`."""
    return b"\x80\x02" + _item(value) + b"."


def _item(value) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_item(k) + _item(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_item, value)) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return _item(value.encode("latin-1"))
    if isinstance(value, bytes):
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value
    assert isinstance(value, np.ndarray)
    kind = value.dtype.str
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + b"".join(map(_item, value.shape))
        + b"tcnumpy\ndtype\n" + _item(kind[1:]) + b"K\x00K\x01\x87R(K\x03" + _item(kind[0])
        + b"NNN" + _item(-1) + _item(-1) + b"K\x00tb\x89" + _item(value.tobytes()) + b"tb"
    )  # fmt: skip
