"""Model folders: round trips, and every kind of damage named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import coophash as ch
from coophash.checkpoints import CONFIG_FILE, MODEL_FILE, write_atomically


@pytest.fixture
def folder(tmp_path):
    model = ch.CoopHash(
        12, 2, (1, 10, 10), ("cat", "dog"), base_channels=4, features=8, generator_channels=2
    )
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(folder):
    model = ch.load(folder)
    assert model.config.bits == 12 and model.config.image_shape == (1, 10, 10)
    assert model.class_names == ("cat", "dog")
    saved = load_file(folder / MODEL_FILE)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert json.loads((folder / CONFIG_FILE).read_text())["coophash"] == ch.__version__


def _replace(folder, change):
    path = folder / CONFIG_FILE
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def _tensors(folder, change):
    tensors = load_file(folder / MODEL_FILE)
    change(tensors)
    save_file(tensors, folder / MODEL_FILE)


DAMAGES = {
    "no folder": (lambda f: f.rename(f.with_name("gone")), FileNotFoundError, "no model folder"),
    "no config": (lambda f: (f / CONFIG_FILE).unlink(), FileNotFoundError, "has no config.json"),
    "no weights": (lambda f: (f / MODEL_FILE).unlink(), FileNotFoundError, "is missing"),
    "no JSON": (lambda f: (f / CONFIG_FILE).write_text("{"), ValueError, "no valid JSON"),
    "other JSON": (lambda f: (f / CONFIG_FILE).write_text("[]"), ValueError, "'config' table"),
    "other model": (
        lambda f: _replace(f, lambda d: d.update(model="Other")), ValueError, "model 'Other'"
    ),
    "bad setting": (
        lambda f: _replace(f, lambda d: d["config"].update(bits=-1)), ValueError, "bits must be"
    ),
    "missing setting": (
        lambda f: _replace(f, lambda d: d["config"].pop("bits")), ValueError, "damaged"
    ),
    "other size": (
        lambda f: _replace(f, lambda d: d["config"].update(bits=13)), ValueError, "expected (2, 13"
    ),
    "cut weights": (
        lambda f: (f / MODEL_FILE).write_bytes((f / MODEL_FILE).read_bytes()[:-9]),
        ValueError, "damaged",
    ),
    "garbage": (lambda f: (f / MODEL_FILE).write_bytes(b"garbage"), ValueError, "damaged"),
    "empty": (lambda f: (f / MODEL_FILE).write_bytes(b""), ValueError, "damaged"),
    "missing tensor": (
        lambda f: _tensors(f, lambda t: t.pop("descriptor.hash_head.bias")), ValueError,
        "1 tensors missing, 'descriptor.hash_head.bias'",
    ),
    "extra tensor": (
        lambda f: _tensors(f, lambda t: t.update(more=torch.zeros(1))), ValueError, "'more'"
    ),
    "NaN": (
        lambda f: _tensors(f, lambda t: t["descriptor.hash_head.bias"].fill_(float("nan"))),
        ValueError, "NaN or infinity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(folder, name):
    damage, error, words = DAMAGES[name]
    damage(folder)
    with pytest.raises(error) as caught:
        ch.load(folder)
    assert words in str(caught.value)


def test_saving_over_a_file_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotADirectoryError, match="is a file"):
        ch.load(folder).save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_model_saved_before_an_option_was_there_loads(tmp_path):
    model = ch.CoopHash(9, 3, (1, 12, 12), base_channels=4, features=16, generator_channels=2)
    model.save(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    options = written["config"]
    for name in ("observed_share", "cooperate_every", "without"):
        del options[name]
    path.write_text(json.dumps(written))
    loaded = ch.load(tmp_path)
    assert loaded.config == model.config
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 12, 12), np.uint8)
    assert np.array_equal(loaded.encode(images), model.encode(images))
