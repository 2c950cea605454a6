"""CCA-ITQ: the cross-modal baseline."""

import numpy as np
import pytest

import coophash as ch
from coophash.cca import CCAHash
from coophash.data import PairSet


def pairs(count, seed):
    """Three shared directions, and three that each modality has to itself."""
    random, maps = np.random.default_rng(seed), np.random.default_rng(9)
    shared = random.normal(size=(count, 3))
    own = 3 * random.normal(size=(2, count, 3))
    ways = maps.normal(size=(4, 3, 7))
    return PairSet(shared @ ways[0] + own[0] @ ways[1], shared @ ways[2] + own[1] @ ways[3])


def test_the_codes_of_a_pair_agree_on_pairs_that_it_has_not_seen():
    hasher = CCAHash(3, seed=1, ridge=1e-6).fit(pairs(2000, 0))
    test = pairs(500, 1)
    image, text = hasher.encode_image(test), hasher.encode_text(test.texts)
    assert image.shape == (500, 1) and image.dtype == np.uint8
    differing = np.unpackbits(image ^ text).sum() / (500 * 3)
    assert differing < 0.05
    bits = ch.unpack(image, 3)
    assert (abs(bits.mean(axis=0)) < 0.3).all(), "every bit is on for about half of the pairs"


def test_the_same_seed_gives_the_same_codes():
    data = pairs(300, 0)
    codes = [CCAHash(4, seed=seed).fit(data).encode_image(data) for seed in (0, 0, 1)]
    assert np.array_equal(codes[0], codes[1]) and not np.array_equal(codes[0], codes[2])


def test_wrong_use():
    with pytest.raises(ValueError, match="bits must be at most 7, the narrower width, got 8"):
        CCAHash(8).fit(pairs(50, 0))
    with pytest.raises(RuntimeError, match="fit the directions first"):
        CCAHash(2).encode_text(np.zeros((1, 7)))
