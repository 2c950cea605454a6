"""A folder of images, what the commands make of it, and a way to run them in this process."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coophash.cli import main

CLASSES = ("cat [1]", "dog", "fox")
SMALL = ["base_channels=4", "features=16", "generator_channels=4", "langevin_steps=1"]
OPTIONS = [word for option in SMALL for word in ("--set", option)]


def save_images(folder: Path, per_class: int, seed: int = 0, side: int = 12) -> Path:
    """A folder per class; each class has a brightness of its own, so a network can tell them."""
    from PIL import Image

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


@pytest.fixture(scope="session")
def classes() -> tuple[str, ...]:
    """Names of the classes of `make_images`."""
    return CLASSES


@pytest.fixture(scope="session")
def options() -> list[str]:
    """Options of `coophash train` that make it quick."""
    return OPTIONS


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """`save_images`."""
    return save_images


@pytest.fixture(scope="session")
def make_idx() -> Callable[..., Path]:
    """`save_idx`."""
    return save_idx


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


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """Images, a model of them, codes and an index, each made by its command."""
    folder = tmp_path_factory.mktemp("cli")
    save_images(folder / "images", 12)
    quietly("train", folder / "images", "--model", folder / "model", "--bits", 12, "--updates", 4,
            "--batch-size", 12, *OPTIONS)  # fmt: skip
    quietly("encode", folder / "model", folder / "images", "--out", folder / "codes.npz")
    quietly("index", folder / "codes.npz", "--out", folder / "index")
    return folder
