"""`EncodedSet` and its file."""

from __future__ import annotations

import numpy as np
import pytest

from coophash.encoded import EncodedSet


def make(count: int = 6, bits: int = 12, **fields: object) -> EncodedSet:
    codes = np.random.default_rng(0).integers(0, 256, (count, -(-bits // 8)), dtype=np.uint8)
    codes[:, -1] &= (1 << (bits % 8 or 8)) - 1
    return EncodedSet(codes, bits, **fields)  # type: ignore[arg-type]


def test_file_gives_back_what_was_saved(tmp_path):
    labels = np.array([0, 1, 2, 0, 1, 2], dtype=np.int32)
    saved = make(ids=np.array([9, 3, 5, 7, 1, 2]), labels=labels, class_names=("ä", "b c", "d"),
                 paths=tuple(f"folder/{n} [x].png" for n in range(6)))  # fmt: skip
    read = EncodedSet.load(saved.save(tmp_path / "codes.npz"))
    assert (read.codes == saved.codes).all() and read.codes.dtype == np.uint8
    assert read.bits == 12
    assert read.ids.tolist() == [9, 3, 5, 7, 1, 2] and read.ids.dtype == np.int64
    assert read.labels is not None and read.labels.tolist() == labels.tolist()
    assert read.labels.dtype == np.int64
    assert read.class_names == ("ä", "b c", "d") and read.paths == saved.paths


def test_file_is_an_archive_without_pickles(tmp_path):
    path = make(labels=np.zeros(6, int), class_names=("a",), paths=tuple("abcdef")).save(
        tmp_path / "codes"
    )
    assert path.name == "codes.npz"
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == {"codes", "bits", "ids", "labels", "class_names", "paths"}
        assert all(archive[name].dtype != object for name in archive.files)
    assert [p.name for p in tmp_path.iterdir()] == ["codes.npz"]  # no temporary file left


def test_same_set_gives_the_same_bytes(tmp_path):
    first = make(paths=tuple("abcdef")).save(tmp_path / "a.npz").read_bytes()
    assert make(paths=tuple("abcdef")).save(tmp_path / "b.npz").read_bytes() == first


def test_empty_and_unlabelled_sets(tmp_path):
    read = EncodedSet.load(make(count=0).save(tmp_path / "codes.npz"))
    assert len(read) == 0 and read.labels is None and read.class_names is None


def test_subset_keeps_rows_together():
    encoded = make(labels=np.arange(6), class_names=tuple("abcdef"), paths=tuple("uvwxyz"))
    part = encoded.subset(np.array([4, 1]))
    assert (part.codes == encoded.codes[[4, 1]]).all()
    assert part.ids.tolist() == [4, 1] and part.paths == ("y", "v")
    assert part.describe(0) == "e  y"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": np.arange(5)}, "labels must be integers (6,), got int64 (5,)"),
        ({"labels": np.arange(6) / 2}, "labels must be integers (6,), got float64 (6,)"),
        ({"labels": np.arange(6), "class_names": ("a", "b")}, "labels must be from 0 to 1, got 0"),
        ({"labels": np.arange(6) - 1}, "labels must be from 0, got -1"),
        ({"ids": np.arange(7)}, "ids must be integers (6,), got int64 (7,)"),
        ({"paths": ("a",)}, "paths must be one per code: 6, got 1"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ValueError) as error:
        make(**fields)
    assert message in str(error.value)


def test_wrong_codes():
    with pytest.raises(TypeError, match=r"coophash.pack\(outputs\) first"):
        EncodedSet(np.zeros((3, 8)), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 bytes wide for 12 bits, got \\(3, 1\\)"):
        EncodedSet(np.zeros((3, 1), np.uint8), 12)
    with pytest.raises(ValueError, match="spare bits 0"):
        EncodedSet(np.full((3, 2), 255, np.uint8), 12)
    with pytest.raises(ValueError, match="bits must be 1 to 4096, got 0"):
        EncodedSet(np.zeros((3, 0), np.uint8), 0)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="coophash encode"):
        EncodedSet.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="is a folder"):
        EncodedSet.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make().save(tmp_path / "no" / "codes.npz")
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(IsADirectoryError, match="give a file name"):
        make().save(tmp_path / "taken.npz")


def test_every_cut_and_most_flips_are_noticed(tmp_path):
    whole = make(count=40, labels=np.zeros(40, int)).save(tmp_path / "codes.npz").read_bytes()
    damaged = tmp_path / "damaged.npz"
    for length in range(0, len(whole) - 1, 37):
        damaged.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged\.npz"):
            EncodedSet.load(damaged)
    original = EncodedSet.load(tmp_path / "codes.npz")
    for place in range(0, len(whole), 11):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        damaged.write_bytes(bytes(changed))
        try:
            read = EncodedSet.load(damaged)
        except ValueError as error:
            assert "damaged.npz" in str(error)
        else:  # dates and attributes in the archive may change; the content may not
            assert (read.codes == original.codes).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"bits": 8}, "no array 'codes'"),
        ({"codes": np.zeros((2, 1), np.uint8)}, "no array 'bits'"),
        ({"codes": np.zeros((2, 1), np.uint8), "bits": [8, 8]}, "bits must be one integer"),
        ({"codes": np.zeros((2, 1)), "bits": 8}, "codes must be uint8"),
        ({"codes": np.zeros((2, 1), np.uint8), "bits": 8, "paths": [1, 2]}, "list of texts"),
    ],
)
def test_archives_of_something_else(tmp_path, arrays, message):
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError) as error:
        EncodedSet.load(tmp_path / "other.npz")
    assert message in str(error.value) and "other.npz" in str(error.value)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", codes=np.zeros((1, 1), np.uint8), bits=8,
             paths=np.array([object()], dtype=object))  # fmt: skip
    with pytest.raises(ValueError, match="cannot be read"):
        EncodedSet.load(tmp_path / "evil.npz")


def test_numbers_that_int64_cannot_hold_are_refused():
    """They were wrapped round to negative ones."""
    codes = np.zeros((2, 1), np.uint8)
    for name in ("ids", "labels"):
        with pytest.raises(ValueError, match=rf"{name} must fit into int64, got 1844674407370955"):
            EncodedSet(codes, 8, **{name: np.array([2**64 - 1, 2**63 + 5], np.uint64)})
    with pytest.raises(TypeError, match="bits must be a whole number, got float"):
        EncodedSet(codes, 8.9)
