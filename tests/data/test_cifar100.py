"""CIFAR-100's two layouts, from small files written here."""

from __future__ import annotations

import numpy as np
import pytest

from coophash.data import open_dataset, read_cifar100
from coophash.data.cifar100 import FOLDERS

COUNTS = {"train": 7, "test": 3}
NAMES = {
    "fine": [f"fine{n}" for n in range(100)],
    "coarse": [f"coarse{n}" for n in range(20)],
}


@pytest.fixture
def both(tmp_path, python2):
    """The same images in both layouts, and what they are."""
    rng = np.random.default_rng(0)
    binary, python = tmp_path / "b" / FOLDERS["binary"], tmp_path / "p" / FOLDERS["python"]
    binary.mkdir(parents=True)
    python.mkdir(parents=True)
    for kind, names in NAMES.items():
        (binary / f"{kind}_label_names.txt").write_text("\n".join(names) + "\n")
    (python / "meta").write_bytes(
        python2.dumps({f"{kind}_label_names": names for kind, names in NAMES.items()})
    )
    truth = {}
    for part, count in COUNTS.items():
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        coarse, fine = (rng.integers(0, n, count).astype(np.uint8) for n in (20, 100))
        (binary / f"{part}.bin").write_bytes(np.column_stack([coarse, fine, pixels]).tobytes())
        batch = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        (python / part).write_bytes(python2.dumps(batch))
        truth[part] = pixels.reshape(-1, 3, 32, 32), {"fine": fine, "coarse": coarse}
    return binary, python, truth


@pytest.mark.parametrize("kind", ["fine", "coarse"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_both_layouts(both, kind, part):
    *folders, truth = both
    for folder in folders:
        for path in (folder, folder.parent):
            images = read_cifar100(path, part, kind, whole=False)
            np.testing.assert_array_equal(images.images, truth[part][0])
            np.testing.assert_array_equal(images.labels, truth[part][1][kind])
            assert images.class_names == tuple(NAMES[kind])
    assert len(read_cifar100(folder, "all", whole=False)) == sum(COUNTS.values())


def test_the_published_size_is_the_default(both):
    binary, python, _ = both
    with pytest.raises(ValueError, match=r"train.bin has 21,518 bytes, expected 153,700,000"):
        read_cifar100(binary)
    with pytest.raises(ValueError, match=r"train has data \(7, 3072\), expected \(50,000, 3072\)"):
        open_dataset(python.parent)  # recognised by its files


def test_what_is_wrong_is_named(both, tmp_path):
    binary, python, _ = both
    raw = bytearray((binary / "test.bin").read_bytes())
    raw[3074 + 1] = 100  # the fine label of image 1
    (binary / "test.bin").write_bytes(raw)
    with pytest.raises(ValueError, match="image 1 has label 100, expected 0 to 99"):
        read_cifar100(binary, "test", whole=False)
    (python / "test").unlink()
    with pytest.raises(FileNotFoundError, match="test is missing"):
        read_cifar100(python, "all", whole=False)
    (binary / "coarse_label_names.txt").write_text("a b c")
    with pytest.raises(ValueError, match="has 3 names, expected 20"):
        read_cifar100(binary, "train", "coarse", whole=False)
    with pytest.raises(ValueError, match="labels must be 'fine' or 'coarse', got 'all'"):
        read_cifar100(binary, labels="all")
    with pytest.raises(FileNotFoundError, match="no CIFAR-100 in"):
        read_cifar100(tmp_path)
