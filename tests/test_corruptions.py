"""Corruptions: what each does, that strength grows, and that draws belong to the image."""

import numpy as np
import pytest

from coophash.corruptions import KINDS, LEVELS, STRENGTHS, corrupt, spoil
from coophash.data import ImageSet


def smooth(count=6, channels=3, side=20, seed=0):
    """Images with edges and slopes: every corruption changes them."""
    source = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = source.uniform(2, 9, (count, channels, 2, 1, 1))
    images = 0.7 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y)
    images[:, :, 4:9, 6:14] = 0.9
    return images.astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_every_strength(kind, channels):
    images = smooth(channels=channels)
    before = images.copy()
    changes = []
    for strength in LEVELS:
        shifted = corrupt(images, kind, strength, seed=3)
        assert shifted.shape == images.shape and shifted.dtype == np.float32
        assert shifted.min() >= -1 and shifted.max() <= 1
        changes.append(float(np.abs(shifted - images).mean()))
    assert changes[0] > 0 and changes[-1] > 1.3 * changes[0], changes
    assert (np.diff(changes) > -0.01).all(), "a higher strength changes no less"
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(kind):
    images = smooth(8)
    whole = corrupt(images, kind, 4, seed=1)
    rows = [6, 2]
    np.testing.assert_array_equal(corrupt(images[rows], kind, 4, 1, numbers=rows), whole[rows])
    np.testing.assert_array_equal(corrupt(images, kind, 4, seed=1), whole)
    if kind in ("gaussian_noise", "impulse_noise", "occlusion", "rotation", "shift"):
        assert not np.array_equal(corrupt(images, kind, 4, seed=2), whole)


def test_an_image_set_brings_its_numbers():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 12, 12), np.uint8)
    images = ImageSet(pixels, np.zeros(5, np.int64), ("one",))
    whole = corrupt(images, "gaussian_noise", 2)
    np.testing.assert_array_equal(
        corrupt(images.subset([3, 1]), "gaussian_noise", 2), whole[[3, 1]]
    )
    np.testing.assert_array_equal(corrupt(pixels, "gaussian_noise", 2), whole)


def test_noise_has_the_deviation_of_its_table():
    flat = np.zeros((4, 1, 64, 64), np.float32)
    for strength in (1, 2, 3):  # stronger noise is clipped
        found = corrupt(flat, "gaussian_noise", strength).std() / 2
        assert found == pytest.approx(STRENGTHS["gaussian_noise"][strength - 1], rel=0.03)


def test_noise_of_all_strengths_is_the_same_noise():
    flat = np.zeros((1, 1, 16, 16), np.float32)
    one, two = (corrupt(flat, "gaussian_noise", s) for s in (1, 2))
    np.testing.assert_allclose(two, one * 1.5, atol=1e-6)


def test_brightness_keeps_hue_and_saturation():
    image = np.array([0.2, 0.5, 0.1], np.float32).reshape(1, 3, 1, 1) * 2 - 1
    bright = (corrupt(image, "brightness", 3) + 1) / 2
    np.testing.assert_allclose(bright.ravel(), np.array([0.2, 0.5, 0.1]) * 0.8 / 0.5, atol=1e-6)
    black = np.full((1, 3, 1, 1), -1, np.float32)
    np.testing.assert_allclose((corrupt(black, "brightness", 2) + 1) / 2, 0.2, atol=1e-6)


def test_contrast_keeps_the_mean():
    images = smooth()
    flat = corrupt(images, "contrast", 5)
    np.testing.assert_allclose(flat.mean((2, 3)), images.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(flat.std((2, 3)), 0.05 * images.std((2, 3)), atol=1e-5)


def test_rotation_and_shift_move_by_what_the_table_says():
    images = np.full((40, 1, 41, 41), -1, np.float32)
    images[:, :, 20, 32] = 1  # right of the middle
    places = [np.unravel_index(image.argmax(), image.shape)[1:] for image in corrupt(
        images, "rotation", 5)]  # fmt: skip
    for y, x in places:
        assert abs(np.degrees(np.arctan2(abs(20 - y), x - 20)) - 30) < 4
    assert {int(np.sign(20 - y)) for y, _ in places} == {-1, 1}, "to both sides"
    middle = np.full((20, 1, 41, 41), -1, np.float32)
    middle[:, :, 19:22, 19:22] = 1
    for image in corrupt(middle, "shift", 5):
        weight = (image[0] + 1) / (image[0] + 1).sum()
        y, x = (weight * np.mgrid[:41, :41]).sum((1, 2))
        assert np.hypot(y - 20, x - 20) == pytest.approx(0.2 * 41, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 48)])
def test_occlusion_hides_a_rectangle_of_the_share_asked_for(shape):
    images = np.random.default_rng(0).uniform(-1, 1, (30, *shape)).astype(np.float32)
    images[images == 0] = 0.1
    for strength in LEVELS:
        hidden, observed = spoil(images, "occlusion", strength, seed=2)
        assert observed.shape == (30, 1, *shape[1:]) and observed.dtype == bool
        np.testing.assert_array_equal(hidden == 0, ~np.broadcast_to(observed, images.shape))
        np.testing.assert_array_equal(hidden[hidden != 0], images[hidden != 0])
        share = STRENGTHS["occlusion"][strength - 1]
        assert np.abs((~observed).mean((1, 2, 3)) - share).max() < 0.03
        for mask in ~observed[:, 0]:  # a rectangle is its rows times its columns
            np.testing.assert_array_equal(mask, np.outer(mask.any(1), mask.any(0)))
    np.testing.assert_array_equal(corrupt(images, "occlusion", 5, seed=2), hidden)


def test_impulse_noise_replaces_whole_pixels_by_black_and_white():
    images = np.random.default_rng(0).uniform(-0.9, 0.9, (30, 3, 40, 40)).astype(np.float32)
    before = np.zeros((30, 1, 40, 40), bool)
    for strength in LEVELS:
        noisy, observed = spoil(images, "impulse_noise", strength, seed=1)
        replaced = ~np.broadcast_to(observed, images.shape)
        np.testing.assert_array_equal(noisy[~replaced], images[~replaced])
        assert (np.abs(noisy[replaced]) == 1).all()
        assert (noisy[replaced] > 0).mean() == pytest.approx(0.5, abs=0.05)
        share = STRENGTHS["impulse_noise"][strength - 1]
        assert replaced.mean() == pytest.approx(share, rel=0.05)
        assert not (before & observed).any(), "what a lower strength replaces, a higher one does"
        before = ~observed
    np.testing.assert_array_equal(corrupt(images, "impulse_noise", 5, seed=1), noisy)
    with pytest.raises(
        ValueError, match="kind must be one of occlusion, impulse_noise, got 'blur'"
    ):
        spoil(images, "blur", 1)


def test_no_images():
    none = np.empty((0, 1, 8, 8), np.float32)
    for kind in KINDS:
        assert corrupt(none, kind, 1).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fog"}, "kind must be one of gaussian_noise, .*, got 'fog'"),
        ({"strength": 6}, "strength must be 1, 2, 3, 4 or 5, got 6"),
        ({"strength": 0}, "strength must be"),
        ({"strength": True}, "strength must be"),
        ({"numbers": [1]}, "numbers must be 6 integers"),
        ({"numbers": [-1] * 6}, "numbers must be 6 integers of at least 0"),
        ({"seed": -1}, "seed"),
        ({"images": smooth() * 3}, r"images must be in \[-1, 1\]"),
        ({"images": smooth(channels=2), "kind": "jpeg"}, "1 or 3 channels, got 2"),
    ],
)
def test_wrong_arguments_are_named(settings, message):
    given = {"images": smooth(), "kind": "blur", "strength": 1, **settings}
    with pytest.raises(ValueError, match=message):
        corrupt(**given)
