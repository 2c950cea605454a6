"""Running a recipe: recorded once, in pieces, by several processes, and never mixed up."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import coophash as ch
from coophash import recipe_runner
from coophash.checkpoints import CHECKPOINT_FILE
from coophash.data import ImageSet
from coophash.methods import make_model
from coophash.recipe import read_recipe
from coophash.recipe_runner import HISTORY_FILE, RECORD_FILE, run_recipe

TOML = """
title = "Stripes"
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
updates = 6
batch_size = 8
validate_every = 3
[grid]
methods = ["plain", "csq"]
bits = [8]
seeds = [0, 1]
[methods.plain]
base_channels = 4
features = 8
generator_channels = 2
[methods.csq]
base_channels = 4
features = 8
"""


def stripes(count=120, seed=0):
    source = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = source.integers(0, 60, (count, 1, 12, 12), np.uint8)
    for row, label in enumerate(labels):
        images[row, 0, :, 4 * label : 4 * label + 4] += 150
    return ImageSet(images, labels.astype(np.int64), ("left", "middle", "right"))


def recipe_of(folder, text=TOML):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stripes.toml").write_text(text)
    return read_recipe(folder / "stripes.toml")


def run(folder, text=TOML, images=None, **settings):
    recipe = recipe_of(folder / "recipe", text)
    images = stripes() if images is None else images
    return run_recipe(recipe, images, folder / "grid", progress=False, **settings)


def records(folder):
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((folder / "grid").glob(f"*/{RECORD_FILE}"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The grid, done in one go."""
    folder = tmp_path_factory.mktemp("whole")
    lines = []
    done = run(folder, say=lines.append)
    assert (done.total, done.recorded, done.elsewhere, done.stopped) == (4, 4, (), None)
    assert lines[0] == "run 1 of 4: plain-8-bits-seed-0" and len(lines) == 8
    return folder


def test_a_record_says_all_that_a_figure_needs(whole):
    found = records(whole)
    assert sorted(found) == [f"{m}-8-bits-seed-{s}" for m in ("csq", "plain") for s in (0, 1)]
    record = found["csq-8-bits-seed-1"]
    assert (record["method"], record["bits"], record["seed"]) == ("csq", 8, 1)
    assert record["model"]["quantization_weight"] == 0.05, "defaults are written out"
    assert record["training"] == {
        "updates": 6, "batch_size": 8, "validate_every": 3, "learning_rate": 3e-3,
        "generator_learning_rate": 1e-3, "schedule": "cosine", "averaging": 0.99,
        "shift": 0, "flip": False,
    }  # fmt: skip
    assert record["trained_images"] == 30 and record["validation_images"] == 15
    assert record["updates"] == 6 and record["kept_update"] in (3, 6)
    assert record["scores"]["queries"] == 18 and record["scores"]["database"] == 57
    assert record["seconds"] >= 0 and record["machine"]["cores"] >= 1
    assert record["versions"]["torch"] == torch.__version__ and record["device"] == "cpu"
    assert record["protocol"]["fields"]["seed"] == 1
    assert record["images"] == 120 and len(record["data_hash"]) == 16
    assert str(whole) not in json.dumps(record), "no place of this machine"


def test_the_score_is_that_of_the_kept_model(whole):
    folder = whole / "grid" / "plain-8-bits-seed-1"
    record = json.loads((folder / RECORD_FILE).read_text())
    model, images = ch.load(folder), stripes()
    run_of = next(r for r in recipe_of(whole / "recipe").runs if r.key == record["key"])
    split = run_of.protocol.split(images.labels)
    score = ch.metrics.mean_average_precision(
        model.encode(images.subset(split.query)), model.encode(images.subset(split.database)),
        images.labels[split.query], images.labels[split.database],
    )  # fmt: skip
    assert record["scores"]["map"] == pytest.approx(score)
    assert record["scores"]["split_hash"] == split.hash == record["protocol"]["split_hash"]
    assert json.loads((folder / HISTORY_FILE).read_text())["update"] == 6
    assert not (folder / CHECKPOINT_FILE).exists()


def test_what_is_recorded_is_skipped(whole):
    before = {path: path.read_bytes() for path in (whole / "grid").rglob("*.json")}
    lines = []
    assert run(whole, say=lines.append).recorded == 4 and lines == []
    assert before == {path: path.read_bytes() for path in (whole / "grid").rglob("*.json")}


def test_pieces_give_the_records_of_one_go(whole, tmp_path):
    """With no time at all each call does one update and stops."""
    calls, done = 0, None
    while done is None or done.stopped is not None:
        done = run(tmp_path, minutes=0)
        calls += 1
        assert done.recorded == calls // 6
    assert calls == 24
    expected, found = records(whole), records(tmp_path)
    assert found.keys() == expected.keys()
    for key, record in found.items():
        assert record["scores"] == expected[key]["scores"]
        assert record["hash"] == expected[key]["hash"]
        one, other = (ch.load(f / "grid" / key).state_dict() for f in (tmp_path, whole))
        assert all(torch.equal(one[name], other[name]) for name in one), key


def test_an_interrupted_run_goes_on(whole, tmp_path, monkeypatch):
    from coophash import training

    original, calls = training.supervised_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "supervised_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert sorted(records(tmp_path)) == ["plain-8-bits-seed-0"]
    assert (tmp_path / "grid" / "csq-8-bits-seed-0" / CHECKPOINT_FILE).exists()
    assert run(tmp_path).recorded == 4
    assert len(calls) == 4 + 3 + 6 + 0, "the first three updates were not done again"
    for key, record in records(tmp_path).items():
        assert record["scores"] == records(whole)[key]["scores"]


def _work(folder):
    torch.set_num_threads(1)
    lines = []
    recipe = read_recipe(folder / "recipe" / "stripes.toml")
    done = run_recipe(recipe, stripes(), folder / "grid", progress=False, say=lines.append)
    return done.recorded, [line for line in lines if line.startswith("run ")]


def test_two_processes_share_a_grid(whole, tmp_path):
    recipe_of(tmp_path / "recipe")
    # This file again, as a program: a spawned process could not import it under its name here.
    other = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        found = [_work(tmp_path)]
        found.append(json.loads(other.communicate(timeout=120)[0]))
    finally:
        other.kill()
    assert other.returncode == 0
    begun = [line.split(": ")[1] for _, lines in found for line in lines]
    assert sorted(begun) == sorted(records(tmp_path)), "each run was begun once"
    assert len(begun) == 4 and max(recorded for recorded, _ in found) == 4
    for key, record in records(tmp_path).items():
        assert record["scores"] == records(whole)[key]["scores"]


def test_a_run_that_another_holds_is_left_to_it(tmp_path):
    with recipe_runner._lock(tmp_path / "grid" / "csq-8-bits-seed-0") as mine:
        assert mine
        done = run(tmp_path)
    assert done.elsewhere == ("csq-8-bits-seed-0",) and done.recorded == 3
    assert run(tmp_path).recorded == 4


def test_other_settings_do_not_mix(whole):
    with pytest.raises(ValueError, match=r"training.updates is 6 there, not 7\): give another"):
        run(whole, TOML.replace("updates = 6", "updates = 7"))
    with pytest.raises(ValueError, match=r"model.features is 8 there, not 9"):
        run(whole, TOML.replace("features = 8", "features = 9"))
    with pytest.raises(ValueError, match="protocol_hash is"):
        run(whole, TOML.replace("query = 18", "query = 21"))
    with pytest.raises(ValueError, match="is of other images"):
        run(whole, images=stripes(seed=1))
    assert len(records(whole)) == 4


def test_what_was_begun_with_other_settings_does_not_go_on(tmp_path):
    assert run(tmp_path, minutes=0).stopped == "plain-8-bits-seed-0"
    with pytest.raises(ValueError, match=r"run.json is of other settings \(training.updates"):
        run(tmp_path, TOML.replace("updates = 6", "updates = 60"))


@pytest.mark.parametrize(
    "method, bits, options, version",
    [
        ("plain", 16, {}, 2), ("plain", 48, {}, 2), ("coophash", 8, {}, 2),
        ("coophash", 32, {}, 3), ("plain", 64, {}, 3), ("coophash-without-energy", 32, {}, 3),
        ("plain", 32, {"ranking": "contrastive"}, 2), ("csq", 32, {}, 2),
    ],
)  # fmt: skip
def test_records_whose_centres_are_others_now_are_of_another_version(
    method, bits, options, version
):
    """With ten classes, Hadamard's rows of order 32 and 64 repeat bits."""
    small = {"base_channels": 4, "features": 8, **options}
    model = make_model(method, bits, 10, (1, 12, 12), **small)
    assert recipe_runner._version(model, ("corruption",)) == version


def test_centres_of_the_model_of_fewer_classes_count_too():
    """At 16 bits ten classes have Hadamard's rows as before, seven have drawn ones now."""
    model = make_model("plain", 16, 10, (1, 12, 12), base_channels=4, features=8)
    assert recipe_runner._version(model, ()) == 2
    assert recipe_runner._version(model, ("unseen",)) == 3


def test_records_of_an_older_version_do_not_count(tmp_path, monkeypatch):
    text = TOML.replace("bits = [8]", "bits = [12, 32]").replace("seeds = [0, 1]", "seeds = [0]")
    with monkeypatch.context() as patch:
        patch.setattr(recipe_runner, "_version", lambda model, evaluations: 2)
        assert run(tmp_path, text).recorded == 4
    recipe = recipe_of(tmp_path / "recipe", text)
    found, wanted = records(tmp_path), recipe_runner._settings(recipe, stripes())
    assert [key for key in wanted if found[key]["hash"] != wanted[key]["hash"]] == [
        "plain-32-bits-seed-0"
    ]
    with pytest.raises(ValueError, match=r"plain-32-bits.*version is 2 there, not 3"):
        run(tmp_path, text)


def test_a_damaged_record_is_named(whole, tmp_path):
    shutil.copytree(whole / "grid", tmp_path / "grid")
    path = tmp_path / "grid" / "csq-8-bits-seed-0" / RECORD_FILE
    path.write_text("{")
    with pytest.raises(ValueError, match=r"record.json is damaged: remove it"):
        run(tmp_path)
    path.unlink()
    assert run(tmp_path).recorded == 4


def test_a_run_that_diverges_is_recorded_and_the_rest_goes_on(tmp_path):
    lines = []
    text = TOML.replace("[methods.csq]", "[methods.csq]\nlearning_rate = 1e30\nupdates = 40")
    text = text.replace("validate_every = 3", 'validate_every = 3\nschedule = "constant"')
    done = run(tmp_path, text, say=lines.append)
    assert done.recorded == 4
    found = records(tmp_path)
    assert "diverged" in found["csq-8-bits-seed-0"]["error"]
    assert "scores" not in found["csq-8-bits-seed-0"]
    assert found["plain-8-bits-seed-1"]["scores"]["map"] > 0
    assert any("Lower learning_rate" in line for line in lines)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("image_size = 12", "image_size = 28", "images of 28 pixels, these have 12"),
        ("query = 18", "query = 100", "there are 120|of the 120|120"),
        ("validation = 15", "validation = 45", "keeps all 45 training images back"),
        ("classes = 3", "classes = 2", "classes"),
        ("[methods.csq]", "[methods.csq]\nquantization_weight = -1.0", "quantization_weight must"),
        ("bits = [8]", "bits = [8, 5000]", "bits must be from 1 to 4096"),
        ("[methods.csq]", "[methods.csq]\nbatch_size = 1", r"\[methods.csq\]: batch_size must be"),
        ("[methods.csq]", "[methods.csq]\nlearning_rate = -1e-3", "csq.*finite and above 0, got -"),
        ("[methods.csq]", "[methods.csq]\ncheckpoint_every = 0", "csq.*checkpoint_every must be"),
        ("[methods.csq]", "[methods.csq]\nshift = 6", "csq.*shift must be at most 5 pixels"),
        ("updates = 6", 'updates = 6\nschedule = "linear"', r"\[train\] .*schedule must be"),
        ("updates = 6", "updates = 6\naveraging = 1.0", r"\[train\] .*averaging must be"),
        ("updates = 6", "updates = 6.0", r"\[train\] .*updates must be an integer"),
        ("updates = 6", "updates = 6\nflip = 1", r"\[train\] .*flip must be bool, got 1"),
        (
            'rule = "stratified"\nquery = 18\ntrain = 45\nvalidation = 15',
            'rule = "random"\nquery = 18\ntrain = 45\nvalidation = 1',
            "validation has no two images of one class.*raise validation in",
        ),
        ("validation = 15", "validation = 42", "class 0 .* has 1 training image"),
    ],
)
def test_what_does_not_fit_is_said_before_any_training(tmp_path, old, new, words):
    with pytest.raises((TypeError, ValueError), match=words):
        run(tmp_path, TOML.replace(old, new))
    assert not list(tmp_path.glob("grid/*"))


def test_a_run_that_failed_before_its_first_checkpoint_does_not_hold_the_folder(
    tmp_path, monkeypatch
):
    from coophash import training

    def broken(*arguments, **settings):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(training, "cooperative_step", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(tmp_path)
    text = TOML.replace("updates = 6", "updates = 3")
    assert run(tmp_path, text, minutes=0).stopped == "plain-8-bits-seed-0"
    with monkeypatch.context() as patch:  # now there is a checkpoint, of these settings
        patch.setattr(training, "cooperative_step", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(tmp_path, text)
    with pytest.raises(ValueError, match=r"is of other settings .* or remove .* to begin the run"):
        run(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "grid").write_text("precious")
    with pytest.raises(NotADirectoryError, match="is a file"):
        run(tmp_path)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(_work(Path(sys.argv[1]))))
