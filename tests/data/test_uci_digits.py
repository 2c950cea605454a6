"""UCI's digits as another collection beside MNIST."""

import sys

import numpy as np
import pytest

from coophash.data import read_mnist5k, read_uci_digits


def test_it_looks_like_mnist():
    pytest.importorskip("sklearn")
    uci = read_uci_digits()
    assert len(uci) == 1797 and uci.image_shape == (1, 28, 28) and uci.images.max() == 255
    assert uci.class_names == tuple("0123456789") and (abs(uci.class_counts - 180) < 8).all()
    border = np.ones((28, 28), bool)
    border[4:-4, 4:-4] = False
    assert not uci.images[:, 0, border].any(), "the margin is black, as MNIST's"
    # Mean images of a digit are alike in the two collections, and less so turned or mirrored.
    mnist = read_mnist5k()
    one, other = (
        np.stack([s.images[s.labels == c, 0].mean(0) for c in range(10)]) for s in (mnist, uci)
    )

    def likeness(images):
        return np.mean(
            [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, images, strict=True)]
        )

    assert likeness(other) > 0.5
    turned = [np.rot90(m, k, (1, 2)) for m in (other, other[:, ::-1]) for k in range(4)]
    assert max(map(likeness, turned[1:])) < likeness(other)


def test_other_sizes():
    pytest.importorskip("sklearn")
    whole = read_uci_digits(8, margin=0)
    from sklearn.datasets import load_digits

    np.testing.assert_array_equal(whole.images[:, 0], np.rint(load_digits().images * 255 / 16))
    assert read_uci_digits(32, margin=2).image_shape == (1, 32, 32)
    with pytest.raises(ValueError, match="at least 8 pixels within the margin, got 12"):
        read_uci_digits(12, margin=3)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "coophash\[demo\]"'):
        read_uci_digits()
