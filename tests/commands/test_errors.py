"""What a user can get wrong on the command line: each shows as one clear line and exit 2."""

from __future__ import annotations

import json
import os
import shlex
import shutil

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("PIL.Image")

from PIL import Image

import coophash as ch
from coophash.cli import main
from coophash.encoded import EncodedSet

# What a user can get wrong: the command, and words that its one line must have.
WRONG = {
    "no data": ("train {t}/none --model {t}/m", "none does not exist"),
    "data is a file": ("train {w}/codes.npz --model {t}/m", "is a file"),
    "no layout": ("train {w}/model --model {t}/m", "holds none of the layouts"),
    "no test part": ("train {w}/images --split test --model {t}/m", "no test/ folder"),
    "model is a file": ("train {w}/images --model {w}/codes.npz", "is a file: give a folder"),
    "earlier run": ("train {w}/images --model {w}/model", "add --resume to go on"),
    "nothing to resume": ("train {w}/images --model {t}/m --resume", "no checkpoint in"),
    "resume with other settings": (
        "train {w}/images --model {w}/model --resume --bits 24 --updates 9", "model",
    ),
    "fraction": ("train {w}/images --model {t}/m --validation-fraction 1", "below 1, got 1"),
    "too many labels": ("train {w}/images --model {t}/m --labels-per-class 99", "there are 36"),
    "unknown method": ("train {w}/images --model {t}/m --method lsh", "method must be one of"),
    "option of another method": (
        "train {w}/images --model {t}/m --method csq --set langevin_steps=3",
        "unknown option 'langevin_steps'; csq has base_channels",
    ),
    "method as an option": (
        "train {w}/images --model {t}/m --set without=energy", "'without' is set by --method"
    ),
    "no rate": ("train {w}/images --model {t}/m --learning-rate 0", "--learning-rate must be"),
    "unknown option": ("train {w}/images --model {t}/m --set speed=1", "unknown option 'speed'"),
    "option of another place": ("train {w}/images --model {t}/m --set bits=1", "set by --bits"),
    "option without value": ("train {w}/images --model {t}/m --set margin", "takes NAME=VALUE"),
    "option of wrong type": ("train {w}/images --model {t}/m --set margin=wide", "margin must be"),
    "option out of range": ("train {w}/images --model {t}/m --set margin=-1", "margin must be"),
    "no options file": ("train {w}/images --model {t}/m --config {t}/x.toml", "no options file"),
    "options file is no TOML": (
        "train {w}/images --model {t}/m --config {w}/codes.npz", "is no valid TOML",
    ),
    "encode: no model": ("encode {t}/none {w}/images --out {t}/c.npz", "no model folder"),
    "encode: no model folder": ("encode {w}/images {w}/images --out {t}/c.npz", "no config.json"),
    "encode: no data": ("encode {w}/model {t}/none --out {t}/c.npz", "does not exist"),
    "encode: nowhere to write": ("encode {w}/model {w}/images --out {t}/x/c.npz", "no folder"),
    "encode: out is a folder": ("encode {w}/model {w}/images --out {t}", "cannot write"),
    "index: no codes": ("index {t}/none.npz --out {t}/i", "no codes file"),
    "index: not codes": ("index {w}/images/dog/3.png --out {t}/i", "no NumPy .npz archive"),
    "index: there already": ("index {w}/codes.npz --out {w}/index", "is there already"),
    "search: no index": ("search {t}/none {w}/codes.npz", "none"),
    "search: no index folder": ("search {w}/images {w}/codes.npz", "images"),
    "search: no queries": ("search {w}/index {t}/none.npz", "no codes file"),
    "search: image without model": ("search {w}/index {w}/images/dog/3.png", "give --model"),
    "search: codes with model": (
        "search {w}/index {w}/codes.npz --model {w}/model", "leave --model out",
    ),
    "search: no image": ("search {w}/index {t}/x.png --model {w}/model", "no queries at"),
    "search: not an image": (
        "search {w}/index {w}/model/config.json --model {w}/model", "as an image",
    ),
    "search: ending": ("search {w}/index {w}/codes.npz --out {t}/r.txt", "end in .npz or .csv"),
    "evaluate: nothing": ("evaluate", "give either CODES.npz"),
    "evaluate: one of two": ("evaluate --queries {w}/codes.npz", "give either CODES.npz"),
    "evaluate: no count": ("evaluate {w}/codes.npz", "needs --query-count"),
    "evaluate: count with two": (
        "evaluate --queries {w}/codes.npz --database {w}/codes.npz --query-count 3", "leave it out",
    ),
    "evaluate: count too large": ("evaluate {w}/codes.npz --query-count 36", "36"),
    "evaluate: same file": (
        "evaluate --queries {w}/codes.npz --database {w}/codes.npz", "would find itself",
    ),
    "evaluate: more queries than codes": ("evaluate {w}/codes.npz --query-count 99", "99"),
    "demo: out is a file": ("demo --out {w}/codes.npz", "is a file: give a folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_line(name, work, run, tmp_path):
    command, words = WRONG[name]
    done = run(*shlex.split(command.format(w=work, t=tmp_path)))
    assert words in done.error
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_class_with_one_image(run, tmp_path, make_images, options):
    data = make_images(tmp_path / "images", 4)
    for n in (1, 2, 3):
        (data / "fox" / f"{n}.png").unlink()
    done = run("train", data, "--model", tmp_path / "m", *options)
    assert 'class 2 ("fox") has 1 image' in done.error and "add images" in done.error
    done = run("train", data, "--model", tmp_path / "m", "--validation-fraction", 0, *options)
    assert "'fox'" in done.error and "at least 2" in done.error


def test_three_images_cannot_be_held_out_and_learned(run, tmp_path, make_images, options):
    data = make_images(tmp_path / "images", 4)
    (data / "fox" / "1.png").unlink()
    done = run("train", data, "--model", tmp_path / "m", *options)
    assert "class 'fox' has 3 images, of which two would be held out" in done.error
    done = run("train", data, "--model", tmp_path / "m", "--validation-fraction", 0, "--updates", 1,
               *options)  # fmt: skip
    assert done.code == 0, done.err


def test_damaged_image_is_named_or_left_out(work, run, tmp_path, make_images, options):
    data = make_images(tmp_path / "images", 5)
    broken = data / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    done = run("train", data, "--model", tmp_path / "m", "--updates", 1, *options)
    assert str(broken) in done.error and not (tmp_path / "m").exists()
    done = run("train", data, "--model", tmp_path / "m", "--updates", 1, "--skip-damaged", *options)
    assert done.code == 0 and "warning: left out 1 of 15 images" in done.err
    done = run("search", work / "index", broken, "--model", work / "model")
    assert f"cannot read '{broken}' as an image" in done.error


def test_damaged_model_folders(work, run, tmp_path):
    def damage(name, change):
        folder = tmp_path / name
        shutil.copytree(work / "model", folder)
        change(folder)
        return run("encode", folder, work / "images", "--out", tmp_path / "c.npz").error

    weights, config = "model.safetensors", "config.json"
    assert weights in damage("cut", lambda f: os.truncate(f / weights, 500))
    assert weights in damage("gone", lambda f: (f / weights).unlink())
    assert config in damage("text", lambda f: (f / config).write_text("{"))
    changed = json.loads((work / "model" / config).read_text())
    changed["config"]["bits"] = 13
    words = damage("other", lambda f: (f / config).write_text(json.dumps(changed)))
    assert "does not fit its config" in words


def test_damaged_codes_and_index(work, run, tmp_path):
    whole = (work / "codes.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz" in run("index", tmp_path / "cut.npz", "--out", tmp_path / "i").error
    assert not (tmp_path / "i").exists()
    shutil.copytree(work / "index", tmp_path / "index")
    manifest = tmp_path / "index" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    assert "manifest" in run("search", tmp_path / "index", work / "codes.npz").error


def test_codes_that_do_not_belong_together(work, run, tmp_path, classes):
    encoded = EncodedSet.load(work / "codes.npz")
    wide = EncodedSet(np.zeros((3, 3), np.uint8), 24, labels=np.arange(3), class_names=classes)
    wide.save(tmp_path / "wide.npz")
    done = run("search", work / "index", tmp_path / "wide.npz")
    assert "the queries have 24 bits, the index 12" in done.error
    two = ("evaluate", "--queries", tmp_path / "wide.npz", "--database", work / "codes.npz")
    assert "queries have 24 bits and the database 12" in run(*two).error
    # same width in bytes, other bits: 12 and 16 both take two bytes
    EncodedSet(encoded.codes, 16).save(tmp_path / "sixteen.npz")
    assert "have 16 bits" in run("search", work / "index", tmp_path / "sixteen.npz").error

    EncodedSet(encoded.codes, 12, labels=encoded.labels, class_names=("x", "y", "z")).save(
        tmp_path / "renamed.npz"
    )
    two = ("evaluate", "--queries", tmp_path / "renamed.npz", "--database", work / "codes.npz")
    assert "different classes" in run(*two).error
    EncodedSet(encoded.codes, 12).save(tmp_path / "bare.npz")
    two = ("evaluate", "--queries", tmp_path / "bare.npz", "--database", work / "codes.npz")
    assert "queries have no labels" in run(*two).error
    assert "no labels" in run("evaluate", tmp_path / "bare.npz", "--query-count", 3).error
    EncodedSet(encoded.codes, 12, ids=np.zeros(36, int)).save(tmp_path / "twice.npz")
    assert "ids" in run("index", tmp_path / "twice.npz", "--out", tmp_path / "i").error
    assert not (tmp_path / "i").exists()


def test_model_and_data_of_other_shapes(work, run, tmp_path, make_images, make_idx, options):
    digits = make_idx(tmp_path / "mnist")
    out = tmp_path / "c.npz"
    done = run("encode", work / "model", digits, "--out", out)
    assert "the model takes images of 3 x 12 x 12" in done.error and "1 x 28 x 28" in done.error
    assert "--fit" in done.error and not out.exists()
    assert run("encode", work / "model", digits, "--fit", "--out", out).code == 0
    assert len(EncodedSet.load(out)) == 40
    # files have no shape of their own: they are brought to the model's
    larger = make_images(tmp_path / "larger", 2, side=31)
    assert run("encode", work / "model", larger, "--out", out).code == 0
    mixed = make_images(tmp_path / "mixed", 4, side=16)
    Image.new("RGB", (20, 10)).save(mixed / "dog" / "wide.png")
    done = run("train", mixed, "--model", tmp_path / "m", *options)
    assert "of one size" in done.error
    done = run("train", mixed, "--model", tmp_path / "m", "--image-size", 8, "--channels", 1,
               "--updates", 1, *options)  # fmt: skip
    assert done.code == 0, done.err
    assert ch.load(tmp_path / "m").config.image_shape == (1, 8, 8)


def test_usage_errors_exit_2(run):
    assert run("train").code == 2
    assert run("search", "a").code == 2
    assert run("fly").code == 2
    assert "Usage" in run("train", "x", "--model", "m", "--bits", "0").err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("COOPHASH_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["index", "none.npz", "--out", "i"])


def test_device_that_is_not_there(work, run, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run("encode", work / "model", work / "images", "--device", "cuda", "--out",
               tmp_path / "c.npz")  # fmt: skip
    assert "finds no CUDA device" in done.error and "coophash doctor" in done.error


def test_forced_backend_that_is_missing(work, run, monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", "neon" if os.uname().machine == "x86_64" else "avx2")
    assert "COOPHASH_ISA" in run("search", work / "index", work / "codes.npz").error
