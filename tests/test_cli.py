"""The command line: the way from a folder of images to scores, and every error on it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import coophash as ch  # noqa: E402
from coophash.cli import main  # noqa: E402
from coophash.commands.train import hold_out, read_options, resume_command  # noqa: E402
from coophash.encoded import EncodedSet  # noqa: E402

SMALL = ["base_channels=4", "features=16", "generator_channels=4", "langevin_steps=1"]
OPTIONS = [word for option in SMALL for word in ("--set", option)]
CLASSES = ("cat [1]", "dog", "fox")


def save_images(folder: Path, per_class: int, seed: int = 0, side: int = 12) -> Path:
    """A folder per class; each class has a brightness of its own, so a network can tell them."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for n in range(per_class):
            pixels = random.integers(0, 60, (side, side, 3)) + 80 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{n}.png")
    return folder


def save_idx(folder: Path, count: int = 20) -> Path:
    """MNIST's own files, 28 x 28, digits 0 and 1."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, count) + labels.tobytes()
        )
    return folder


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error(self) -> str:
        """The one line of an error, without its mark."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        assert self.code == 2, self.code
        return lines[0].removeprefix("error: ")


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.delenv("COOPHASH_DEBUG", raising=False)

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(int(stop.value.code or 0), out, err)

    return call


def quietly(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert not stop.value.code


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Images, a model of them, codes and an index, each made by its command."""
    folder = tmp_path_factory.mktemp("cli")
    save_images(folder / "images", 12)
    quietly("train", folder / "images", "--model", folder / "model", "--bits", 12, "--updates", 4,
            "--batch-size", 12, *OPTIONS)  # fmt: skip
    quietly("encode", folder / "model", folder / "images", "--out", folder / "codes.npz")
    quietly("index", folder / "codes.npz", "--out", folder / "index")
    return folder


def test_model_folder_can_be_loaded(work):
    model = ch.load(work / "model")
    assert model.config.bits == 12 and model.config.features == 16
    assert model.config.image_shape == (3, 12, 12)
    assert model.class_names == CLASSES
    history = json.loads((work / "model" / "history.json").read_text())
    assert history["settings"]["images"] == 32 and history["settings"]["validation_images"] == 4
    assert history["records"][-1]["update"] == 4


def test_codes_are_those_of_the_model(work):
    encoded = EncodedSet.load(work / "codes.npz")
    images = ch.data.open_dataset(work / "images", "all")
    assert (encoded.codes == ch.load(work / "model").encode(images)).all()
    assert (encoded.labels == images.labels).all() and encoded.class_names == CLASSES
    assert encoded.bits == 12 and encoded.paths == images.paths


def test_search_finds_what_the_index_holds(work, run, tmp_path):
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
    assert text.startswith(CLASSES[encoded.labels[ids[0, 0]]])


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


def test_training_can_be_seen_through_other_layouts_and_options(run, tmp_path):
    data = save_idx(tmp_path / "mnist")
    (tmp_path / "options.toml").write_text('langevin_steps = 1\npairs = "revised"\nfeatures = 16\n')
    done = run("train", data, "--model", tmp_path / "m", "--bits", 5, "--updates", 1, "--plain",
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


def test_same_seed_gives_the_same_model(run, tmp_path):
    data = save_images(tmp_path / "images", 6)
    for name in ("a", "b"):
        assert run("train", data, "--model", tmp_path / name, "--updates", 2, "--bits", 8,
                   "--seed", 5, *OPTIONS).code == 0  # fmt: skip
    a, b = (ch.load(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all((a[key] == b[key]).all() for key in a)


def test_labels_per_class_and_validation_are_seeded_and_disjoint():
    labels = np.repeat(np.arange(3), 20)
    images = ch.data.ImageSet(np.zeros((60, 1, 8, 8), np.uint8), labels, CLASSES)
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


def test_class_with_one_image(run, tmp_path):
    data = save_images(tmp_path / "images", 4)
    for n in (1, 2, 3):
        (data / "fox" / f"{n}.png").unlink()
    done = run("train", data, "--model", tmp_path / "m", *OPTIONS)
    assert 'class 2 ("fox") has 1 image' in done.error and "add images" in done.error
    done = run("train", data, "--model", tmp_path / "m", "--validation-fraction", 0, *OPTIONS)
    assert "'fox'" in done.error and "at least 2" in done.error


def test_damaged_image_is_named_or_left_out(work, run, tmp_path):
    data = save_images(tmp_path / "images", 5)
    broken = data / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    done = run("train", data, "--model", tmp_path / "m", "--updates", 1, *OPTIONS)
    assert str(broken) in done.error and not (tmp_path / "m").exists()
    done = run("train", data, "--model", tmp_path / "m", "--updates", 1, "--skip-damaged", *OPTIONS)
    assert done.code == 0 and "warning: left out 1 of 15 images" in done.err
    done = run("search", work / "index", broken, "--model", work / "model")
    assert f"cannot read '{broken}' as an image" in done.error


def test_damaged_model_folders(work, run, tmp_path):
    import shutil

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
    import shutil

    shutil.copytree(work / "index", tmp_path / "index")
    manifest = tmp_path / "index" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    assert "manifest" in run("search", tmp_path / "index", work / "codes.npz").error


def test_codes_that_do_not_belong_together(work, run, tmp_path):
    encoded = EncodedSet.load(work / "codes.npz")
    wide = EncodedSet(np.zeros((3, 3), np.uint8), 24, labels=np.arange(3), class_names=CLASSES)
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


def test_model_and_data_of_other_shapes(work, run, tmp_path):
    digits = save_idx(tmp_path / "mnist")
    out = tmp_path / "c.npz"
    done = run("encode", work / "model", digits, "--out", out)
    assert "the model takes images of 3 x 12 x 12" in done.error and "1 x 28 x 28" in done.error
    assert "--fit" in done.error and not out.exists()
    assert run("encode", work / "model", digits, "--fit", "--out", out).code == 0
    assert len(EncodedSet.load(out)) == 40
    # files have no shape of their own: they are brought to the model's
    larger = save_images(tmp_path / "larger", 2, side=31)
    assert run("encode", work / "model", larger, "--out", out).code == 0
    mixed = save_images(tmp_path / "mixed", 4, side=16)
    Image.new("RGB", (20, 10)).save(mixed / "dog" / "wide.png")
    done = run("train", mixed, "--model", tmp_path / "m", *OPTIONS)
    assert "of one size" in done.error
    done = run("train", mixed, "--model", tmp_path / "m", "--image-size", 8, "--channels", 1,
               "--updates", 1, *OPTIONS)  # fmt: skip
    assert done.code == 0, done.err
    assert ch.load(tmp_path / "m").config.image_shape == (1, 8, 8)


def test_usage_errors_exit_2(run):
    assert run("train").code == 2
    assert run("search", "a").code == 2
    assert run("fly").code == 2
    assert "Usage" in run("train", "x", "--model", "m", "--bits", "0").err


def test_version_and_help(run):
    assert run("--version").out.strip() == f"coophash {ch.__version__}"
    done = run("--help")
    for name in ("demo", "train", "encode", "index", "search", "evaluate", "doctor"):
        assert name in done.out
        assert run(name, "-h").code == 0


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


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "coophash", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # type: ignore[call-overload]  # fmt: skip


def watch(process: subprocess.Popen[str], beyond: int) -> tuple[int, str]:
    """Read the progress bar until it counts beyond an update: the first count, and all text."""
    assert process.stderr is not None
    seen, first = "", -1
    for line in process.stderr:  # the bar's carriage returns are read as ends of lines
        seen += line
        if found := re.search(r" (\d+)/100000 ", line):
            first = int(found[1]) if first < 0 else first
            if int(found[1]) > beyond:
                return first, seen
    raise AssertionError(seen)


def test_interrupted_training_goes_on_where_it_stopped(tmp_path):
    data = save_images(tmp_path / "my images", 8)
    words = ["train", data, "--bits", 8, "--batch-size", 6, *OPTIONS, "--updates", 100_000,
             "--model", tmp_path / "m"]  # fmt: skip
    process = start(*words)
    _, seen = watch(process, beyond=3)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in seen + rest
    match = re.fullmatch(
        r"interrupted: the checkpoint at update (\d+) is in (.+); go on with: (.+)",
        rest.strip().splitlines()[-1],
    )
    assert match and match[2] == str(tmp_path / "m"), rest
    stopped_at = int(match[1])
    assert stopped_at > 3
    command = shlex.split(match[3])
    assert command == ["python", "-m", "coophash", *map(str, words), "--resume"]
    ch.load(tmp_path / "m")  # what the checkpoint holds is a whole model

    process = start(*command[3:])
    first, _ = watch(process, beyond=stopped_at + 3)
    assert first == stopped_at
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_output_can_be_cut_short(work):
    """`coophash search ... | head -1`: no error, no traceback."""
    process = start("search", work / "index", work / "codes.npz")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)
