"""Image-text feature files in the published layouts, and every way in which they can be wrong."""

import h5py
import numpy as np
import pytest
import scipy.io

from coophash.data import check_dataset, read_pairs
from coophash.data.check_pairs import PAIR_FACTS
from coophash.data.pair_files import QUERIES, find_pairs

RANDOM = np.random.default_rng(0)


def arrays(train=12, test=5, image=4, text=3, classes=3):
    def part(count):
        return {
            "I": RANDOM.normal(size=(count, image)), "T": RANDOM.normal(size=(count, text)),
            "L": (np.arange(count) % classes + 1).reshape(-1, 1),
        }  # fmt: skip

    a, b = part(train), part(test)
    return {**{f"{k}_tr": v for k, v in a.items()}, **{f"{k}_te": v for k, v in b.items()}}


def save(path, contents):
    if path.suffix == ".mat":
        scipy.io.savemat(path, contents)
    elif path.suffix == ".npz":
        np.savez(path, **contents)
    else:
        with h5py.File(path, "w") as file:
            for name, value in contents.items():
                file[name] = value
    return path


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".h5"])
def test_parts_in_one_file(tmp_path, suffix):
    a = arrays()
    path = save(tmp_path / f"wiki{suffix}", a)
    train, test, both = (read_pairs(path, split) for split in ("train", "test", "all"))
    np.testing.assert_allclose(train.images, a["I_tr"], rtol=1e-6)
    np.testing.assert_allclose(test.texts, a["T_te"], rtol=1e-6)
    assert train.images.dtype == np.float32 and train.labels.dtype == np.int64
    assert train.labels.tolist() == [i % 3 for i in range(12)]  # counted from 1 in the file
    assert test.ids.tolist() == list(range(12, 17)) and train.name == "wiki train"
    assert len(both) == 17 and both.ids.tolist() == list(range(17))
    np.testing.assert_array_equal(both.images[12:], test.images)
    assert np.array_equal(read_pairs(path, "database").images, train.images)


def test_a_database_apart(tmp_path):
    a = arrays()
    a |= {"I_db": np.zeros((7, 4)), "T_db": np.ones((7, 3)), "L_db": np.full((7, 1), 2)}
    found = read_pairs(save(tmp_path / "f.mat", a), "database")
    assert len(found) == 7 and found.labels.tolist() == [1] * 7


def test_pooled_in_several_files_of_a_folder(tmp_path):
    images, texts = RANDOM.normal(size=(10, 4)), (RANDOM.random((10, 6)) < 0.4).astype(np.uint8)
    labels = np.eye(3)[np.arange(10) % 3]
    labels[0, 2] = 1
    save(tmp_path / "mirflickr25k-iall-vgg.mat", {"XAll": images})
    save(tmp_path / "mirflickr25k-yall.mat", {"YAll": texts})
    save(tmp_path / "mirflickr25k-lall.mat", {"LAll": labels})
    train, test = read_pairs(tmp_path, "train", 4), read_pairs(tmp_path, "test", 4)
    assert len(train) == 6 and train.labels.dtype == np.bool_ and train.classes == 3
    np.testing.assert_array_equal(test.texts, texts[6:])
    assert test.ids.tolist() == [6, 7, 8, 9]
    with pytest.raises(ValueError, match=r"10 pairs without a split: .* queries=N"):
        read_pairs(tmp_path, "train")
    with pytest.raises(ValueError, match="queries must be from 1 to 9"):
        read_pairs(tmp_path, "train", 10)
    save(tmp_path / "again.npz", {"YAll": texts})
    with pytest.raises(ValueError, match=r"'YAll' in again\.npz and in mirflickr25k-yall\.mat"):
        read_pairs(tmp_path, "train", 4)


def test_iapr_and_coco_layouts(tmp_path):
    a = arrays()
    theirs = ("VDatabase", "YDatabase", "databaseL", "VTest", "YTest", "testL")
    ours = ("I_tr", "T_tr", "L_tr", "I_te", "T_te", "L_te")
    iapr = {name: a[known] for name, known in zip(theirs, ours, strict=True)}
    assert len(read_pairs(save(tmp_path / "iapr-tc12-rand.mat", iapr), "test")) == 5
    coco = {"XAll": a["I_tr"], "YAll": a["T_tr"], "LAll": np.eye(3)[a["L_tr"][:, 0] - 1]}
    assert len(read_pairs(save(tmp_path / "coco.h5", coco), "train", queries=2)) == 10


def pixels_and_more(count=10):
    pixels = RANDOM.integers(0, 256, size=(count, 3, 4, 6), dtype=np.uint8)
    texts = (RANDOM.random((count, 7)) < 0.4).astype(np.float64)
    return pixels, texts, np.eye(3)[np.arange(count) % 3]


def as_matlab(path, contents):
    """What MATLAB's `save -v7.3` writes: a header of 512 bytes, then HDF5 with axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in contents.items():
            file[name] = value.transpose()
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return path


@pytest.mark.parametrize("kind", ["MATLAB", "rows first", "channels last"])
def test_pixels_of_dcmh(tmp_path, kind):
    pixels, texts, labels = pixels_and_more()
    stored = {"YAll": texts, "LAll": labels}
    path = tmp_path / "FLICKR-25K.mat"
    if kind == "MATLAB":  # (H, W, C, N) there
        as_matlab(path, {**stored, "images": pixels.transpose(2, 3, 1, 0)})
    else:
        turned = pixels if kind == "rows first" else pixels.transpose(0, 2, 3, 1)
        with h5py.File(path, "w") as file:
            for name, value in {**stored, "images": turned}.items():
                file[name] = value
    train, test = read_pairs(path, "train", 4), read_pairs(path, "test", 4)
    assert train.raw and test.raw and test.ids.tolist() == [0, 1, 2, 3]  # the first are queries
    np.testing.assert_array_equal(test.images, pixels[:4])
    np.testing.assert_array_equal(train.images, pixels[4:])
    np.testing.assert_array_equal(train.texts, texts[4:])
    assert train.labels.argmax(1).tolist() == [i % 3 for i in range(4, 10)]
    means = test.with_features(lambda images: images.mean((2, 3)))
    np.testing.assert_allclose(means.images, pixels[:4].mean((2, 3)), rtol=1e-6)
    with pytest.raises(TypeError, match="has features of images already"):
        means.with_features(lambda images: images)
    report = check_dataset(path, "mirflickr25k_dcmh")
    differing = {f.subject: f.text for f in report.findings if f.level == "differs"}
    assert "queries must be from 1 to 9, got 2000" in differing["contents"]
    with pytest.raises(ValueError, match=r"10 pairs .* how many at the start are the queries"):
        read_pairs(path)


def test_pixels_apart_in_a_folder(tmp_path):
    pixels, texts, labels = pixels_and_more()
    as_matlab(tmp_path / "mirflickr25k-iall.mat", {"IAll": pixels.transpose(2, 3, 1, 0)})
    save(tmp_path / "mirflickr25k-yall.mat", {"YAll": texts})
    save(tmp_path / "mirflickr25k-lall.mat", {"LAll": labels})
    assert find_pairs(tmp_path).layout.name == "iall"
    np.testing.assert_array_equal(read_pairs(tmp_path, "all", 3).images, pixels)


@pytest.mark.parametrize("names", [("images", "YAll", "LAll"), ("image", "text", "label")])
def test_features_in_layouts_of_dcmh(tmp_path, names):
    images, (_, texts, labels) = RANDOM.normal(size=(10, 5)), pixels_and_more()
    path = save(tmp_path / "f.mat", dict(zip(names, (images, texts, labels), strict=True)))
    test = read_pairs(path, "test", 3)
    assert not test.raw and len(read_pairs(path, "database", 3)) == 7
    np.testing.assert_allclose(test.images, images[:3], rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((10, 3, 4, 6)), "images must be uint8 pixels, got float64 .* nothing subtracted"),
        (np.zeros((9, 3, 4, 6), np.uint8), r"images must be features \(10, width\), or pixels"),
        (np.zeros((10, 4), "<U1"), "'images' is no array of real numbers but <U1"),
    ],
)
def test_bad_pixels_are_named(tmp_path, images, message):
    _, texts, labels = pixels_and_more()
    path = save(tmp_path / "f.npz", {"images": images, "YAll": texts, "LAll": labels})
    with pytest.raises(ValueError, match=message):
        read_pairs(path, "train", 3)
    assert not check_dataset(path, "pairs").ok


def test_published_queries_follow_from_the_rows():
    for facts in PAIR_FACTS.values():
        rows = facts.queries + facts.retrieval
        assert QUERIES.get(rows, facts.queries) == facts.queries


def without(name):
    a = arrays()
    del a[name]
    return a


def changed(**values):
    return {**arrays(), **values}


WITH_NAN = np.zeros((12, 4))
WITH_NAN[7, 2] = np.nan
WRONG = {
    "a missing variable": (without("T_te"), r"lacks T_te of the layout 'parts'; it has I_tr \(12"),
    "wrong rows": (
        changed(T_tr=np.zeros((11, 3))), "I_tr has 12 rows and T_tr 11; row i .* lacks pairs"
    ),
    "on its side": (changed(T_tr=np.zeros((3, 12))), r"T_tr lies on its side: store T_tr\.T"),
    "NaN": (
        changed(I_tr=WITH_NAN),
        r"I_tr must be finite .* got nan in row 7, column 2 \(1 of 12 rows",
    ),
    "infinity": (changed(T_te=np.full((5, 3), np.inf)), r"T_te must be finite .* got inf in row 0"),
    "widths": (changed(I_te=np.zeros((5, 6))), "equally wide features, got I_tr 4, I_te 6"),
    "one-hot and numbers": (
        changed(L_te=np.eye(5)[:, :3]),
        "one form, got L_tr class numbers, L_te 3 columns of zeros and ones",
    ),
    "classes of one-hot": (
        changed(L_tr=np.eye(12)[:, :3], L_te=np.eye(5)[:, :4]), "L_tr 3 columns .* L_te 4 columns"
    ),
    "labels of other rows": (
        changed(L_tr=np.ones((9, 1))), r"L_tr must be classes \(12,\) .* got \(9, 1\)"
    ),
    "labels on their side": (changed(L_tr=np.ones((2, 12))), r"got \(2, 12\): turn them, L_tr\.T"),
    "fractions": (changed(L_tr=np.full((12, 1), 0.5)), "L_tr must be whole numbers"),
    "a matrix of numbers": (
        changed(L_tr=np.full((12, 2), 7)), r"L_tr \(12, 2\) must be zeros and ones"
    ),
    "minus one and one": (
        changed(L_tr=2 * np.eye(12)[:, :3] - 1), "got values from -1 to 1: write 0 for a class"
    ),
    "text for labels": (
        changed(L_tr=np.array(["cat"] * 12)), "'L_tr' is no array of real numbers but <U3"
    ),
    "complex": (changed(I_tr=np.zeros((12, 4), complex)), "'I_tr' is no array of real numbers"),
    "half a database": (changed(I_db=np.zeros((7, 4))), "has 'I_db' but no 'T_db'"),
    "both on their sides": (
        changed(I_tr=np.zeros((4, 12)), T_tr=np.zeros((3, 12))),
        r"both lie on their sides: store I_tr\.T and T_tr\.T",
    ),
    "negative": (changed(L_tr=np.full((12, 1), -1)), "L_tr must be classes from 0, got -1"),
    "no labels for a part": (without("L_te"), "labels for train but no 'L_te' for test"),
    "one axis": (changed(I_tr=np.zeros((3, 4, 2))), r"I_tr must be features \(pairs, width\)"),
    "another kind": ({"a": np.zeros(3)}, "none of the layouts of image-text features"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_bad_files_say_what_is_wrong(tmp_path, case):
    contents, message = WRONG[case]
    path = save(tmp_path / "features.npz", contents)
    with pytest.raises(ValueError, match=message) as caught:
        read_pairs(path)
    assert "features.npz" in str(caught.value)
    report = check_dataset(path, "pairs")
    assert not report.ok
    assert any(str(caught.value) == finding.text for finding in report.findings)


def test_labels_may_be_missing_altogether(tmp_path):
    a = {name: value for name, value in arrays().items() if not name.startswith("L")}
    path = save(tmp_path / "f.npz", a)
    assert read_pairs(path).labels is None
    report = check_dataset(path, "pairs")
    assert report.ok and "note" in {finding.level for finding in report.findings}


def test_lists_as_scipy_saves_them(tmp_path):
    a = arrays()
    a |= {name: a[name][:, 0].astype(float) for name in ("L_tr", "L_te")}  # (12,) -> (1, 12)
    assert read_pairs(save(tmp_path / "f.mat", a)).labels.tolist() == [i % 3 for i in range(12)]


def test_empty_parts_are_told(tmp_path):
    for part in ("tr", "te"):
        a = arrays()
        a |= {name: value[:0] for name, value in a.items() if name.endswith(part)}
        report = check_dataset(save(tmp_path / "f.npz", a), "pairs")
        assert any(f.level == "missing" and "no rows" in f.text for f in report.findings)


def test_other_variables_are_not_read(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, **arrays(), note=np.array([None, "text"], object))  # would need unpickling
    assert len(read_pairs(path)) == 12
    for queries in (2.0, True):
        with pytest.raises(TypeError, match="queries must be a whole number"):
            pooled = {"XAll": np.zeros((5, 2)), "YAll": np.zeros((5, 2))}
            read_pairs(save(tmp_path / "g.npz", pooled), "test", queries)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature file or folder"):
        read_pairs(tmp_path / "none.mat")
    with pytest.raises(FileNotFoundError, match="has no feature files"):
        read_pairs(tmp_path)
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(ValueError, match=r"bad\.mat cannot be read"):
        find_pairs(tmp_path / "bad.mat")
    with pytest.raises(ValueError, match="split must be train"):
        read_pairs(tmp_path, "val")


def test_the_check_compares_with_what_is_published(tmp_path):
    a = arrays(train=2173, test=693, image=128, text=10, classes=10)
    a["I_tr"][:, 9] = a["I_te"][:, 9] = 4
    report = check_dataset(save(tmp_path / "wiki.npz", a), "wiki")
    told = {f"{f.level} {f.subject}: {f.text}" for f in report.findings}
    assert report.ok, told
    assert "ok duplicates: no query is a training pair" in told
    assert "note images: 1 of 128 features are the same in all rows" in told
    a["I_te"][3], a["T_te"][3] = a["I_tr"][5], a["T_tr"][5]
    report = check_dataset(save(tmp_path / "wiki.npz", a), "wiki")
    assert any(f.text == "1 queries are training pairs as well" for f in report.findings)

    report = check_dataset(save(tmp_path / "wiki.npz", arrays()), "wiki")
    differing = {f.subject: f.text for f in report.findings if f.level == "differs"}
    assert differing["training pairs"] == "12; 2,173 are published"
    assert {"queries", "image features", "text features", "classes"} <= set(differing)
    unseen = arrays()
    unseen["L_te"][:] = 9
    report = check_dataset(save(tmp_path / "f.npz", unseen), "pairs")
    assert any("classes [8] of the queries are in no" in f.text for f in report.findings)
