"""The way from a folder of images to scores, each step by its command."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("PIL.Image")

import coophash as ch
from coophash.commands.train import hold_out, read_options, resume_command
from coophash.encoded import EncodedSet


def test_model_folder_can_be_loaded(work, classes):
    model = ch.load(work / "model")
    assert model.config.bits == 12 and model.config.features == 16
    assert model.config.image_shape == (3, 12, 12)
    assert model.class_names == classes
    history = json.loads((work / "model" / "history.json").read_text())
    assert history["settings"]["images"] == 30 and history["settings"]["validation_images"] == 6
    assert history["records"][-1]["update"] == 4


def test_codes_are_those_of_the_model(work, classes):
    encoded = EncodedSet.load(work / "codes.npz")
    images = ch.data.open_dataset(work / "images", "all")
    assert (encoded.codes == ch.load(work / "model").encode(images)).all()
    assert (encoded.labels == images.labels).all() and encoded.class_names == classes
    assert encoded.bits == 12 and encoded.paths == images.paths


def test_queries_that_were_trained_on_are_told_of(work, run, tmp_path):
    """Scores of images that the model has learned are not those of new ones."""
    encoded = EncodedSet.load(work / "codes.npz")
    assert encoded.learned is not None and int(encoded.learned.sum()) == 30
    done = run("evaluate", work / "codes.npz", "--query-count", 9, "--json", tmp_path / "s.json")
    count = json.loads((tmp_path / "s.json").read_text())["queries_learned"]
    assert 3 <= count <= 9
    assert f"warning: {count} of the 9 queries were trained on" in done.err
    encoded.subset(np.flatnonzero(~encoded.learned)).save(tmp_path / "q.npz")
    both = ("--queries", tmp_path / "q.npz", "--database", work / "codes.npz")
    done = run("evaluate", *both, "--json", tmp_path / "new.json")
    assert done.code == 0 and "trained on" not in done.err
    assert json.loads((tmp_path / "new.json").read_text())["queries_learned"] == 0
    # Without the fingerprints nothing is known, and nothing is said.
    EncodedSet(encoded.codes, 12, labels=encoded.labels).save(tmp_path / "c.npz")
    done = run("evaluate", tmp_path / "c.npz", "--query-count", 9, "--json", tmp_path / "o.json")
    assert (
        "trained on" not in done.err and "queries_learned" not in (tmp_path / "o.json").read_text()
    )


def test_a_refused_resume_leaves_the_fingerprints(work, run, tmp_path, make_images, options):
    shutil.copytree(work / "model", tmp_path / "model")
    other = make_images(tmp_path / "other", 12, seed=1)
    done = run("train", other, "--model", tmp_path / "model", "--bits", 12, "--updates", 4,
               "--batch-size", 12, "--resume", *options)  # fmt: skip
    assert "made with other images or labels" in done.error
    kept, before = ((f / "model" / "learned.npy").read_bytes() for f in (tmp_path, work))
    assert kept == before


def test_queries_that_find_themselves_are_told_of(work, run, tmp_path):
    encoded = EncodedSet.load(work / "codes.npz")
    rows = np.arange(9)
    encoded.subset(rows).save(tmp_path / "q.npz")
    encoded.subset(np.arange(9, 36)).save(tmp_path / "d.npz")
    words = "each finds itself first"
    for database, told in ((work / "codes.npz", True), (tmp_path / "d.npz", False)):
        done = run("evaluate", "--queries", tmp_path / "q.npz", "--database", database)
        assert done.code == 0 and (words in done.err) == told, done.err
    other = dataclasses.replace(encoded.subset(rows), paths=tuple(f"{n}.png" for n in rows))
    other.save(tmp_path / "o.npz")
    done = run("evaluate", "--queries", tmp_path / "o.npz", "--database", work / "codes.npz")
    assert done.code == 0 and words not in done.err


def test_damaged_fingerprints_are_named(work, run, tmp_path):
    shutil.copytree(work / "model", tmp_path / "model")
    (tmp_path / "model" / "learned.npy").write_bytes(b"no array")
    done = run("encode", tmp_path / "model", work / "images", "--out", tmp_path / "c.npz")
    assert "learned.npy is damaged" in done.error


def test_search_finds_what_the_index_holds(work, run, tmp_path, classes):
    done = run("search", work / "index", work / "codes.npz", "-k", 3, "--out", tmp_path / "r.npz")
    assert done.code == 0, done.err
    encoded = EncodedSet.load(work / "codes.npz")
    distances, ids = ch.hamming_topk(encoded.codes, encoded.codes, 3)
    with np.load(tmp_path / "r.npz", allow_pickle=False) as written:
        assert (written["distances"] == distances).all() and (written["ids"] == ids).all()
        assert (written["query_ids"] == encoded.ids).all()
    assert "36 queries, 36 codes" in done.out
    assert "cat [1]" in done.out, "square brackets are text, not markup"

    assert run("search", work / "index", work / "codes.npz", "-k", 3, "--out",
               tmp_path / "r.csv").code == 0  # fmt: skip
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0] == "query,rank,distance,id,item" and len(lines) == 1 + 36 * 3
    query, rank, distance, item, text = lines[1].split(",")
    assert [int(x) for x in (query, rank, distance, item)] == [0, 1, distances[0, 0], ids[0, 0]]
    assert text.startswith(classes[encoded.labels[ids[0, 0]]])


def test_search_for_an_image_file_and_for_a_folder(work, run):
    picture = work / "images" / "dog" / "3.png"
    done = run("search", work / "index", picture, "--model", work / "model", "-k", 40)
    assert done.code == 0, done.err
    assert "1 query, 36 codes" in done.out
    ranks = [line for line in done.out.splitlines() if re.match(r"│ +\d+ +│", line)]
    assert len(ranks) == 36, "no rows for results that are not there"
    assert re.match(r"│ +1 +│ +0 +│", ranks[0]), "the picture itself is in the index"
    done = run("search", work / "index", work / "images", "--model", work / "model", "-k", 1)
    assert done.code == 0 and "36 queries" in done.out


def test_evaluate_equals_the_metrics(work, run, tmp_path):
    done = run("evaluate", work / "codes.npz", "--query-count", 9, "--seed", 3, "-k", 5,
               "--json", tmp_path / "scores.json")  # fmt: skip
    assert done.code == 0, done.err
    encoded = EncodedSet.load(work / "codes.npz")
    rows = ch.data.split_indices(encoded.labels, {"query": 9, "database": None}, 3)
    q, d = encoded.subset(rows["query"]), encoded.subset(rows["database"])
    data = (q.codes, d.codes, q.labels, d.labels)
    scores = json.loads((tmp_path / "scores.json").read_text())
    for name, expected in {
        "queries": 9,
        "database": 27,
        "bits": 12,
        "seed": 3,
        "mean_average_precision": ch.metrics.mean_average_precision(*data),
        "map_worst": ch.metrics.mean_average_precision(*data, ties="worst"),
        "map_best": ch.metrics.mean_average_precision(*data, ties="best"),
        "precision_at_radius": ch.metrics.precision_at_radius(*data, radius=2),
        "map_at_k": ch.metrics.mean_average_precision(*data, k=5),
        "precision_at_k": ch.metrics.precision_at_k(*data, k=5),
    }.items():
        assert scores[name] == pytest.approx(expected), name
    assert f"{scores['mean_average_precision']:.4f}" in done.out

    q.save(tmp_path / "q.npz")
    d.save(tmp_path / "d.npz")
    again = run("evaluate", "--queries", tmp_path / "q.npz", "--database", tmp_path / "d.npz",
                "--json", tmp_path / "two.json")  # fmt: skip
    assert again.code == 0, again.err
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["mean_average_precision"] == scores["mean_average_precision"]
    assert two["map_at_k"] is None


def test_training_can_be_seen_through_other_layouts_and_options(run, tmp_path, make_idx):
    data = make_idx(tmp_path / "mnist")
    (tmp_path / "options.toml").write_text('langevin_steps = 1\npairs = "revised"\nfeatures = 16\n')
    done = run("train", data, "--model", tmp_path / "m", "--bits", 5, "--updates", 1,
               "--method", "plain",
               "--config", tmp_path / "options.toml", "--set", "features=8",
               "--set", "synthetic_triplets=pair", "--batch-size", 8,
               "--validation-fraction", 0)  # fmt: skip
    assert done.code == 0, done.err
    config = ch.load(tmp_path / "m").config
    assert (config.features, config.pairs, config.synthetic_triplets) == (8, "revised", "pair")
    assert not config.cooperative and config.image_shape == (1, 28, 28)
    done = run("encode", tmp_path / "m", data, "--split", "test", "--out", tmp_path / "c.npz")
    assert done.code == 0, done.err
    assert len(EncodedSet.load(tmp_path / "c.npz")) == 20


@pytest.mark.parametrize("method", ["csq", "coophash-without-generator"])
def test_every_method_goes_the_same_way(run, tmp_path, make_images, method):
    data, model = make_images(tmp_path / "images", 6), tmp_path / "model"
    done = run("train", data, "--model", model, "--method", method, "--updates", 3, "--bits", 8,
               "--learning-rate", 0.002,
               "--set", "features=8", "--set", "base_channels=4")  # fmt: skip
    assert done.code == 0, done.err
    history = json.loads((model / "history.json").read_text())
    assert history["settings"]["learning_rate"] == 0.002 and history["update"] == 3
    assert ch.load(model).config.features == 8
    done = run("encode", model, data, "--out", tmp_path / "codes.npz")
    assert done.code == 0, done.err
    assert EncodedSet.load(tmp_path / "codes.npz").bits == 8


def test_same_seed_gives_the_same_model(run, tmp_path, make_images, options):
    data = make_images(tmp_path / "images", 6)
    for name in ("a", "b"):
        assert run("train", data, "--model", tmp_path / name, "--updates", 2, "--bits", 8,
                   "--seed", 5, *options).code == 0  # fmt: skip
    a, b = (ch.load(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all((a[key] == b[key]).all() for key in a)


def test_labels_per_class_and_validation_are_seeded_and_disjoint(classes):
    labels = np.repeat(np.arange(3), 20)
    images = ch.data.ImageSet(np.zeros((60, 1, 8, 8), np.uint8), labels, classes)
    train, held = hold_out(images, 0.1, 4, seed=1)
    assert held is not None
    assert train.class_counts.tolist() == [4, 4, 4] and held.class_counts.tolist() == [2, 2, 2]
    assert not set(train.ids) & set(held.ids)
    again, _ = hold_out(images, 0.1, 4, seed=1)
    other, _ = hold_out(images, 0.1, 4, seed=2)
    assert (again.ids == train.ids).all() and set(other.ids) != set(train.ids)
    whole, none = hold_out(images, 0.0, None, seed=1)
    assert none is None and sorted(whole.ids) == list(range(60))
    with pytest.raises(ValueError, match="--labels-per-class 19 needs 57 images of 3 classes"):
        hold_out(images, 0.1, 19, seed=1)
    uneven = images.subset(np.r_[0:20, 20:40, 40:44])
    with pytest.raises(ValueError, match="class 'fox' has 3 images to train on"):
        hold_out(uneven, 0.1, 5, seed=1)


def test_options_are_read_with_their_types(tmp_path):
    file = tmp_path / "options.toml"
    file.write_text("margin = 0.5\nlangevin_steps = 3\n")
    assert read_options(file, ["langevin_steps=7", "pairs=revised", "synthetic_weight = 1e-1"]) == {
        "margin": 0.5,
        "langevin_steps": 7,
        "pairs": "revised",
        "synthetic_weight": 0.1,
    }


def test_resume_command_can_be_pasted():
    words = ["coophash", "train", "my images", "--model", "m"]
    assert resume_command(["/some/where/coophash", *words[1:]]) == (
        "coophash train 'my images' --model m --resume"
    )
    module = resume_command(["/some/coophash/__main__.py", *words[1:], "--resume"])
    assert module == "python -m coophash train 'my images' --model m --resume"


def test_version_and_help(run):
    assert run("--version").out.strip() == f"coophash {ch.__version__}"
    done = run("--help")
    for name in ("demo", "train", "encode", "index", "search", "evaluate", "doctor"):
        assert name in done.out
        assert run(name, "-h").code == 0
