"""Tables from records: means, spreads, what is bold, and what may not stand in one table."""

import copy
import json
from pathlib import Path

import pytest

from coophash.recipe_table import make_table, read_records


def record(name, bits, seed, score, method=None, **changes):
    return {
        "recipe": "Small", "key": f"{name}-{bits}-bits-seed-{seed}", "name": name,
        "method": method or name, "bits": bits, "seed": seed, "data": {"name": "digits"},
        "data_hash": "d" * 16, "images": 5000, "training": {"updates": 100}, "commit": None,
        "machine": {"cpu": "CPU", "cores": 2}, "versions": {"torch": "2"}, "device": "cpu",
        "trained_images": 500, "validation_images": 500, "seconds": 60.25, "validation_map": 0.5,
        "protocol": {"fields": {"name": "p", "k": None, "ties": "average"},
                     "hash_of_rules": "r" * 16},
        "scores": {"map": score, "precision_at_radius": score / 2, "queries": 10,
                   "database": 3000, "protocol": "p"},
        **changes,
    }  # fmt: skip


FOUND = [
    record("csq", 16, 0, 0.5), record("csq", 16, 1, 0.6), record("csq", 16, 2, 0.7),
    record("coophash", 16, 0, 0.8), record("coophash", 16, 1, 0.9),
    record("csq-slow", 48, 0, 0.25, method="csq"), record("csq", 48, 0, 0.75),
]  # fmt: skip


def rows(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_table_is_mean_and_spread_over_seeds():
    assert rows(make_table(FOUND)) == [
        "| map | 16 bits | 48 bits |",
        "|---|---|---|",
        "| coophash | **0.8500** ± 0.0707 (2) | - |",
        "| csq | 0.6000 ± 0.1000 (3) | **0.7500** (1) |",
        "| csq-slow | - | 0.2500 (1) |",
    ]


def test_other_metrics():
    assert "0.4250 ± 0.0354 (2)" in make_table(FOUND, "precision_at_radius").replace("**", "")
    seconds = make_table(FOUND, "seconds")
    assert "| csq | 60.2 ± 0.0 (3) | 60.2 (1) |" in rows(seconds) and "**" not in seconds
    assert "0.5000 (1)" in make_table(FOUND, "validation_map").replace("**", "")
    with pytest.raises(ValueError, match="has no score 'recall'; there are map, precision_at"):
        make_table(FOUND, "recall")


def test_of_a_loss_the_smallest_is_best_and_some_methods_have_none():
    found = [
        record("csq", 16, 0, 0.5), record("coophash", 16, 0, 0.8), record("plain", 16, 0, 0.7),
    ]  # fmt: skip
    found[0]["scores"]["recovery_loss"], found[1]["scores"]["recovery_loss"] = 0.5, 0.25
    assert rows(make_table(found, "recovery_loss"))[2:] == [
        "| coophash | **0.2500** (1) |", "| plain | - |", "| csq | 0.5000 (1) |"
    ]  # fmt: skip


def test_what_stands_under_it():
    text = make_table(FOUND)
    for words in (
        "Small: data digits (5,000 images, dddddddddddddddd)", "protocol p (rrrrrrrrrrrrrrrr)",
        "all ranks", "ties average", "500 images to train on, 500 to choose", "10 queries, 3,000",
        "seeds 0, 1, 2", "updates: 100", "commit: unknown", "CPU, 2 cores", "torch: 2",
    ):  # fmt: skip
        assert words in text, words


def test_a_diverged_run_is_counted_apart():
    bad = record("csq", 16, 3, 0.0, error="training diverged")
    del bad["scores"], bad["trained_images"], bad["validation_images"]
    alone = copy.deepcopy(bad) | {"bits": 64}
    lines = rows(make_table([*FOUND, bad, alone]))
    assert lines[3] == "| csq | 0.6000 ± 0.1000 (3, 1 diverged) | **0.7500** (1) | 1 diverged |"


@pytest.mark.parametrize("change", ["protocol", "data_hash"])
def test_what_is_not_comparable_is_refused(change):
    other = record("dpsh", 16, 0, 0.5)
    if change == "protocol":
        other["protocol"]["hash_of_rules"] = "s" * 16
    else:
        other["data_hash"] = "e" * 16
    with pytest.raises(ValueError, match="not comparable"):
        make_table([*FOUND, other])


def test_a_seed_counts_once():
    again = record("csq", 16, 1, 0.9, file="b/record.json", recipe="Another")
    words = "^csq-16-bits-seed-1 and b/record.json are both csq at 16 bits with seed 1, which would"
    with pytest.raises(ValueError, match=f"{words} count twice: make a table of each"):
        make_table([*FOUND, again])
    del again["scores"]
    with pytest.raises(ValueError, match="count twice"):
        make_table([*FOUND, {**again, "error": "training diverged"}])


@pytest.mark.parametrize(
    "one, other, words",
    [
        ({"training": {"updates": 9}}, {}, "training.updates is 9 and 100"),
        ({"model": {"features": 8}}, {"model": {"features": 9}}, "model.features is 8 and 9"),
        # Left out of a record while it has its default.
        ({"model": {"backbone_rate": 0.5}}, {}, "model.backbone_rate is 0.5 and 0.1"),
        ({"version": 2}, {"version": 3}, "version at 16 bits is 2 and 3"),
        ({"method": "dtsh"}, {"method": "dpsh"}, "method is 'dtsh' and 'dpsh'"),
        ({"other_hash": "a"}, {"other_hash": "b"}, "other_hash is 'a' and 'b'"),
    ],
)
def test_one_name_is_one_setting(one, other, words):
    found = [
        {**record("own", 16, seed, 0.5, method="dtsh", file=f"{seed}/record.json"), **changes}
        for seed, changes in enumerate((one, other))
    ]
    words = f"^0/record.json and 1/record.json are both called own but {words}: make a table of"
    with pytest.raises(ValueError, match=words):
        make_table(found)
    make_table([found[0], {**found[1], "name": "other"}])  # a variant has a name of its own


def test_what_an_older_record_lacks_is_no_difference():
    new = {"updates": 100, "shift": 2}
    found = [
        record("csq", 16, 0, 0.5), record("csq", 16, 1, 0.5, training=new, version=2),
        record("csq", 16, 2, 0.5, training={**new, "shift": 1}),
    ]  # fmt: skip
    assert "| csq | 0.5000 ± 0.0000 (2) |" in rows(make_table(found[:2]))
    with pytest.raises(ValueError, match=r"seed-1 and .*seed-2 .* training.shift is 2 and 1"):
        make_table(found)


def test_defaults_that_depend_on_the_bits_are_one_setting():
    def dtsh(bits, margin, seed=0):
        model = {"bits": bits, "margin": margin}
        return record("dtsh", bits, seed, 0.5, model=model, version=2 + (bits == 32))

    make_table([dtsh(16, 8.0), dtsh(48, 24.0), dtsh(32, 16.0)])
    make_table([dtsh(16, 8.0), dtsh(48, 8.0)])
    with pytest.raises(ValueError, match=r"model.margin is 8.0 and 25.0"):
        make_table([dtsh(16, 8.0), dtsh(48, 25.0)])
    with pytest.raises(ValueError, match=r"model.margin is 8.0 and 24.0"):
        make_table([dtsh(16, 8.0), dtsh(16, 24.0, seed=1)])


def test_folders_thrown_together_are_refused_by_their_files(tmp_path):
    for folder, updates in (("one", 100), ("two", 200)):
        place = tmp_path / folder / "csq-16-bits-seed-0"
        place.mkdir(parents=True)
        found = record("csq", 16, int(folder == "two"), 0.5, training={"updates": updates})
        (place / "record.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"one/csq.*/record.json and .*two/csq.*/record.json are"):
        make_table(read_records(tmp_path))


RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipes"


@pytest.mark.parametrize("folder", sorted(path.name for path in RESULTS.iterdir()))
def test_every_committed_folder_makes_a_table(folder):
    assert rows(make_table(read_records(RESULTS / folder)))


def test_records_are_read_from_any_depth(tmp_path):
    for number, found in enumerate(FOUND):
        folder = tmp_path / ("deep" if number % 2 else ".") / found["key"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(found))
    assert rows(make_table(read_records(tmp_path))) == rows(make_table(FOUND))
    (folder / "record.json").write_text('{"scores": {}}')
    with pytest.raises(ValueError, match=r"record.json is damaged"):
        read_records(tmp_path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no record.json under"):
        read_records(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder at"):
        read_records(tmp_path / "none")
    with pytest.raises(ValueError, match="no records"):
        make_table([])
