"""`coophash diagnose`: numbers, pictures, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

import numpy as np
from PIL import Image

import coophash as ch
from coophash.generation import latent_grid


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    model = ch.CoopHash(8, 3, (3, 12, 12), base_channels=2, features=8, cooperative=False)
    model.save(folder)
    return folder


def test_numbers_and_pictures(work, run, plain, tmp_path, classes):
    done = run("diagnose", work / "model", work / "images", "--classifier", plain, "--samples", 3,
               "--rows", 2, "--out", tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["samples"] == 3 and found["class_names"] == list(classes)
    for value in (found["distance_real"], found["nearest_synthetic"], found["nearest_revised"]):
        assert f"{value:.2f}" in done.out
    assert f"diversity {found['diversity']:.2f}" in done.out
    assert f"a pixel moves by {found['chain_move']:.3f}" in done.out
    model = ch.load(work / "model")
    for name, revised in (("generated", False), ("revised", True)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape == (2 * 14 - 2, 3 * 14 - 2, 3)
        grid = latent_grid(model, 2, seed=0, revised=revised)
        expected = np.rint((grid[1, 2] + 1) * 127.5).transpose(1, 2, 0)
        np.testing.assert_allclose(pixels[14:26, 28:40], expected, atol=1)
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.size[0] > 500
    assert "training.png" in done.out


def test_what_has_no_generator_is_refused(work, run, plain, tmp_path):
    assert "without a generator" in run("diagnose", plain, work / "images", "--out", tmp_path,
                                        "--classifier", plain).error  # fmt: skip
    other = tmp_path / "other"
    ch.CoopHash(8, 2, (3, 12, 12), base_channels=2, features=8, cooperative=False).save(other)
    ask = ("diagnose", work / "model", work / "images", "--classifier")
    assert "knows 2 classes, the model 3" in run(*ask, other).error
    shutil.rmtree(other)
    ch.SupervisedHash("csq", 8, 3, (3, 12, 12), base_channels=2, features=8).save(other)
    assert "has no category head" in run(*ask, other).error
    assert "SupervisedHash: it has no generator" in run("diagnose", other, work / "images").error
