"""IDX files and the MNIST layout, from small files written here."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from coophash.data import read_idx, read_mnist

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    kind = array.dtype.str[1:]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[kind], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def mnist(tmp_path):
    """The four files of the layout with 6 and 4 images of 5 x 7."""
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 6), ("t10k", 4)):
        arrays[prefix] = (
            rng.integers(0, 256, (count, 5, 7), dtype=np.uint8),
            rng.integers(0, 10, count).astype(np.uint8),
        )
        for kind, number, array in zip(("images", "labels"), (3, 1), arrays[prefix], strict=True):
            (tmp_path / f"{prefix}-{kind}-idx{number}-ubyte").write_bytes(idx_bytes(array))
    return tmp_path, arrays


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_type(tmp_path, kind, zipped):
    array = np.arange(-12, 12).reshape(2, 3, 4).astype(kind)
    raw = idx_bytes(array)
    path = tmp_path / "file"  # told by its content, not by its name
    path.write_bytes(gzip.compress(raw, mtime=0) if zipped else raw)
    got = read_idx(path)
    assert got.dtype == array.dtype and got.flags.writeable
    np.testing.assert_array_equal(got, array)


def test_an_array_larger_than_one_piece(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 1 << 20), dtype=np.uint8)
    (tmp_path / "x").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), array)


RAW = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not an IDX file: its first bytes are missing"),
        (b"\0\0", "is not an IDX file"),
        (b"P6 1 1 255", "is not an IDX file: its first bytes are 50 36"),
        (b"\0\0\x07\x01\0\0\0\1a", "is not an IDX file"),
        (b"\0\0\x08\0a", "is not an IDX file"),
        (RAW[:9], "damaged or cut short"),
        (RAW[:-1], r"should hold 6 bytes for shape \(2, 3\), has 5"),
        (RAW + b"\0", "should hold 6 bytes .* has more"),
        (RAW[:4] + b"\xff" * 8 + RAW[12:], "has 6: it is damaged"),
        (gzip.compress(RAW, mtime=0)[:-9], "is a damaged gzip file"),
        (gzip.compress(RAW, mtime=0)[:-8] + b"\0" * 8, "is a damaged gzip file"),
        (gzip.compress(RAW, mtime=0)[:10] + b"\xff" * 20, "is a damaged gzip file"),
        (b"\x1f\x8bnonsense", "is a damaged gzip file"),
    ],
)
def test_damaged_files(tmp_path, raw, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no IDX file at"):
        read_idx(tmp_path / "none")


def test_mnist_splits(mnist):
    folder, arrays = mnist
    for split, prefixes in (("train", ["train"]), ("test", ["t10k"]), ("all", ["train", "t10k"])):
        images = read_mnist(folder, split)
        assert images.image_shape == (1, 5, 7) and images.classes == 10
        for got, i in ((images.images[:, 0], 0), (images.labels, 1)):
            np.testing.assert_array_equal(got, np.concatenate([arrays[p][i] for p in prefixes]))


@pytest.mark.parametrize("inner", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("name", ["{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte"])
def test_other_ways_to_lay_it_out(mnist, tmp_path, inner, name):
    folder, arrays = mnist
    home = tmp_path / "elsewhere"
    (home / inner).mkdir(parents=True)
    for kind, number in (("images", 3), ("labels", 1)):
        raw = (folder / f"t10k-{kind}-idx{number}-ubyte").read_bytes()
        file = home / inner / name.format("t10k", kind, number)
        file.write_bytes(gzip.compress(raw, mtime=0) if file.suffix == ".gz" else raw)
    np.testing.assert_array_equal(read_mnist(home, "test").images[:, 0], arrays["t10k"][0])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte .* is missing"):
        read_mnist(home, "train")


def test_more_than_ten_classes(mnist):
    folder, _ = mnist
    labels = np.array([0, 1, 46, 3, 4, 5], np.uint8)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    assert read_mnist(folder).class_names[46] == "46"
    assert read_mnist(folder, "all").classes == 47


def test_fewer_than_ten_classes_and_the_same_in_both_parts(mnist):
    folder, _ = mnist
    for part, labels in (("train", [0, 1, 2, 0, 1, 2]), ("t10k", [0, 1, 0, 1])):
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(labels, np.uint8)))
    assert read_mnist(folder).classes == 3
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((4, 5, 7), np.uint8)))
    assert read_mnist(folder, "test").classes == 3
    (folder / "train-labels-idx1-ubyte").unlink()
    assert read_mnist(folder, "test").classes == 2


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.uint8), "6 train images and 5 labels"),
        (np.zeros(6, np.int32), "must hold uint8 labels of 1 dimensions, got int32"),
        (np.zeros((6, 1), np.uint8), "must hold uint8 labels of 1 dimensions"),
    ],
)
def test_labels_that_do_not_fit(mnist, array, message):
    folder, _ = mnist
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=message):
        read_mnist(folder)


def test_nothing_of_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match="looked for train-images-idx3-ubyte"):
        read_mnist(tmp_path)
