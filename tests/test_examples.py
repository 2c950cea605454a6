"""Every example runs from another folder and prints what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMISES = {
    "baseline_losses.py": "dpsh       mAP 0.9",
    "deephash_pytorch_evaluation.py": "epoch:4 bit:16 MAP:0.9",
    "orthohash_evaluation.py": "mean over the orders of ties: 0.",
    "pytorch_loop.py": "classes [6, 6, 6, 6, 6]",
    "search_codes.py": "nearest: [0, 1, 2] at distance [2, 2, 2]",
    "sample_energy.py": "share in the right bump: 0.5",
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", PROMISES)
def test_example(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert PROMISES[name] in done.stdout
