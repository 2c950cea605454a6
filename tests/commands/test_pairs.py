"""The way from image-text pairs to scores, each step by its command."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")

import coophash as ch
from coophash.cli import main
from coophash.cross_modal import IMAGE, TEXT, evaluate_cross_modal, instance_recall, split_ids
from coophash.encoded import EncodedSet

SETTINGS = ["image_hidden=[12]", "text_hidden=[12]", "negatives=16", "batch_size=16", "epochs=3",
            "standardize=true", "learning_rate=0.003"]  # fmt: skip
OPTIONS = [word for option in SETTINGS for word in ("--set", option)]


def save_features(path, classes=3, several=False):
    random = np.random.default_rng(0)
    centres = random.normal(size=(classes, 4))
    maps = random.normal(size=(4, 7)), random.normal(size=(4, 5))
    arrays = {}
    for part, count in (("tr", 60), ("te", 20)):
        labels = np.arange(count) % classes
        inner = centres[labels] + 0.2 * random.normal(size=(count, 4))
        arrays |= {f"I_{part}": inner @ maps[0], f"T_{part}": inner @ maps[1]}
        one_hot = np.eye(classes, dtype=np.uint8)[labels]
        arrays[f"L_{part}"] = one_hot if several else labels + 1
    np.savez(path, **arrays)
    return path


def quietly(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert not stop.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    data, model = save_features(folder / "wiki.npz"), folder / "model"
    quietly("train", data, "--method", "ucch", "--model", model, "--bits", 24, *OPTIONS)
    for part in ("train", "test"):
        quietly("encode", model, data, "--out", folder / f"{part}.npz", "--split", part)
    quietly("index", folder / "train.npz", "--out", folder / "index")
    return folder


def test_the_model_is_that_of_the_options(trained):
    model = ch.load(trained / "model")
    assert isinstance(model, ch.UCCH) and model.config.epochs == 3 and model.config.bits == 24
    history = json.loads((trained / "model" / "history.json").read_text())
    assert history["settings"]["validation"] == 6 and len(history["records"]) == 3


def test_codes_of_both_modalities_say_which_they_are(trained):
    encoded = EncodedSet.load(trained / "test.npz")
    pairs = ch.data.read_pairs(trained / "wiki.npz", "test")
    model = ch.load(trained / "model")
    assert len(encoded) == 40 and encoded.modalities.tolist() == [IMAGE] * 20 + [TEXT] * 20
    assert np.array_equal(encoded.codes[:20], model.encode_image(pairs))
    assert np.array_equal(encoded.codes[20:], model.encode_text(pairs))
    numbers, modalities = split_ids(encoded.ids)
    assert np.array_equal(modalities, encoded.modalities)
    assert numbers.tolist() == 2 * list(range(60, 80))
    assert encoded.subset(np.array([25])).describe(0).startswith("text  ")


def test_a_search_can_be_for_one_modality(trained, run, tmp_path):
    def ids(*options):
        out = tmp_path / "r.npz"
        done = run(
            "search", trained / "index", trained / "test.npz", "-k", 60, "--out", out, *options
        )
        assert done.code == 0, done.err
        with np.load(out) as found:
            return found["ids"]

    both, texts, images = ids(), ids("--find", "text"), ids("--find", "image")
    assert set(both.ravel() % 2) == {0, 1}
    assert set(texts.ravel() % 2) == {1} and set(images.ravel() % 2) == {0}
    assert set(texts[0] // 2) == set(range(60))
    done = run("search", trained / "index", trained / "wiki.npz", "--model", trained / "model")
    assert done.code == 0 and "160 queries, 120 codes" in done.out, done.err


def test_scores_of_both_directions(trained, run, tmp_path):
    done = run(
        "evaluate", "--queries", trained / "test.npz", "--database", trained / "train.npz", "-k", 5,
        "--json", tmp_path / "s.json",
    )  # fmt: skip
    assert done.code == 0 and "image to text" in done.out, done.err
    scores = json.loads((tmp_path / "s.json").read_text())
    model = ch.load(trained / "model")
    q, d = (ch.data.read_pairs(trained / "wiki.npz", part) for part in ("test", "train"))
    wanted = evaluate_cross_modal(
        model.encode_image(q), model.encode_text(q), model.encode_image(d), model.encode_text(d),
        q.labels, d.labels, bits=24, k=5,
    )  # fmt: skip
    assert scores == json.loads(json.dumps(wanted.as_dict()))


def test_recall_of_the_own_half_where_there_are_no_labels(trained, run, tmp_path):
    with np.load(trained / "wiki.npz") as file:
        np.savez(tmp_path / "f.npz", **{name: file[name] for name in file if name[0] != "L"})
    for part in ("train", "test"):
        out = tmp_path / f"{part}.npz"
        assert run("encode", trained / "model", tmp_path / "f.npz", "--out", out,
                   "--split", part).code == 0  # fmt: skip
    test = tmp_path / "test.npz"
    done = run("evaluate", "--queries", test, "--database", test, "--json", tmp_path / "s.json",
               "-k", 20)  # fmt: skip
    assert done.code == 0 and "recall@5" in done.out, done.err
    scores = json.loads((tmp_path / "s.json").read_text())
    q, model = ch.data.read_pairs(trained / "wiki.npz", "test"), ch.load(trained / "model")
    own = np.arange(20)
    wanted = instance_recall(model.encode_text(q), model.encode_image(q), own, own, (1, 20))
    assert scores["text_to_image"]["recall@1"] == pytest.approx(wanted[1])
    assert scores["image_to_text"]["recall@20"] == 1.0
    done = run("evaluate", "--queries", test, "--database", tmp_path / "train.npz")
    assert done.code and "some queries are no pair of the database" in done.err
    done = run("evaluate", "--queries", test, "--database", trained / "test.npz")
    assert done.code and "the queries have no labels" in done.err


def test_pairs_that_were_trained_on_are_told_of(trained, run, tmp_path):
    """And that one file of pairs is not to be torn into queries and database."""
    done = run("evaluate", "--queries", trained / "train.npz", "--database", trained / "test.npz")
    assert done.code == 0 and "60 query pairs were given for training" in done.out, done.out
    done = run("evaluate", "--queries", trained / "test.npz", "--database", trained / "train.npz")
    assert done.code == 0 and "given for training" not in done.out
    done = run("evaluate", trained / "train.npz", "--query-count", 10)
    assert "has images and texts, which --query-count would mix" in done.error
    codes = EncodedSet.load(trained / "train.npz")
    images = codes.subset(np.flatnonzero(codes.modalities == IMAGE))
    EncodedSet(images.codes, 24, images.ids, images.labels, images.class_names).save(
        tmp_path / "images.npz"
    )
    done = run(
        "evaluate", "--queries", tmp_path / "images.npz", "--database", trained / "train.npz"
    )
    assert "must both be images, or both pairs" in done.error


def test_other_pairs_of_the_same_numbers_are_not_the_own_half(trained, run, tmp_path):
    """Tables count from 0, each for itself: without labels the paths tell them apart."""
    codes = EncodedSet.load(trained / "test.npz")
    for name, word in (("q", "one"), ("d", "other")):
        paths = tuple(f"{word} {n}" for n in range(len(codes)))
        EncodedSet(
            codes.codes, 24, codes.ids, paths=paths, modalities=codes.modalities
        ).save(tmp_path / f"{name}.npz")  # fmt: skip
    done = run("evaluate", "--queries", tmp_path / "q.npz", "--database", tmp_path / "d.npz")
    assert "is 'one 0' where the database has 'other 0'" in done.error


def test_a_database_apart_can_be_encoded(trained, run, tmp_path):
    with np.load(trained / "wiki.npz") as file:
        arrays = dict(file)
    for name in ("I", "T", "L"):
        arrays[f"{name}_db"] = arrays[f"{name}_tr"][:7]
    np.savez(tmp_path / "f.npz", **arrays)
    out = tmp_path / "db.npz"
    done = run("encode", trained / "model", tmp_path / "f.npz", "--out", out, "--split", "database")
    assert done.code == 0, done.err
    codes = EncodedSet.load(trained / "train.npz").codes
    assert np.array_equal(EncodedSet.load(out).codes, codes[[*range(7), *range(60, 67)]])


def test_several_labels_a_pair(run, tmp_path, trained):
    data = save_features(tmp_path / "f.npz", several=True)
    for part in ("train", "test"):
        out = tmp_path / f"{part}.npz"
        assert run("encode", trained / "model", data, "--out", out, "--split", part).code == 0
    assert EncodedSet.load(tmp_path / "test.npz").labels.shape == (40, 3)
    done = run("evaluate", "--queries", tmp_path / "test.npz", "--database", tmp_path / "train.npz")
    again = run("evaluate", "--queries", trained / "test.npz", "--database", trained / "train.npz")
    assert done.code == 0 and done.out == again.out  # one label each, written in two ways


def test_pixels_without_a_split(run, tmp_path):
    random, data, model = np.random.default_rng(0), tmp_path / "FLICKR-25K.npz", tmp_path / "m"
    np.savez(
        data, images=random.integers(0, 256, (40, 3, 6, 6), np.uint8), LAll=np.eye(2)[[0, 1] * 20],
        YAll=random.random((40, 5)),
    )  # fmt: skip
    done = run("data", "check", data, "pairs")
    assert done.code == 0 and "is for you to say" in done.out, done.out
    command = ["train", data, "--method", "ucch", "--model", model, "--bits", 9, *OPTIONS]
    done = run(*command)
    assert done.code and "--set queries=N" in done.err
    done = run(*command, "--set", "queries=8", "--set", "size=4", "--set", "words=3")
    assert done.code and "option 'words' is for tables" in done.err
    done = run(*command, "--set", "queries=8", "--set", "size=4")
    assert done.code == 0 and "images 48" in done.out + done.err, done.err
    done = run("encode", model, data, "--out", tmp_path / "q.npz", "--split", "test")
    assert done.code and "coophash encode: --queries N" in done.err
    done = run(
        "encode", model, data, "--out", tmp_path / "q.npz", "--split", "test", "--queries", 8
    )
    assert done.code == 0, done.err
    encoded, kept = EncodedSet.load(tmp_path / "q.npz"), ch.load(model)
    raw = ch.data.read_pairs(data, "test", 8)
    assert np.array_equal(encoded.codes[:8], kept.encode_image(raw.images))
    assert encoded.ids.tolist() == [*range(0, 16, 2), *range(1, 16, 2)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    rows = ["image,text,label"]
    for n in range(40):
        colour = n % 2
        pixels = random.integers(0, 40, (20, 24, 3))
        pixels[..., 2 * colour] += 200
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
        word = ("red", "blue")[colour]
        rows.append(f"{n}.png,a {word} picture {n % 5},{word}")
    (folder / "photos.csv").write_text("\n".join(rows))
    return folder


def test_a_table_of_images_and_texts(photos, run, tmp_path):
    table, model = photos / "photos.csv", tmp_path / "model"
    options = [*OPTIONS, "--set", "size=4", "--set", "words=20", "--set", "epochs=30"]
    done = run("train", table, "--method", "ucch", "--model", model, "--bits", 16, *options)
    assert done.code == 0, done.err
    loaded = ch.load(model)
    assert loaded.config.image_dim == 48 and "red" in loaded.text_source.vocabulary
    assert run("encode", model, table, "--out", tmp_path / "c.npz").code == 0
    encoded = EncodedSet.load(tmp_path / "c.npz")
    assert encoded.paths[3] == "3.png" and encoded.paths[43] == "a blue picture 3"
    assert run("index", tmp_path / "c.npz", "--out", tmp_path / "index").code == 0

    def found(query):
        out = tmp_path / "r.npz"
        done = run("search", tmp_path / "index", query, "--model", model, "-k", 10, "--find",
                   "image", "--out", out)  # fmt: skip
        assert done.code == 0, done.err
        with np.load(out) as result:
            return result["ids"][0] // 2 % 2

    assert found("a red picture").mean() < 0.3 and found("a blue picture").mean() > 0.7
    assert found(photos / "1.png").mean() > 0.7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--updates", "10"], "--updates is not for --method ucch: give --set epochs=N"),
        (["--image-size", "8"], "--image-size is not for --method ucch: give --set size=N"),
        (["--skip-damaged"], "--skip-damaged is not for --method ucch: leave it out"),
        (["--set", "beta=0.5"], "unknown option 'beta'; ucch has preset, image_hidden"),
        (["--set", "image_dim=5"], "unknown option 'image_dim'"),
        (["--set", "words=5"], "option 'words' is for tables of images and texts alone"),
        (["--set", "preset=flickr"], "preset must be one of"),
        (["--validation-fraction", "0.9"], "batch_size must be at most the 6 pairs"),
    ],
)
def test_wrong_training_options(trained, run, tmp_path, words, message):
    done = run(
        "train",
        trained / "wiki.npz",
        "--method",
        "ucch",
        "--model",
        tmp_path / "m",
        *OPTIONS,
        *words,
    )
    assert message in done.error


def test_wrong_input_elsewhere(trained, photos, run, tmp_path):
    model, index = trained / "model", trained / "index"
    out = ["--out", tmp_path / "c.npz"]
    table = photos / "photos.csv"
    assert "give a feature file" in run("encode", model, table, *out).error
    assert "for images, not for pairs" in run("encode", model, table, *out, "--fit").error
    assert "no queries at 'a red bus'" in run("search", index, "a red bus", "--model", model).error
    done = run("search", index, photos / "1.png", "--model", model)
    assert "the model takes features of images" in done.error
    half = EncodedSet.load(trained / "test.npz").subset(np.arange(30)).save(tmp_path / "half.npz")
    done = run("evaluate", "--queries", half, "--database", trained / "train.npz")
    assert "the queries must be pairs" in done.error
    bare = EncodedSet(np.zeros((3, 3), np.uint8), 24).save(tmp_path / "bare.npz")
    assert run("index", bare, "--out", tmp_path / "bare").code == 0
    done = run("search", tmp_path / "bare", bare, "--find", "text")
    assert "--find is for an index of image-text pairs" in done.error


def test_the_check_of_feature_files(trained, run, tmp_path):
    done = run("data", "check", trained / "wiki.npz", "pairs")
    told = " ".join(done.out.split())  # long lines are folded
    assert done.code == 0 and "60 pairs, images 7, texts 5, 3 classes" in told
    done = run("data", "check", trained / "wiki.npz", "wiki")
    assert done.code == 1 and "60; 2,173 are published" in done.out
    assert "mirflickr25k_fea" in run("data", "list").out
