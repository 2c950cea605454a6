"""Pickles of plain data are read; a pickle that wants anything more is refused and not run."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coophash.data.plain_pickle import _NAMES, _Array, _Type, read_plain_pickle

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
U1 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


@pytest.fixture
def read(tmp_path):
    def call(raw: bytes):
        (tmp_path / "file").write_bytes(raw)
        return read_plain_pickle(tmp_path / "file")

    return call


def test_what_python_2_wrote(read, python2):
    pixels = np.arange(2 * 3072, dtype=np.uint16).astype(np.uint8).reshape(2, 3072)
    written = {"data": pixels, "labels": [3, 300, -1], "filenames": ["a.png", "\xe9"], "n": "x"}
    got = read(python2.dumps(written))
    assert set(got) == {b"data", b"labels", b"filenames", b"n"}
    assert got[b"labels"] == [3, 300, -1] and got[b"filenames"] == [b"a.png", b"\xe9"]
    np.testing.assert_array_equal(got[b"data"], pixels)
    assert got[b"data"].flags.owndata and got[b"data"].flags.writeable


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8", "?", "f2", "i8"])
def test_what_python_3_writes(read, protocol, dtype):
    array = np.asfortranarray(np.arange(12).reshape(3, 4).astype(dtype))
    value = {"a": array, "list": [1, 2.5, None, True, b"\xff\0", "text"], "deep": [[array[0]]]}
    got = read(pickle.dumps(value, protocol))
    np.testing.assert_array_equal(got["a"], array)
    assert got["a"].dtype == array.dtype.newbyteorder("=")
    assert got["list"] == value["list"]
    np.testing.assert_array_equal(got["deep"][0][0], array[0])


def test_an_array_twice_and_a_list_in_itself(read):
    array = np.arange(3)
    loop: list = [array, array]
    loop.append(loop)
    got = read(pickle.dumps(loop, 2))
    np.testing.assert_array_equal(got[1], array)
    assert got[2] is got
    got = read(pickle.dumps((1, (2, array)), 2))
    assert got[0] == 1 and got[1][0] == 2
    np.testing.assert_array_equal(got[1][1], array)


class Runs:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_program_is_not_run(read, tmp_path, protocol):
    mark = tmp_path / "ran"
    raw = pickle.dumps({"data": [1], "labels": Runs(exec, f"open({str(mark)!r}, 'w')")}, protocol)
    with pytest.raises(ValueError, match=r"file is not read: .* asks for .*; nothing of it was"):
        read(raw)
    assert not mark.exists()
    pickle.loads(raw)
    assert mark.exists()  # so the pickle is one that works


FORBIDDEN = {
    "os.system": b"cos\nsystem\n(S'true'\ntR.",
    "builtins.eval": b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    "numpy.load": b"cnumpy\nload\n.",
    "numpy.core.multiarray.scalar": b"cnumpy.core.multiarray\nscalar\n.",
    "numpy.ndarray.tofile": b"cnumpy\nndarray.tofile\n.",
    "the instruction INST": b"(S'true'\nios\nsystem\n.",
    "the instruction OBJ": b"(cnumpy\nndarray\no.",
    "the instruction NEWOBJ": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "the instruction PERSID": b"Pname\n.",
    "the instruction BINPERSID": b"U\x01xQ.",
    "the instruction EXT1": b"\x82\x01.",
    "the instruction STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_forbidden_is_named(read, what):
    with pytest.raises(ValueError, match=rf"asks for {what}, which"):
        read(FORBIDDEN[what])


def state(shape=b"K\x02\x85", kind=U1, raw=b"U\x02ab", fortran=b"\x89"):
    return b"\x80\x02" + ARRAY + b"(K\x01" + shape + kind + fortran + raw + b"tb."


DAMAGED = {
    "empty": b"",
    "cut short": pickle.dumps({"data": np.zeros(9, np.uint8)}, 2)[:-9],
    "no pickle": b"hello, world",
    "bytes that do not fit": state(raw=b"U\x03abc"),
    "negative shape": state(shape=b"J\xff\xff\xff\xff\x85"),
    "huge shape": state(shape=b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85"),
    "bool in the shape": state(shape=b"\x88\x85"),
    "no type": state(kind=b"N"),
    "objects": state(kind=U1.replace(b"u1", b"O8")),
    "records": state(kind=U1 + b"(K\x03U\x01|N(U\x01atNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
    "byte order": state(kind=U1 + b"(K\x03U\x01?NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
    "array without contents": b"\x80\x02" + ARRAY + b".",
    "a bare name": b"cnumpy\nndarray\n.",
    "a bare type": b"\x80\x02" + U1 + b".",
    "state of a name": b"cnumpy\ndtype\n}U\x04_call1sb.",
    "state of a dict": b"\x80\x02}}U\x01aK\x01sb.",
    "state of a name in slots": b"\x80\x02cnumpy\ndtype\nN}U\x05_callK\x01s\x86b.",
    "call of a text": b"U\x01a)R.",
    "memo that is not there": b"g7\n.",
    "a memo of gigabytes": b"\x80\x02K\x01r\xff\xff\xff\xff",
    "a text of gigabytes": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "other encodings": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "keys that are arrays": b"\x80\x02}" + ARRAY + b"K\x01s.",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_an_error_that_names_the_file(read, what):
    before = [(f.__name__, dict(vars(f))) for f in (_Array, _Type)], dict(_NAMES)
    with pytest.raises(ValueError, match="file is no pickle of plain data, or is damaged"):
        read(DAMAGED[what])
    # No instruction may change what later files are read with.
    assert before == ([(f.__name__, dict(vars(f))) for f in (_Array, _Type)], dict(_NAMES))


def test_the_state_helper_makes_an_array(read):
    np.testing.assert_array_equal(read(state()), [97, 98])


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_plain_pickle(tmp_path / "none")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_altered_files_do_no_more_than_raise(tmp_path_factory, python2, data):
    """Bytes of a real file changed at random: plain data or ValueError, never anything else."""
    raw = bytearray(python2.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]}))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "altered"
    path.write_bytes(raw)
    try:
        check_plain(read_plain_pickle(path))
    except ValueError as error:
        assert str(path) in str(error)


def check_plain(value):
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            check_plain(item)
    else:
        assert isinstance(value, (np.ndarray, bytes, str, int, float, type(None)))


def test_the_writer_is_right(python2):
    """What `python2` writes, Python reads as the same: the tests stand on the true form."""
    value = {"a": [1, 70_000], "b": np.arange(300, dtype="<u2")}
    got = pickle.loads(python2.dumps(value), encoding="latin-1")
    assert got["a"] == value["a"]
    np.testing.assert_array_equal(got["b"], value["b"])
    assert struct.pack("<i", 70_000) in python2.dumps(value)
