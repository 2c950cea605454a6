"""faiss's files of binary indexes: what either writes the other reads, and the rest is named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import coophash as ch
from coophash.compat.faiss import read_index_binary, write_index_binary

faiss = pytest.importorskip("faiss")

IDS = np.array([5, 9, 2, 70, 30, 1, 0, 2**40])


def some_codes(bits=64, rows=8):
    rng = np.random.default_rng(bits)
    return rng.integers(0, 256, (rows, bits // 8), dtype=np.uint8)


@pytest.mark.parametrize("bits", [8, 64, 136, 4096])
@pytest.mark.parametrize("kind", ["Flat", "IDMap", "IDMap2"])
def test_what_faiss_writes_is_read(tmp_path, kind, bits):
    codes, flat, ids = some_codes(bits), faiss.IndexBinaryFlat(bits), np.arange(8)
    theirs = flat
    if kind == "Flat":
        theirs.add(codes)
    else:
        theirs, ids = getattr(faiss, f"IndexBinary{kind}")(flat), IDS
        theirs.add_with_ids(codes, ids)
    faiss.write_index_binary(theirs, str(tmp_path / "file"))
    ours = read_index_binary(tmp_path / "file")
    assert isinstance(ours, ch.HammingIndex) and ours.bits == bits
    np.testing.assert_array_equal(ours.ids, ids)
    np.testing.assert_array_equal(ours.get(ids), codes)
    asked = some_codes(bits)[:3] ^ 1
    np.testing.assert_array_equal(ours.search(asked, 5)[0], theirs.search(asked, 5)[0])


@pytest.mark.parametrize("ids", [None, IDS], ids=["counted", "given"])
@pytest.mark.parametrize("bits", [8, 60, 64])
def test_faiss_reads_what_is_written(tmp_path, bits, ids):
    ours = ch.HammingIndex(bits)
    ours.add(ch.pack(np.random.default_rng(bits).normal(size=(8, bits))), ids)
    write_index_binary(ours, tmp_path / "file")
    theirs = faiss.read_index_binary(str(tmp_path / "file"))
    assert type(theirs).__name__ == ("IndexBinaryFlat" if ids is None else "IndexBinaryIDMap")
    distances, found = theirs.search(ours.get(ours.ids), 1)
    assert not distances.any()
    np.testing.assert_array_equal(ours.get(found[:, 0]), ours.get(ours.ids))
    again = read_index_binary(str(tmp_path / "file"))
    np.testing.assert_array_equal(again.ids, ours.ids)


def test_there_and_back_it_is_the_same_file(tmp_path):
    theirs = faiss.IndexBinaryIDMap(flat := faiss.IndexBinaryFlat(64))
    theirs.add_with_ids(some_codes(), IDS)
    assert flat.ntotal == 8
    faiss.write_index_binary(theirs, str(tmp_path / "theirs"))
    write_index_binary(read_index_binary(tmp_path / "theirs"), tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def hashed():
    return faiss.IndexBinaryHash(64, 8)


def inverted():
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 2)
    index.train(some_codes(rows=100))
    return index


@pytest.mark.parametrize(
    "make, message",
    [
        (hashed, r"'IBHh' \(IndexBinaryHash\), which is no binary flat index"),
        (lambda: faiss.IndexBinaryMultiHash(64, 2, 8), r"\(IndexBinaryMultiHash\)"),
        (lambda: faiss.IndexBinaryHNSW(64, 8), r"\(IndexBinaryHNSW\)"),
        (inverted, r"\(IndexBinaryIVF\)"),
        (lambda: faiss.IndexBinaryFromFloat(faiss.IndexFlatL2(64)), r"\(IndexBinaryFromFloat\)"),
        (
            lambda: faiss.IndexBinaryIDMap(faiss.IndexBinaryHNSW(64, 8)),
            r"an IndexBinaryIDMap of 'IBHf' \(IndexBinaryHNSW\): only one of an IndexBinaryFlat",
        ),
    ],
)
def test_another_kind_of_index_is_named(tmp_path, make, message):
    inner = make()  # faiss's wrappers do not keep what they wrap alive
    if hasattr(inner, "add") and not isinstance(inner, faiss.IndexBinaryIDMap):
        inner.add(some_codes())
    faiss.write_index_binary(inner, str(tmp_path / "file"))
    with pytest.raises(ValueError, match=message):
        read_index_binary(tmp_path / "file")


def test_an_index_of_real_vectors_is_named(tmp_path):
    faiss.write_index(faiss.IndexFlatL2(8), str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"'IxF2' \(IndexFlatL2, real vectors\)"):
        read_index_binary(tmp_path / "file")


def test_ids_that_repeat_are_refused(tmp_path):
    theirs = faiss.IndexBinaryIDMap(flat := faiss.IndexBinaryFlat(64))
    theirs.add_with_ids(some_codes(), np.array([1, 2, 3, 4, 5, 6, 7, 1]))
    assert flat.ntotal == 8
    faiss.write_index_binary(theirs, str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"file: ids must differ, 1 is given more than once"):
        read_index_binary(tmp_path / "file")


def test_a_map_of_fewer_codes_than_ids_is_damaged(tmp_path):
    theirs = faiss.IndexBinaryIDMap(flat := faiss.IndexBinaryFlat(64))
    theirs.add_with_ids(some_codes(), IDS)
    flat.add(some_codes())
    faiss.write_index_binary(theirs, str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"damaged: an IndexBinaryIDMap of 8 .* of 16 codes"):
        read_index_binary(tmp_path / "file")


def test_what_is_no_index_of_ours_is_not_written(tmp_path):
    with pytest.raises(TypeError, match=r"IndexBinaryFlat: faiss\.write_index_binary writes it"):
        write_index_binary(faiss.IndexBinaryFlat(64), tmp_path / "file")
    with pytest.raises(TypeError, match=r"must be a coophash\.HammingIndex, got str$"):
        write_index_binary("file", tmp_path / "file")


def test_neither_needs_faiss(tmp_path):
    program = (
        "import sys; sys.modules['faiss'] = None\n"
        "import coophash as ch, numpy as np\n"
        "from coophash.compat.faiss import read_index_binary, write_index_binary\n"
        "index = ch.HammingIndex(64); index.add(np.zeros((3, 8), np.uint8))\n"
        "write_index_binary(index, 'file'); print(len(read_index_binary('file')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "3", done.stderr
