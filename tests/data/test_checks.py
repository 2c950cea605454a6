"""check_images: what passes, what it becomes, what the errors say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from coophash.data import ImageSet, check_images

torch = pytest.importorskip("torch")
SHAPE = (3, 4, 5)


def kinds(array):
    return [array, torch.from_numpy(np.ascontiguousarray(array))]


def test_right_images_pass_unchanged():
    for images in kinds(np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)):
        assert check_images(images, SHAPE) is images
        assert check_images(images) is images


def test_conversions():
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    expected = ImageSet(pixels, np.array([0, 0]), ("x",)).float()
    for images in kinds(pixels):
        got = check_images(images, SHAPE)
        assert type(got) is type(images)
        np.testing.assert_allclose(np.asarray(got), expected, atol=1e-6)
        assert str(got.dtype).endswith("float32")
    for images in kinds(expected.astype(np.float64)):
        assert str(check_images(images, SHAPE).dtype).endswith("float32")
    half = torch.zeros((1, *SHAPE), dtype=torch.bfloat16)
    assert check_images(half, SHAPE).dtype == torch.float32


def test_gradients_pass():
    x = torch.zeros((1, *SHAPE), dtype=torch.float64, requires_grad=True)
    check_images(x, SHAPE).sum().backward()
    assert (x.grad == 1).all()


def test_an_empty_batch_and_rounding_are_fine():
    for images in kinds(np.zeros((0, *SHAPE), np.float32)):
        assert len(check_images(images, SHAPE)) == 0
    for images in kinds(np.full((1, *SHAPE), 1.00005, np.float32)):
        check_images(images, SHAPE)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.full((1, *SHAPE), 255.0), ValueError, r"got values up to 255: use ImageSet.float or x"),
        (np.full((1, *SHAPE), -2.0), ValueError, "got values down to -2"),
        (np.linspace(-3, 3, 60).reshape(1, *SHAPE), ValueError, "got values from -3 to 3"),
        (np.full((1, *SHAPE), np.nan), ValueError, "photos must be finite, got NaN"),
        (np.full((1, *SHAPE), -np.inf), ValueError, "photos must be finite"),
        (np.zeros((1, *SHAPE), np.int64), TypeError, "or uint8 from 0 to 255, got int64"),
        (np.zeros((1, *SHAPE), bool), TypeError, "got bool"),
        (np.zeros(SHAPE), ValueError, r"one image is a batch of one: photos\[None\]"),
        (np.zeros((1, 4, 5, 3)), ValueError, r"channels come first"),
        (np.zeros((1, 3, 8, 8)), ValueError, r"must be \(B, 3, 4, 5\), got \(1, 3, 8, 8\): resize"),
        (np.zeros((1, 1, 4, 5)), ValueError, "with 3 channels"),
        (np.zeros((1, 60)), ValueError, r"must be \(B, 3, 4, 5\)"),
    ],
)
def test_bad_images(images, error, message):
    for each in kinds(images):
        with pytest.raises(error, match=message):
            check_images(each, SHAPE, "photos")


def test_one_nan_among_many_is_found():
    for images in kinds(np.zeros((5, *SHAPE), np.float32)):
        images[3, 1, 2, 2] = float("nan")
        with pytest.raises(ValueError, match="NaN"):
            check_images(images, SHAPE)


def test_grey_images_without_channel_axis():
    with pytest.raises(ValueError, match=r"add the channel axis: images\[:, None\]"):
        check_images(np.zeros((2, 4, 5)), (1, 4, 5))
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W\)"):
        check_images(np.zeros((2, 4, 5)))


@pytest.mark.parametrize("value", [None, [[0.0]], "image.png"])
def test_not_an_array(value):
    with pytest.raises(TypeError, match="NumPy array or torch tensor"):
        check_images(value, SHAPE)


def test_arrays_need_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from coophash.data import check_images\n"
        "check_images(np.zeros((1, 1, 2, 2)), (1, 2, 2))\n"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
