"""CIFAR-10's binary layout, from small files written here."""

from __future__ import annotations

import numpy as np
import pytest

from coophash.data import read_cifar10
from coophash.data.cifar10 import FILES, FOLDER, PYTHON_FOLDER, files, find_cifar10

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
        FileNotFoundError, match=r"no CIFAR-10 files in .* looked for data_batch_1.bin"
    ):
        read_cifar10(empty)


def test_bad_split(folder):
    with pytest.raises(ValueError, match="split must be 'train', 'test' or 'all', got 'val'"):
        read_cifar10(folder, "val")


@pytest.fixture
def python_folder(tmp_path, python2):
    """The python version of `folder`'s layout, as Python 2 wrote it."""
    rng = np.random.default_rng(0)
    inner = tmp_path / "py" / PYTHON_FOLDER
    inner.mkdir(parents=True)
    for part in ("train", "test"):
        for name in files("python")[part]:
            batch = {
                "batch_label": "testing batch 1 of 1",
                "labels": rng.integers(0, 10, PER_FILE).tolist(),
                "data": rng.integers(0, 256, (PER_FILE, RECORD - 1), dtype=np.uint8),
                "filenames": [f"leptodactylus_{n}.png" for n in range(PER_FILE)],
            }
            (inner / name).write_bytes(python2.dumps(batch))
    return tmp_path / "py"


def test_the_python_version_is_the_same_set(python_folder, tmp_path):
    whole = read_cifar10(python_folder, "all", images_per_file=PER_FILE)
    assert len(whole) == 6 * PER_FILE and whole.image_shape == (3, 32, 32)
    # Written out as binary records, it must read the same.
    (tmp_path / "binary").mkdir()
    names = [name for part in ("train", "test") for name in files("binary")[part]]
    for number, name in enumerate(names):
        rows = slice(number * PER_FILE, (number + 1) * PER_FILE)
        pixels = whole.images[rows].reshape(PER_FILE, -1)
        record = np.hstack([whole.labels[rows, None].astype(np.uint8), pixels])
        (tmp_path / "binary" / name).write_bytes(record.tobytes())
    binary = read_cifar10(tmp_path / "binary", "all", images_per_file=PER_FILE)
    np.testing.assert_array_equal(binary.images, whole.images)
    np.testing.assert_array_equal(binary.labels, whole.labels)
    test = read_cifar10(python_folder / PYTHON_FOLDER, "test", images_per_file=None)
    np.testing.assert_array_equal(test.images, whole.images[-PER_FILE:])
    assert find_cifar10(python_folder) == python_folder / PYTHON_FOLDER


WRONG = {
    "data": (None, "has no uint8 array 'data'"),
    "wide": (("data", np.zeros((4, 9), np.uint8)), r"has data \(4, 9\), expected \(4, 3072\)"),
    "count": (("data", np.zeros((3, 3072), np.uint8)), r"\(3, 3072\), expected \(4, 3072\)"),
    "text": (("labels", "0123"), "has no list 'labels' of integers"),
    "labels": (("labels", [1, 2]), "has 4 images and 2 labels"),
    "range": (("labels", [1, 2, 10, 3]), "image 2 has label 10, expected 0 to 9"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_python_batch(python_folder, python2, what):
    entry, message = WRONG[what]
    batch = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
    if entry is None:
        del batch["data"]
    else:
        batch[entry[0]] = entry[1]
    (python_folder / PYTHON_FOLDER / "data_batch_4").write_bytes(python2.dumps(batch))
    with pytest.raises(ValueError, match=rf"data_batch_4.*{message}"):
        read_cifar10(python_folder, images_per_file=PER_FILE)


def test_a_python_batch_that_is_a_program(python_folder):
    (python_folder / PYTHON_FOLDER / "test_batch").write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"test_batch is not read: .* asks for os.system"):
        read_cifar10(python_folder, "test", images_per_file=PER_FILE)
    (python_folder / PYTHON_FOLDER / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match="test_batch is missing"):
        read_cifar10(python_folder, "test", images_per_file=PER_FILE)
