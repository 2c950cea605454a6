"""Lists of images with several labels each: train, encode, evaluate."""

import json

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("PIL.Image")

from PIL import Image

import coophash as ch
from coophash.encoded import EncodedSet


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """30 images with three labels, each lit in a column of its own; lists beside and elsewhere."""
    folder, random = tmp_path_factory.mktemp("lists"), np.random.default_rng(0)
    (folder / "images").mkdir()
    lines, single = [], []
    for n in range(30):
        labels = random.random(3) < 0.4
        labels[n % 3] = True
        pixels = random.integers(0, 60, (14, 14, 3))
        for label in np.flatnonzero(labels):
            pixels[:, 5 * label : 5 * label + 4] += 180
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"images/{n}.png")
        lines.append(f"images/{n}.png {' '.join('01'[int(x)] for x in labels)}")
        single.append(f"images/{n}.png {' '.join('1' if x == n % 3 else '0' for x in range(3))}")
    (folder / "train.txt").write_text("\n".join(lines[:20]) + "\n")
    (folder / "test.txt").write_text("\n".join(lines[20:]) + "\n")
    (folder / "single.txt").write_text("\n".join(single) + "\n")
    (folder / "other").mkdir()
    (folder / "other" / "test.txt").write_text("\n".join(lines[20:]) + "\n")
    return folder


def train(run, data, model, options, *more):
    return run("train", data, "--model", model, "--image-size", 12, "--bits", 12, "--updates", 4,
               "--batch-size", 6, *options, *more)  # fmt: skip


def test_a_list_with_several_labels_trains_encodes_and_scores(lists, run, options, tmp_path):
    model = tmp_path / "model"
    done = train(run, lists / "train.txt", model, options, "--shift", 1, "--flip",
                 "--validation-fraction", 0.2)  # fmt: skip
    assert done.code == 0, done.err
    assert "16 images to train on, 4 held out, 3 labels, 3 x 12 x 12" in done.out
    settings = json.loads((model / "history.json").read_text())["settings"]
    assert settings["shift"] == 1 and settings["flip"] is True
    assert ch.load(model).multi_label
    for name, listed in (("q", "other/test.txt"), ("d", "train.txt")):
        more = ["--images", lists] if name == "q" else []
        done = run("encode", model, lists / listed, "--out", tmp_path / f"{name}.npz", *more)
        assert done.code == 0, done.err
    asked, there = (EncodedSet.load(tmp_path / f"{name}.npz") for name in "qd")
    assert asked.labels.dtype == np.bool_ and asked.labels.shape == (10, 3)
    assert asked.paths[0] == "images/20.png" and len(there) == 20
    pixels = ch.data.read_image_list(lists / "test.txt").read(lists, size=12)
    assert np.array_equal(asked.codes, ch.load(model).encode(pixels))
    done = run("evaluate", "--queries", tmp_path / "q.npz", "--database", tmp_path / "d.npz",
               "--json", tmp_path / "s.json")  # fmt: skip
    assert done.code == 0, done.err
    expected = ch.metrics.mean_average_precision(
        asked.codes, there.codes, asked.labels, there.labels
    )
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["mean_average_precision"] == pytest.approx(expected)


def test_a_list_with_one_label_each_is_a_set_of_classes(lists, run, options, tmp_path):
    done = train(run, lists / "single.txt", tmp_path / "m", options, "--labels-per-class", 4)
    assert done.code == 0, done.err
    assert "12 images to train on, 6 held out, 3 classes" in done.out
    assert not ch.load(tmp_path / "m").multi_label
    done = run("encode", tmp_path / "m", lists / "single.txt", "--out", tmp_path / "c.npz")
    assert done.code == 0, done.err
    assert np.array_equal(EncodedSet.load(tmp_path / "c.npz").labels, np.arange(30) % 3)


@pytest.mark.parametrize(
    "command, words",
    [
        ("train {l}/train.txt --model {t}/m", "needs --image-size"),
        ("train {l}/train.txt --model {t}/m --image-size 12 --labels-per-class 3",
         "--labels-per-class is for one label an image"),
        ("train {l}/train.txt --model {t}/m --image-size 12 --validation-fraction 0.01",
         "holds 0 of 20 images out"),
        ("train {l}/train.txt --model {t}/m --image-size 12 --split all", "--split is not for a"),
        ("train {l}/train.txt --model {t}/m --image-size 12 --skip-damaged", "take lines out"),
        ("train {l}/other/test.txt --model {t}/m --image-size 12", "10 of the 10 images"),
        ("train {l} --model {t}/m --images {l}", "--images is for a list"),
        ("train {l}/train.txt --model {t}/m --image-size 100", 'backbone="resnet18"'),
        ("train {l}/train.txt --model {t}/m --image-size 12 --shift 9", "shift must be at most 5"),
    ],
)  # fmt: skip
def test_errors(lists, run, tmp_path, command, words):
    arguments = command.format(l=lists, t=tmp_path).split()
    assert words in run(*arguments).error
