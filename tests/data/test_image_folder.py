"""Image folders by class, resizing, and open_dataset over every layout."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from coophash.data import ImageSet, adapt_images, cifar10, open_dataset, read_image_folder

Image = pytest.importorskip("PIL.Image")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def flat(colour, height=6, width=8):
    return np.broadcast_to(np.uint8(colour), (height, width, 3))


@pytest.fixture
def folder(tmp_path):
    """Classes 2, 10 and cat; the red value counts the files in natural order."""
    root = tmp_path / "pets"
    names = ["2/a.png", "2/img2.png", "2/img10.PNG", "10/x.bmp", "cat/y.png", "cat/deep/z.png"]
    for red, name in enumerate(names):
        save(root / name, flat((red, 100, 200)))
    (root / "2" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    (root / "2" / ".hidden.png").write_bytes(b"")
    return root


def test_order_labels_and_paths(folder):
    calls = []
    images = read_image_folder(folder, progress=lambda done, total: calls.append((done, total)))
    assert images.class_names == ("2", "10", "cat") and images.name == "pets"
    assert images.image_shape == (3, 6, 8)
    assert images.labels.tolist() == [0, 0, 0, 1, 2, 2]
    # In a class: its own files first, then folders in it.
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (images.images[:, 1] == 100).all() and (images.images[:, 2] == 200).all()
    assert images.paths[2].endswith("img10.PNG") and images.skipped == ()
    assert calls == [(i, 6) for i in range(1, 7)]


def test_grey(folder):
    images = read_image_folder(folder, channels=1)
    assert images.image_shape == (1, 6, 8)
    luma = 0.299 * np.arange(6) + 0.587 * 100 + 0.114 * 200
    assert np.abs(images.images[:, 0, 0, 0] - luma).max() <= 1


def test_resizing_keeps_the_middle(tmp_path):
    # Left third red, middle third green, right third blue, three times as wide as high: the
    # square in the middle is green.
    pixels = np.zeros((40, 120, 3), np.uint8)
    for third in range(3):
        pixels[:, 40 * third : 40 * third + 40, third] = 255
    save(tmp_path / "x" / "wide.png", pixels)
    save(tmp_path / "x" / "high.png", pixels.transpose(1, 0, 2))
    images = read_image_folder(tmp_path, size=20).images
    assert images.shape == (2, 3, 20, 20)
    assert (images[:, 1, 2:-2, 2:-2] == 255).all() and (images[:, [0, 2], 2:-2, 2:-2] == 0).all()
    assert read_image_folder(tmp_path, size=(10, 30)).image_shape == (3, 10, 30)


def test_transparency_shows_white_and_rotation_is_applied(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)  # black, fully transparent
    save(tmp_path / "one" / "a" / "clear.png", rgba)
    assert (read_image_folder(tmp_path / "one").images == 255).all()

    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[0, 0] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    save(tmp_path / "two" / "a" / "x.png", pixels, exif=turned)
    image = read_image_folder(tmp_path / "two").images[0]
    assert image.shape == (3, 8, 4) and (image[:, 0, 3] == 255).all()
    assert image.sum(dtype=int) == 3 * 255


def damage(folder):
    truncated = folder / "2" / "img2.png"
    save(truncated, np.random.default_rng(0).integers(0, 256, (60, 60, 3)))
    truncated.write_bytes(truncated.read_bytes()[:5000])
    other = folder / "cat" / "y.png"
    other.write_bytes(b"not a picture")
    return truncated, other


def test_a_damaged_image_is_named(folder):
    truncated, _ = damage(folder)
    with pytest.raises(ValueError, match="skip_damaged=True") as error:
        read_image_folder(folder, size=6)
    assert str(truncated) in str(error.value) and "and 1 more" in str(error.value)


def test_damaged_images_are_left_out_on_request(folder):
    truncated, other = damage(folder)
    with pytest.warns(UserWarning, match="left out 2 of 6 images") as caught:
        images = read_image_folder(folder, size=6, skip_damaged=True)
    assert str(other) in str(caught[0].message)
    assert images.images[:, 0, 0, 0].tolist() == [0, 2, 3, 5] and images.labels.tolist() == [
        0,
        0,
        1,
        2,
    ]
    assert len(images.skipped) == 2 and images.skipped[0].startswith(str(truncated))


def test_sixteen_bits_are_not_clipped(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a" / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits per channel"):
        read_image_folder(tmp_path)


def test_a_class_without_images(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no readable image"):
        read_image_folder(folder)


def test_a_class_whose_images_are_all_damaged(folder):
    (folder / "10" / "x.bmp").write_bytes(b"")
    with pytest.raises(ValueError, match="10 holds no readable image"):
        read_image_folder(folder, skip_damaged=True)


def test_different_sizes(folder):
    save(folder / "cat" / "y.png", flat(0, 5, 5))
    with pytest.raises(ValueError, match=r"of one size: .* is 6 x 8, .*y.png is 5 x 5; give size"):
        read_image_folder(folder)
    assert len(read_image_folder(folder, size=4)) == 6


def test_bad_arguments(folder, tmp_path, monkeypatch):
    for size in (0, -1, (4,), "4", 2.5, True, (4, 0)):
        with pytest.raises(ValueError, match="size must be a number of pixels"):
            read_image_folder(folder, size=size)
    with pytest.raises(ValueError, match="channels must be 1"):
        read_image_folder(folder, channels=4)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_image_folder(folder / "none")
    with pytest.raises(FileNotFoundError, match="is a file"):
        read_image_folder(folder / "2" / "a.png")
    with pytest.raises(ValueError, match="no class folders"):
        read_image_folder(folder / "10")
    with pytest.raises(ValueError, match="folder '2', which is not in class_names"):
        read_image_folder(folder, class_names=["10", "cat"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'reading images needs PIL.* "coophash\[train\]"'):
        read_image_folder(folder)


def test_adapt_images():
    rng = np.random.default_rng(0)
    colour = ImageSet(
        rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8), np.arange(3), tuple("abc")
    )
    assert adapt_images(colour) is colour and adapt_images(colour, 8, 3) is colour
    grey = adapt_images(colour, channels=1)
    luma = np.tensordot([0.299, 0.587, 0.114], colour.images.astype(float), (0, 1))
    assert np.abs(grey.images[:, 0] - luma).max() <= 1
    np.testing.assert_array_equal(adapt_images(grey, channels=3).images[:, 2], grey.images[:, 0])
    small = adapt_images(grey, (4, 4))
    blocks = grey.images.reshape(3, 1, 4, 2, 4, 2).mean(axis=(3, 5))
    assert np.abs(small.images[:, :, 1:-1, 1:-1] - blocks[:, :, 1:-1, 1:-1]).mean() < 20
    np.testing.assert_array_equal(small.labels, colour.labels)


# ---------------------------------------------------------------- open_dataset


def test_open_a_class_folder(folder):
    for split in ("train", "all"):
        assert len(open_dataset(folder, split, image_size=4)) == 6
    assert open_dataset(folder, channels=1).image_shape == (1, 6, 8)
    with pytest.raises(FileNotFoundError, match=r"no test/ folder: .*split_indices"):
        open_dataset(folder, "test")


def test_open_train_and_test_folders(folder, tmp_path):
    root = tmp_path / "halves"
    for name in ("dog", "cat", "emu"):
        save(root / "train" / name / "0.png", flat(1))
    for name in ("cat", "yak"):  # a class of its own: unseen in training
        save(root / "test" / name / "0.png", flat(2))
    train, test, both = (open_dataset(root, split) for split in ("train", "test", "all"))
    assert train.class_names == test.class_names == ("cat", "dog", "emu", "yak")
    assert train.labels.tolist() == [0, 1, 2] and test.labels.tolist() == [0, 3]
    assert both.labels.tolist() == [0, 1, 2, 0, 3] and both.name == "halves"
    assert len(both.paths) == 5

    (root / "test").rename(root / "elsewhere")
    assert len(open_dataset(root)) == 3
    with pytest.raises(FileNotFoundError, match="no test/ folder of class folders"):
        open_dataset(root, "all")


def test_classes_that_are_called_train_and_test(tmp_path):
    for name in ("train", "test", "tram"):
        save(tmp_path / name / "0.png", flat(0))
    assert open_dataset(tmp_path).class_names == ("test", "train", "tram")


def test_open_cifar10_and_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10.read_cifar10, "__defaults__", ("train", 2))
    path = tmp_path / "c"
    path.mkdir()
    for name in (*cifar10.FILES["train"], *cifar10.FILES["test"]):
        (path / name).write_bytes(bytes(2 * 3073))
    assert open_dataset(path, "all").image_shape == (3, 32, 32)
    assert open_dataset(path, "test", image_size=16, channels=1).image_shape == (1, 16, 16)

    path = tmp_path / "m"
    path.mkdir()
    (path / "t10k-images-idx3-ubyte").write_bytes(
        b"\0\0\x08\x03\0\0\0\1\0\0\0\2\0\0\0\3" + bytes(6)
    )
    (path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\1\7")
    images = open_dataset(path, "test", channels=3)
    assert images.image_shape == (3, 2, 3) and images.labels.tolist() == [7]


def test_nothing_recognised(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="none of the layouts") as error:
        open_dataset(tmp_path)
    for looked_for in ("data_batch_1.bin", "train-images-idx3-ubyte", "<class>/<image>.png"):
        assert looked_for in str(error.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_dataset(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is a file"):
        open_dataset(tmp_path / "docs" / "a.txt")
    with pytest.raises(ValueError, match="split must be"):
        open_dataset(tmp_path, "validation")
    with pytest.raises(ValueError, match="image_size must be"):
        open_dataset(tmp_path, image_size=-3)
