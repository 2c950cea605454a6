"""What a recipe's `evaluate` adds: records, summaries, tables, in one go and in pieces."""

import dataclasses
import json
import types

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import recipe_evaluation
from coophash.checkpoints import CHECKPOINT_FILE
from coophash.data import ImageSet
from coophash.diagnostics import generator_report, real_classifier
from coophash.evaluation import (
    choose_unseen,
    evaluate_collections,
    evaluate_corruptions,
    evaluate_recovery,
)
from coophash.recipe import read_recipe
from coophash.recipe_evaluation import unseen_classes
from coophash.recipe_runner import RECORD_FILE, UNSEEN_FOLDER, run_recipe
from coophash.recipe_table import make_table, read_records

TOML = """
evaluate = ["retrieval", "unseen", "corruption", "recovery"]
[data]
name = "stripes"
[protocol]
rule = "stratified"
query = 18
train = 45
validation = 15
classes = 3
image_size = 12
[train]
updates = 4
batch_size = 8
validate_every = 2
[grid]
methods = ["coophash", "csq"]
bits = [8]
seeds = [1]
[methods.coophash]
latent_dim = 4
generator_channels = 2
langevin_steps = 1
base_channels = 4
features = 8
[methods.csq]
base_channels = 4
features = 8
"""
KEYS = ("coophash-8-bits-seed-1", "csq-8-bits-seed-1")


def stripes():
    source = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = source.integers(0, 60, (120, 1, 12, 12), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label : 4 * label + 4] += 150
    return ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"))


def run(folder, text=TOML, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stripes.toml").write_text(text)
    recipe = read_recipe(folder / "stripes.toml")
    done = run_recipe(recipe, stripes(), folder / "grid", progress=False, **settings)
    return recipe, done


def record(folder, key):
    return json.loads((folder / "grid" / key / RECORD_FILE).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder)[1].recorded == 2
    return folder


def test_records_are_those_of_the_functions(whole):
    recipe, _ = run(whole)
    images = stripes()
    split = recipe.runs[0].protocol.split(images.labels)
    queries, database = images.subset(split.query), images.subset(split.database)
    model = ch.load(whole / "grid" / KEYS[0])
    found = record(whole, KEYS[0])
    assert set(found["evaluations"]) == {"unseen", "corruption", "recovery"}
    shifted = evaluate_corruptions(model, queries, database, seed=1)
    assert found["evaluations"]["corruption"] == json.loads(json.dumps(shifted.as_dict()))
    assert found["scores"]["corruption_loss"] == pytest.approx(shifted.loss)
    mended = evaluate_recovery(model, queries, database, seed=1)
    assert found["evaluations"]["recovery"] == json.loads(json.dumps(mended.as_dict()))
    assert found["scores"]["occlusion_recovered_map"] == pytest.approx(
        np.mean([s.mean_average_precision for s in mended.recovered["occlusion"].values()])
    )
    clean = found["evaluations"]["corruption"]["clean"]["mean_average_precision"]
    assert clean == pytest.approx(found["scores"]["map"])


def test_unseen_classes_are_not_trained_on(whole):
    for key in KEYS:
        found = record(whole, key)
        model = ch.load(whole / "grid" / key / UNSEEN_FOLDER)
        dropped = found["evaluations"]["unseen"]["unseen"]
        assert dropped == list(choose_unseen(3, 1, seed=1)) and model.config.classes == 2
        names = ("left", "middle", "right")
        assert model.class_names == tuple(n for c, n in enumerate(names) if c not in dropped)
        scores = found["evaluations"]["unseen"]
        assert scores["unseen@all"]["queries"] == 6 and scores["unseen@all"]["database"] == 57
        assert scores["unseen@unseen"]["database"] == 19
        assert found["scores"]["unseen_map"] == scores["unseen@unseen"]["mean_average_precision"]
        assert not list((whole / "grid" / key).rglob(CHECKPOINT_FILE))


def test_methods_that_cannot_recover_have_no_such_figure(whole):
    assert set(record(whole, KEYS[1])["evaluations"]) == {"unseen", "corruption"}
    table = make_table(read_records(whole / "grid"), "recovery_loss")
    assert "| csq | - |" in table and "| coophash | **" in table
    assert "| csq | " in make_table(read_records(whole / "grid"), "unseen_loss")


def test_pieces_give_the_records_of_one_go(whole, tmp_path):
    done, calls = None, 0
    while done is None or done.stopped is not None:
        _, done = run(tmp_path, minutes=0)
        calls += 1
    assert calls > 8 and done.recorded == 2
    for key in KEYS:
        one, other = record(tmp_path, key), record(whole, key)
        assert one["scores"] == other["scores"] and one["evaluations"] == other["evaluations"]
        weights = [
            ch.load(f / "grid" / key / UNSEEN_FOLDER).state_dict() for f in (tmp_path, whole)
        ]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_list_is_other_settings(whole):
    with pytest.raises(ValueError, match="is of other settings"):
        run(whole, TOML.replace('"unseen", ', ""))


def test_how_many_classes_are_left_out():
    assert [len(unseen_classes(n, 0)) for n in (3, 4, 5, 10, 100)] == [1, 1, 2, 3, 30]
    with pytest.raises(ValueError, match="needs at least 3 classes, got 2"):
        unseen_classes(2, 0)


COLLECTION = TOML.replace(
    'evaluate = ["retrieval", "unseen", "corruption", "recovery"]',
    'evaluate = ["collection"]\n[other]\nname = "thin stripes"',
).replace('["coophash", "csq"]', '["csq"]').replace(
    """[methods.coophash]
latent_dim = 4
generator_channels = 2
langevin_steps = 1
base_channels = 4
features = 8
""", "")  # fmt: skip


def other(count=40, **changes):
    """The same classes, their stripes narrower."""
    labels = np.arange(count) % 3
    images = np.zeros((count, 1, 12, 12), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label + 1 : 4 * label + 3] = 250
    found = ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"))
    return dataclasses.replace(found, **changes)


def test_another_collection_is_asked_and_searched(tmp_path):
    recipe, done = run(tmp_path, COLLECTION, other=other())
    assert done.recorded == 1
    images, (key,) = stripes(), [each.key for each in recipe.runs]
    split = recipe.runs[0].protocol.split(images.labels)
    queries, database = images.subset(split.query), images.subset(split.database)
    drawn = np.random.RandomState(1).permutation(40)
    asked, searched = (other().subset(np.sort(part)) for part in (drawn[:10], drawn[10:]))
    model = ch.load(tmp_path / "grid" / key)
    wanted = evaluate_collections(model, queries, database, asked, searched)
    found = record(tmp_path, key)
    assert found["evaluations"] == {"collection": json.loads(json.dumps(wanted.as_dict()))}
    scores = found["scores"]
    assert scores["collection_loss"] == pytest.approx(wanted.loss)
    assert scores["other_queries_map"] == wanted.other_queries.mean_average_precision
    assert scores["other_database_map"] == wanted.other_database.mean_average_precision
    assert scores["other_map"] == wanted.other.mean_average_precision
    assert wanted.home.mean_average_precision == pytest.approx(scores["map"])
    assert found["other"]["name"] == "thin stripes" and found["other_images"] == 40

    changed = other(images=other().images // 2)
    with pytest.raises(ValueError, match="is of other images"):
        run(tmp_path, COLLECTION, other=changed)
    with pytest.raises(ValueError, match="is of other settings"):
        run(tmp_path, COLLECTION.replace("thin", "thick"), other=other())


@pytest.mark.parametrize(
    "given, words",
    [
        (None, "needs the images of"),
        (other(class_names=("left", "right", "middle")), "must have the classes of"),
        (other(images=np.zeros((40, 3, 12, 12), np.uint8)), r"images of \(1, 12, 12\), got \(3"),
        (other(7), "at least 8 images, got 7"),
    ],
    ids=["none", "classes", "shape", "few"],
)
def test_a_collection_that_cannot_be_asked(tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, COLLECTION, other=given)
    assert not (tmp_path / "grid").exists()


def test_generators_are_judged_by_real_images_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_evaluation, "CLASSIFIER_UPDATES", 30)
    text = TOML.replace('["retrieval", "unseen", "corruption", "recovery"]', '["generator"]')
    recipe, _ = run(tmp_path, text)
    images = stripes()
    split = recipe.runs[0].protocol.split(images.labels)
    known = images.subset(split.database)
    wanted = generator_report(
        ch.load(tmp_path / "grid" / KEYS[0]), images.subset(split.query), seed=1,
        classifier=real_classifier(known.images, known.labels, 3, updates=30, seed=1),
        training=images.subset(split.train),
    )  # fmt: skip
    found = record(tmp_path, KEYS[0])
    assert found["evaluations"] == {"generator": json.loads(json.dumps(wanted.as_dict()))}
    assert found["scores"]["generator_accuracy"] == wanted.accuracy
    assert found["scores"]["generator_revised_diversity"] == wanted.diversity_revised
    assert record(tmp_path, KEYS[1])["evaluations"] == {}  # CSQ has none
    table = make_table(read_records(tmp_path / "grid"), "generator_real_accuracy")
    assert "| csq | - |" in table and f"**{wanted.accuracy_real:.4f}**" in table


def test_generators_of_large_images_are_refused_before_training():
    large = ImageSet(np.zeros((4, 1, 65, 8), np.uint8), np.arange(4) % 2, ("a", "b"))
    rows = np.arange(4)
    split = types.SimpleNamespace(query=rows, database=rows)
    with pytest.raises(ValueError, match="at most 64 pixels, got 65"):
        recipe_evaluation.check_generator(large, split)


def test_generators_need_two_queries_of_each_class_before_training(tmp_path):
    text = TOML.replace('["retrieval", "unseen", "corruption", "recovery"]', '["generator"]')
    with pytest.raises(ValueError, match="2 images of each class in queries, got 1 of one"):
        run(tmp_path, text.replace("query = 18", "query = 3"))
    assert not list(tmp_path.rglob(RECORD_FILE))
