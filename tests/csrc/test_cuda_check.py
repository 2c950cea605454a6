"""The CUDA search without a GPU: its kernels run by an emulator, and made to fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path("tests") / "csrc" / "build_cuda_check.py"

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not a checkout: no sources"),
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
    ),
]
CASES = (
    *("encode", "select", "widths", "alignments", "labels", "orders", "large_k", "streaming"),
    *("mma", "wgmma", "paths", "edges", "spare", "failures", "changes", "devices"),
)


def check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build and run cuda_check of a tree."""
    return subprocess.run(
        [sys.executable, str(root / SCRIPT), "--", "--short", *options],
        capture_output=True,
        text=True,
    )


def test_every_kernel_gives_what_an_oracle_gives():
    done = check(ROOT)
    assert done.returncode == 0, done.stderr
    assert "warning:" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-len(CASES) :] == [f"{name}: ok" for name in CASES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong", "only", "message"),
    [
        # a tie lost to a later row; a candidate too few; a row too many
        ("keys.h", "return make_key(distance, 0);", "return make_key(distance + 1, 0);", "", ""),
        ("sinks.h", "__popc(mine & ((1u << lane) - 1))", "__popc(mine >> 1 & ((1u << lane) - 1))",
         "widths", ", expected "),
        ("scan.cuh", "part == 0 && row < rows.end && sum", "part == 0 && sum", "widths", ""),
        # the threshold one off; a word at the wrong lane; the wrong half of a matrix
        ("encode.h", "128 - (32 * words - limit) - 32 * t", "127 - (32 * words - limit) - 32 * t",
         "encode", "a hit is"),
        ("encode.h", "encoded_steps(words) * t + step", "encoded_steps(words) * step + t",
         "encode", "a hit is"),
        ("encode.h", "kHalfStride = 128", "kHalfStride = 256", "encode", "offset"),
        # where candidates did not fit: rows that count twice; rows that are forgotten
        ("ties.cu", "return place_of(key) < first_place;", "return first_place >= 0;", "orders",
         ", expected "),
        ("ties.cu", "return place_of(key) < first_place;", "return first_place < 0;",
         "orders", ", expected "),
        # a barrier that is missing; a copy that nobody waits for
        ("block.cuh", "__syncthreads();  // what is written next lies where all have read", "",
         "select", "FAILED"),
        ("feeder.cpp", "check(cudaStreamWaitEvent(stream_, buffer.copied, 0)",
         "check(cudaSuccess", "streaming", ", expected "),
        ("feeder.cpp", "if (buffer.sent) check(cudaStreamWaitEvent(copies_, buffer.used, 0)",
         "if (buffer.sent) check(cudaSuccess", "streaming", ", expected "),
        # results that have no end; a context where nobody works; too little memory, for good
        ("sinks.h", "if (to < offsets[slot.query + 1]) buffer", "buffer", "changes",
         "written behind"),
        ("guard.cpp", "pushed_ = push(device);", "pushed_ = false;", "devices", "a context on"),
        ("paths.cpp", "return error.what();", "answer = error.what();", "failures",
         "taken for an answer"),
    ],
)  # fmt: skip
def test_faults_are_found(tmp_path, file, right, wrong, only, message):
    for name in ("setup.py", "csrc", "tests/csrc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    source = tmp_path / "csrc" / "cuda" / file
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    done = check(tmp_path, *(("--only", only) if only else ()))
    assert done.returncode != 0
    assert "FAILED" in done.stderr and message in done.stderr
