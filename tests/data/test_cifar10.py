"""CIFAR-10's binary layout, from small files written here."""

from __future__ import annotations

import numpy as np
import pytest

from coophash.data import read_cifar10
from coophash.data.cifar10 import FILES, FOLDER

RECORD = 3073
PER_FILE = 4


@pytest.fixture
def folder(tmp_path):
    """The layout with four images a file; returns the folder above `cifar-10-batches-bin`."""
    rng = np.random.default_rng(0)
    inner = tmp_path / FOLDER
    inner.mkdir()
    for name in (*FILES["train"], *FILES["test"]):
        records = rng.integers(0, 256, (PER_FILE, RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        (inner / name).write_bytes(records.tobytes())
    return tmp_path


def records_of(folder, names):
    raw = b"".join((folder / FOLDER / name).read_bytes() for name in names)
    return np.frombuffer(raw, np.uint8).reshape(-1, RECORD)


def test_splits(folder):
    for split, names in (
        ("train", FILES["train"]),
        ("test", FILES["test"]),
        ("all", (*FILES["train"], *FILES["test"])),
    ):
        expected = records_of(folder, names)
        for path in (folder, str(folder / FOLDER)):
            images = read_cifar10(path, split, images_per_file=PER_FILE)
            assert images.image_shape == (3, 32, 32) and len(images) == PER_FILE * len(names)
            np.testing.assert_array_equal(images.labels, expected[:, 0])
            # Byte 1 is red at the top left, byte 2 its right neighbour, byte 1025 green.
            np.testing.assert_array_equal(images.images[:, 0, 0, 1], expected[:, 2])
            np.testing.assert_array_equal(images.images[:, 1, 0, 0], expected[:, 1025])
            np.testing.assert_array_equal(images.images[:, 2, 31, 31], expected[:, 3072])
    assert images.class_names[3] == "cat" and images.classes == 10


def test_a_file_of_any_whole_number_of_images(folder):
    path = folder / FOLDER / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:RECORD])
    assert len(read_cifar10(folder, "test", images_per_file=None)) == 1
    with pytest.raises(ValueError, match=r"test_batch.bin has 3,073 bytes, expected 12,292 \(4"):
        read_cifar10(folder, "test", images_per_file=4)


@pytest.mark.parametrize("size", [0, 1, RECORD - 1, 2 * RECORD + 7])
def test_files_cut_short(folder, size):
    path = folder / FOLDER / "data_batch_2.bin"
    path.write_bytes(bytes(size))
    for images in (None, PER_FILE):
        with pytest.raises(ValueError, match=rf"data_batch_2.bin has {size:,} bytes"):
            read_cifar10(folder, images_per_file=images)


def test_the_published_size_is_the_default(folder):
    with pytest.raises(ValueError, match=r"expected 30,730,000 \(10,000 images\)"):
        read_cifar10(folder)


def test_a_wrong_label(folder):
    path = folder / FOLDER / "test_batch.bin"
    raw = bytearray(path.read_bytes())
    raw[2 * RECORD] = 10
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="image 2 has label 10, expected 0 to 9"):
        read_cifar10(folder, "test", images_per_file=PER_FILE)


def test_missing_files(folder, tmp_path):
    (folder / FOLDER / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3.bin is missing"):
        read_cifar10(folder, images_per_file=PER_FILE)
    assert len(read_cifar10(folder, "test", images_per_file=PER_FILE)) == PER_FILE
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no CIFAR-10 binary files in .* looked for data_b"
    ):
        read_cifar10(empty)


def test_the_python_layout_is_named_and_not_unpickled(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(FileNotFoundError, match="python layout, whose files are pickles"):
        read_cifar10(tmp_path)


def test_bad_split(folder):
    with pytest.raises(ValueError, match="split must be 'train', 'test' or 'all', got 'val'"):
        read_cifar10(folder, "val")
