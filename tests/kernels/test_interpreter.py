"""Parity of the Triton kernels with their references, in Triton's interpreter.

TRITON_INTERPRET is read when a kernel is decorated, and an interpreted kernel cannot be compiled in
the same process: so each parity_<op>.py runs apart, once, and the tests read what it printed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.interpreter

# Program -> the least number of cases: so many are counted in it, and none may get lost.
CASES = {
    "energy_class": 50,
    "energy_mixed": 67,
    "langevin": 125,
    "leaky_relu": 60,
    "signs": 166,
    "bank": 43,
    "contrast": 64,
    "ranking": 42,
    "first_layer": 73,
    "first_layer_langevin": 68,
}


@functools.cache
def differences(op: str) -> dict[str, list[float]]:
    environment = {k: v for k, v in os.environ.items() if k != "COOPHASH_BACKEND"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(f"parity_{op}.py"))],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("op", CASES)
def test_kernel_equals_reference(op):
    found = differences(op)
    wrong = {case: pair for case, pair in found.items() if not pair[0] <= pair[1]}
    assert not wrong, f"case: [largest difference, allowed]: {wrong}"
    assert len(found) >= CASES[op]


def test_every_program_is_run():
    programs = {
        path.stem.removeprefix("parity_") for path in Path(__file__).parent.glob("parity_*.py")
    }
    assert programs == set(CASES)


def test_every_op_is_looked_at():
    """Each kernel module that `cubins` compiles has a parity program."""
    from coophash.kernels.cubins import MODULES

    ops = {module.rpartition(".")[2].removesuffix("_triton") for module in MODULES}
    assert ops == set(CASES)
