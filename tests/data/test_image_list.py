"""List files: what is read, what is refused and where, and the images behind them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coophash.data import ImageList, read_image_list, read_image_lists


@pytest.fixture
def write(tmp_path):
    def call(text, name="list.txt"):
        raw = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name

    return call


def test_multi_hot(write):
    listed = read_image_list(write("images/1.jpg 1 0 0 1\nimages/b.jpg 0 0 0 0\r\nc 0 1 0 0\n"))
    assert listed.paths == ("images/1.jpg", "images/b.jpg", "c")
    np.testing.assert_array_equal(listed.labels, [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert listed.labels.dtype == np.bool_ and listed.classes == 4 and len(listed) == 3
    part = listed.subset([2, 0])
    assert part.paths == ("c", "images/1.jpg") and part.labels[0, 1] and part.labels[1, 3]
    assert re.fullmatch(r"ImageList\('.*list.txt': 3 images, 4 classes\)", repr(listed))


def test_class_numbers(write):
    listed = read_image_list(write("n01/a b.JPEG 12\nn02/c.JPEG 1\n"))
    assert listed.paths == ("n01/a b.JPEG", "n02/c.JPEG") and listed.classes == 13
    np.testing.assert_array_equal(listed.labels, [12, 1])
    assert listed.labels.dtype == np.int64
    # One column could be either: it is a class number.
    np.testing.assert_array_equal(read_image_list(write("a 0\nb 1\nc 7\n")).labels, [0, 1, 7])


def test_blanks_in_paths(write):
    path = write("my cat.jpg 1 0\nplane 1 0 1\n")
    assert read_image_list(path, classes=2).paths == ("my cat.jpg", "plane 1")
    with pytest.raises(ValueError, match=r"line 2: 3 labels, line 1 has 2: 'plane 1 0 1'"):
        read_image_list(path)


MALFORMED = {
    "too few": ("a 0 1 0\nb 0 1\n", "line 2: expected a path and 3 zeros and ones, got 'b 0 1'"),
    "too many": ("a 0 1 0\nb 0 1 0 1\n", "line 2: 4 labels, line 1 has 3"),
    "two": ("a 0 1 0\nb 0 2 0\n", "line 2: expected a path and 3 zeros and ones"),
    "a word": ("a 0 1 0\nb 0 x 0\n", "line 2: expected a path and 3 zeros and ones"),
    "ten in one": ("a 0 1 0\nb 0 10 0\n", "line 2: expected a path and 3 zeros and ones"),
    "no path": ("a 0 1 0\n0 1 0\n", "line 2: expected a path and 3 zeros and ones"),
    "empty line": ("a 0 1 0\n\nb 0 1 0\n", "line 2: expected .* got ''"),
    "no labels": ("a\nb\n", "line 1: expected a path and zeros and ones, or a path and a class"),
    "no class": ("a 3\nb\n", "line 2: expected a path and a class number, got 'b'"),
    "negative": ("a 3\nb -1\n", "line 2: expected a path and a class number"),
    "huge": ("a 3\nb 9999999999\n", "line 2: expected a path and a class number"),
    "empty": ("", "is an empty image list"),
    "lines only": ("\n\n", "is an empty image list"),
    "binary": (b"\xff\xd8\xff\xe0 1 0\n", "is no image list: it is not UTF-8 text"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_lines_are_named(write, what):
    text, message = MALFORMED[what]
    with pytest.raises(ValueError, match=rf"list\.txt.*({message})"):
        read_image_list(write(text))


def test_a_long_line_is_shortened(write):
    with pytest.raises(ValueError) as error:
        read_image_list(write("a" + " 0" * 81 + "\nb" + " 1" * 80 + "\n"))
    assert "line 2" in str(error.value) and " ... " in str(error.value)
    assert len(str(error.value).split("got ")[1]) < 65


@settings(max_examples=100, deadline=None)
@given(
    labels=st.integers(2, 12).flatmap(
        lambda c: st.lists(st.lists(st.booleans(), min_size=c, max_size=c), min_size=1, max_size=9)
    ),
    names=st.lists(st.text("abz01/._-", min_size=1), min_size=9, max_size=9),
)
def test_what_is_written_is_read(tmp_path_factory, labels, names):
    path = tmp_path_factory.getbasetemp() / "written.txt"
    lines = [
        " ".join([n, *(str(int(x)) for x in row)]) for n, row in zip(names, labels, strict=False)
    ]
    path.write_text("\n".join(lines) + "\n")
    listed = read_image_list(path)
    np.testing.assert_array_equal(listed.labels, labels)
    assert listed.paths == tuple(names[: len(labels)])


def test_lists_of_a_split(write, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no test.txt and no train.txt and no database.txt"
    ):
        read_image_lists(tmp_path)
    for name in ("test", "train", "database"):
        write(f"{name}.jpg 0 1\n", f"{name}.txt")
    lists = read_image_lists(tmp_path)
    assert [(part, each.paths) for part, each in lists.items()] == [
        ("query", ("test.jpg",)), ("train", ("train.jpg",)), ("database", ("database.jpg",)),
    ]  # fmt: skip
    write("train.jpg 0 1 0\n", "train.txt")
    with pytest.raises(ValueError, match=r"test.txt has 2, train.txt has 3, database.txt has 2"):
        read_image_lists(tmp_path)
    write("train.jpg 12\n", "train.txt")
    with pytest.raises(ValueError, match=r"train.txt has class numbers"):
        read_image_lists(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    """Four images on disk, of two sizes, and a list of them in another order."""
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "root" / "in").mkdir(parents=True)
    for number in range(4):
        side = 8 if number < 3 else 6
        pixels = np.full((side, side, 3), 40 * number, np.uint8)
        pillow.fromarray(pixels).save(tmp_path / "root" / "in" / f"{number}.png")
    paths = ("in/2.png", "/in/0.png", "in/3.png", "in/1.png")
    labels = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], bool)
    return tmp_path / "root", ImageList(paths, labels, "four")


def test_images_of_a_list(pictures):
    root, listed = pictures
    listed.check_files(root)
    assert listed.missing(root) == []
    images = listed.read(root, size=4)
    assert images.shape == (4, 3, 4, 4)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [80, 0, 120, 40])
    np.testing.assert_array_equal(listed.read(root, rows=[3, 0], size=8)[:, 0, 0, 0], [40, 80])
    assert listed.read(root, rows=slice(0, 0), size=4).shape == (0, 3, 4, 4)
    with pytest.raises(ValueError, match=r"images of four must be of one size: .*2.png is 8 x 8"):
        listed.read(root)
    whole = listed.image_set(root, size=4, class_names=["dark", "light"])
    assert whole.class_names == ("dark", "light") and whole.paths[1].endswith("in/0.png")
    np.testing.assert_array_equal(whole.labels, [1, 0, 1, 0])


def test_several_labels_are_no_image_set(pictures):
    root, listed = pictures
    listed.labels[1] = True
    listed.labels[2] = False
    with pytest.raises(ValueError, match=r"2 of the 4 images of four .* '/in/0.png' first"):
        listed.image_set(root, size=4)


def test_missing_files_are_counted_before_any_is_read(pictures, tmp_path):
    root, listed = pictures
    (root / "in" / "3.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"cannot read .*3.png"):
        listed.read(root, size=4)
    for name in ("0.png", "1.png"):
        (root / "in" / name).unlink()
    assert listed.missing(root) == ["/in/0.png", "in/1.png"]
    with pytest.raises(FileNotFoundError, match=r"2 of the 4 images of four .* first is '/in/0"):
        listed.read(root, size=4)
    with pytest.raises(FileNotFoundError, match="4 of the 4"):
        listed.check_files(tmp_path / "elsewhere")


def test_wrong_fields():
    with pytest.raises(ValueError, match="labels must be one row per path, 2, got"):
        ImageList(("a", "b"), np.zeros((3, 2), bool))
    with pytest.raises(TypeError, match="labels must be bool"):
        ImageList(("a",), np.zeros((1, 2)))
    with pytest.raises(TypeError, match="labels must be bool"):
        ImageList(("a",), np.array([-1]))
