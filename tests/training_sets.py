"""Small sets that the tests of training learn from, and how they compare weights."""

import numpy as np
import torch

from coophash.data import ImageSet, PairSet


def stripes(count=24, seed=0, name="stripes"):
    """Three classes that differ in where a bright bar stands."""
    source = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = source.integers(0, 60, (count, 1, 12, 12), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label : 4 * label + 4] += 150
    return ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"), name)


def pairs(count, seed, labels=True):
    """Four topics seen through two random maps."""
    random = np.random.default_rng(seed)
    maps = np.random.default_rng(9)
    centres, to_image, to_text = (maps.normal(size=s) for s in ((4, 6), (6, 10), (6, 8)))
    topics = random.integers(4, size=count)
    inner = centres[topics] + 0.3 * random.normal(size=(count, 6))
    return PairSet(
        inner @ to_image + 0.1 * random.normal(size=(count, 10)),
        np.tanh(inner @ to_text) + 0.1 * random.normal(size=(count, 8)),
        topics if labels else None,
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
