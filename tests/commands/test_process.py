"""Signals and pipes: the command line as a process of its own."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys

import pytest

pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("PIL.Image")

import coophash as ch


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


def test_interrupted_training_goes_on_where_it_stopped(tmp_path, make_images, options):
    data = make_images(tmp_path / "my images", 8)
    words = ["train", data, "--bits", 8, "--batch-size", 6, *options, "--updates", 100_000,
             "--model", tmp_path / "m"]  # fmt: skip
    process = start(*words)
    _, seen = watch(process, beyond=3)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
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
    process.communicate(timeout=300)
    assert process.returncode == 130


def test_output_can_be_cut_short(work):
    """`coophash search ... | head -1`: no error, no traceback."""
    process = start("search", work / "index", work / "codes.npz")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=300)
