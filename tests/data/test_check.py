"""Checks of data folders: a whole one passes, and each fault is found and named."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct

import numpy as np
import pytest

from coophash.data import check_dataset, cifar10, cifar100, known
from coophash.data.finding import git_id


def texts(report, level):
    return [f"{f.subject}: {f.text}" for f in report.findings if f.level == level]


def find(report, level, pattern):
    found = texts(report, level)
    assert any(re.search(pattern, text) for text in found), (pattern, found)


@pytest.fixture
def small(monkeypatch):
    """CIFAR-10 of 10 images a file and MNIST of 20 + 10, so that files written here are whole."""
    small = {
        "cifar10": {"parts": {"train": 50, "test": 10}, "per_class": {"train": 5, "test": 1}},
        "mnist": {"parts": {"train": 20, "test": 10}, "per_class": {"train": 2, "test": 1}},
        "cifar100": {"parts": {"train": 100, "test": 100}, "per_class": {"train": 1, "test": 1}},
    }
    for name, fields in small.items():
        changed = dataclasses.replace(known.KNOWN[name], **fields)
        monkeypatch.setitem(known.KNOWN, name, changed)
    monkeypatch.setattr(cifar10.read_cifar10, "__defaults__", ("train", 10))
    monkeypatch.setattr(cifar100, "IMAGES", {"train": 100, "test": 100})


@pytest.fixture
def cifar(tmp_path, small):
    folder = tmp_path / cifar10.FOLDER
    folder.mkdir()
    random = np.random.default_rng(0)
    for names in cifar10.FILES.values():
        for name in names:
            records = random.integers(0, 256, (10, 3073), dtype=np.uint8)
            records[:, 0] = np.arange(10)
            records.tofile(folder / name)
    return folder


def test_cifar10_whole(cifar):
    for root in (cifar, cifar.parent):
        report = check_dataset(root, "cifar10")
        assert report.ok and not texts(report, "note")
        find(report, "ok", r"train: 50 images of 3 x 32 x 32, 5 of each of 10 classes")
        find(report, "ok", r"duplicates: no image is there twice")


def test_cifar10_missing_and_cut_short(cifar):
    (cifar / "data_batch_2.bin").unlink()
    (cifar / "data_batch_5.bin").unlink()
    raw = (cifar / "test_batch.bin").read_bytes()
    (cifar / "test_batch.bin").write_bytes(raw[:-1])
    report = check_dataset(cifar, "cifar10")
    assert not report.ok
    assert texts(report, "missing") == ["train: data_batch_2.bin, data_batch_5.bin"]
    find(report, "differs", r"test: .*test_batch.bin has 30,729 bytes, expected 30,730")


def test_cifar10_labels(cifar):
    raw = bytearray((cifar / "test_batch.bin").read_bytes())
    raw[3 * 3073] = 9
    (cifar / "test_batch.bin").write_bytes(raw)
    find(
        check_dataset(cifar, "cifar10"), "differs",
        "test: 10 images .*; 2 of 10 classes have another number .* class 3 0 and not 1",
    )  # fmt: skip
    raw[3 * 3073] = 10
    (cifar / "test_batch.bin").write_bytes(raw)
    find(check_dataset(cifar, "cifar10"), "differs", "image 3 has label 10, expected 0 to 9")


def test_images_that_are_there_twice(cifar):
    one = np.fromfile(cifar / "data_batch_1.bin", np.uint8).reshape(10, 3073)
    two = np.fromfile(cifar / "test_batch.bin", np.uint8).reshape(10, 3073)
    two[4, 1:], one[7, 1:] = one[2, 1:], one[2, 1:]
    one.tofile(cifar / "data_batch_1.bin")
    two.tofile(cifar / "test_batch.bin")
    report = check_dataset(cifar, "cifar10")
    assert report.ok
    find(
        report,
        "note",
        r"2 images are there before, .* 1 of them in the other part \(first train 2 a",
    )


def test_python_layouts(tmp_path, small, python2):
    random = np.random.default_rng(0)
    ten, hundred = tmp_path / cifar10.PYTHON_FOLDER, tmp_path / "h" / cifar100.FOLDERS["python"]
    ten.mkdir()
    hundred.mkdir(parents=True)
    for names in cifar10.files("python").values():
        for name in names:
            pixels = random.integers(0, 256, (10, 3072), dtype=np.uint8)
            batch = {"data": pixels, "labels": list(range(10))}
            (ten / name).write_bytes(python2.dumps(batch))
    assert check_dataset(tmp_path, "cifar10").ok
    (ten / "data_batch_3").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    find(
        check_dataset(tmp_path, "cifar10"),
        "differs",
        r"train: .*data_batch_3 is not read: .*os.sys",
    )
    for part in ("train", "test"):
        batch = {"data": random.integers(0, 256, (100, 3072), dtype=np.uint8)}
        batch |= {"fine_labels": list(range(100)), "coarse_labels": [0] * 100}
        (hundred / part).write_bytes(python2.dumps(batch))
    meta = {"fine_label_names": [str(n) for n in range(100)], "coarse_label_names": ["x"] * 20}
    (hundred / "meta").write_bytes(python2.dumps(meta))
    assert check_dataset(tmp_path / "h", "cifar100").ok
    (hundred / "test").unlink()
    assert texts(check_dataset(hundred, "cifar100"), "missing") == ["test: test"]


def test_mnist(tmp_path, small):
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes()
        )
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, count) + bytes(n % 10 for n in range(count))
        )
    assert check_dataset(tmp_path, "mnist").ok
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    report = check_dataset(tmp_path, "mnist")
    assert texts(report, "missing") == ["test: t10k-labels-idx1-ubyte (or .gz)"]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">IIII", 2051, 20, 14, 28) + random.bytes(20 * 14 * 28)
    )
    find(
        check_dataset(tmp_path, "mnist"),
        "differs",
        "20 images of 1 x 14 x 28; published are 1 x 28",
    )


def test_nothing_there(tmp_path):
    for name in known.KNOWN:
        report = check_dataset(tmp_path, name)
        assert not report.ok and texts(report, "missing")
    find(check_dataset(tmp_path / "none", "coco"), "missing", "none does not exist")
    with pytest.raises(ValueError, match="no data set 'cifar' is known, only cifar10"):
        check_dataset(tmp_path, "cifar")
    with pytest.raises(ValueError, match="cifar10 comes without list files"):
        check_dataset(tmp_path, "cifar10", lists=tmp_path)
    with pytest.raises(ValueError, match="images must be an integer >= 0"):
        check_dataset(tmp_path, "coco", images=-1)


LISTS = {"test": ["q0", "q1"], "train": ["d1", "d2"], "database": ["d0", "d1", "d2", "d3"]}


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A set of lists, known as "nuswide_21", with an image for each path."""
    pillow = pytest.importorskip("PIL.Image")
    root = tmp_path / "root"
    root.mkdir()
    random = np.random.default_rng(0)
    for number, path in enumerate(sorted({p for paths in LISTS.values() for p in paths})):
        pixels = random.integers(0, 256, (10 + number, 12, 3), dtype=np.uint8)
        pillow.fromarray(pixels).save(root / f"{path}.png")
    for name, paths in LISTS.items():
        lines = [f"{path}.png {' '.join('1' if int(path[1]) == c else '0' for c in range(4))}"
                 for path in paths]  # fmt: skip
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    ids = {"query": git_id(root / "test.txt"), "train": git_id(root / "train.txt")}
    changed = dataclasses.replace(
        known.KNOWN["nuswide_21"], classes=4, list_ids=ids,
        parts={"query": 2, "train": 2, "database": 4},
    )  # fmt: skip
    monkeypatch.setitem(known.KNOWN, "nuswide_21", changed)
    return root


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_lists_whole(listed, tmp_path):
    report = check_dataset(listed, "nuswide_21")
    assert report.ok and not texts(report, "note"), report.findings
    find(report, "ok", r"^test.txt: 2 images, 4 classes, the published list$")
    find(report, "ok", r"^database.txt: 4 images, 4 classes$")  # its id is not known here
    find(report, "ok", "2 of 2 training images are in the database")
    find(report, "ok", "sizes: 6 of 6 images opened: 10 to 15 high, 12 wide")
    find(report, "ok", "content: no query has a twin")
    few = check_dataset(listed, "nuswide_21", images=2)
    find(few, "ok", "sizes: 2 of 6 images opened: 13 to 14 high")
    assert "sizes" not in [
        f.subject for f in check_dataset(listed, "nuswide_21", images=0).findings
    ]
    assert check_dataset(listed, "lists").ok
    for name in LISTS:
        (tmp_path / f"{name}.txt").write_bytes((listed / f"{name}.txt").read_bytes())
        (listed / f"{name}.txt").unlink()
    assert check_dataset(listed, "nuswide_21", lists=tmp_path).ok
    (tmp_path / "test.txt").write_bytes(
        (tmp_path / "test.txt").read_bytes().replace(b"\n", b"\r\n")
    )
    assert check_dataset(listed, "nuswide_21", lists=tmp_path).ok  # as Windows checks it out


FAULTS = {
    # file, old, new -> level, finding
    "another list": ("test.txt", "q0.png 1 0", "q0.png 0 1", "differs", "not the published list"),
    "count": ("database.txt", "d3.png 0 0 0 1\n", "", "differs", "3 images, .*; 4 images are publ"),
    "twice": ("database.txt", "d0.png", "d1.png", "differs", "1 paths are there more .* d1.png"),
    "malformed": ("train.txt", "d2.png 0 0", "d2.png 0", "differs", "train.txt, line 2: exp"),
    "query too": ("database.txt", "d3.png", "q1.png", "differs", "query, database: 1 of 2 .* q1.p"),
    "not in": ("database.txt", "d2.png", "q9.png", "differs", "1 of 2 training .*; published are"),
    "labels": ("database.txt", "d1.png 0 1", "d1.png 0 0", "differs", "d1.png has other labels in"),
    "no label": ("database.txt", "d3.png 0 0 0 1", "d3.png 0 0 0 0", "note", "1 images have no la"),
    "gone": ("database.txt", "d3.png", "x3.png", "missing", "1 of 4 are not under .* x3.png"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_faults_of_lists(listed, what):
    name, old, new, level, message = FAULTS[what]
    edit(listed / name, old, new)
    report = check_dataset(listed, "nuswide_21")
    find(report, level, message)
    assert report.ok == (level == "note")


def test_classes_of_lists(listed):
    for name in LISTS:
        path = listed / f"{name}.txt"
        path.write_text("".join(f"{line} 0\n" for line in path.read_text().splitlines()))
    report = check_dataset(listed, "nuswide_21")
    find(report, "differs", "test.txt: 2 images, 5 classes; NUS-WIDE, 21 labels has 4 classes")


def test_single_label_lists(listed, monkeypatch):
    changed = dataclasses.replace(
        known.KNOWN["imagenet"], classes=4, parts=known.KNOWN["nuswide_21"].parts,
        per_class={"train": (0, 1, 1, 0), "query": (1, 0, 0, 1)}, list_ids={},
    )  # fmt: skip
    monkeypatch.setitem(known.KNOWN, "imagenet", changed)
    edit(listed / "database.txt", "d3.png 0 0 0 1", "d3.png 0 1 0 1")
    report = check_dataset(listed, "imagenet")
    find(report, "differs", "database.txt: .* 1 images have no label or several, first d3.png")
    find(report, "differs", "test.txt: .* 2 classes have another number of images than published")
    find(report, "ok", "train.txt: 2 images, 4 classes")


def test_twins_and_damage(listed):
    (listed / "d3.png").write_bytes((listed / "q1.png").read_bytes())
    report = check_dataset(listed, "nuswide_21")
    find(report, "differs", r"content: 1 queries have a twin .* first .*q1.png and .*d3.png")
    (listed / "d0.png").write_bytes(b"no image")
    (listed / "d3.png").write_bytes(bytes(len((listed / "q1.png").read_bytes())))  # of equal size
    report = check_dataset(listed, "nuswide_21")
    find(report, "ok", "no query has a twin")
    find(report, "differs", r"2 of 6 images opened are damaged, first .*d0.png")


def test_the_git_id_is_git_s(tmp_path):
    (tmp_path / "f").write_bytes(b"hello\r\n")
    # As `git hash-object` prints for "hello\n".
    assert git_id(tmp_path / "f") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hashlib.sha1(b"blob 6\0hello\n").hexdigest() == git_id(tmp_path / "f")


def test_the_table_of_known_sets_is_sound():
    for name, each in known.KNOWN.items():
        assert each.name == name and each.title and each.expects
        parts = (
            {"query", "train", "database"}
            if each.layout in ("lists", "pairs")
            else {"train", "test"}
        )
        assert set(each.parts) == parts and set(each.list_ids) <= parts
        assert all(re.fullmatch("[0-9a-f]{40}", git) for git in each.list_ids.values())
        assert len(set(each.list_ids.values())) == len(each.list_ids)
        for part, number in each.per_class.items():
            total = sum(number) if isinstance(number, tuple) else number * each.classes
            assert total == each.parts[part]
