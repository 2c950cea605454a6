"""Parity of the Triton kernels with their references, in Triton's interpreter.

TRITON_INTERPRET is read when a kernel is decorated, and an interpreted kernel cannot be compiled in
the same process: so interpreter_program.py runs apart, once, and the tests read what it printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.interpreter

GROUPS = {
    "sizes": [
        f"{n} {dtype} {noise}"
        for n in (1, 63, 500, 1000, 4097, 70_001)
        for dtype in ("float32", "bfloat16")
        for noise in ("drawn", "given", "none")
    ],
    "layouts": [
        f"{layout} {noise}"
        for layout in (
            "channels_last",
            "all channels_last",
            "sliced",
            "transposed",
            "expanded",
            "scalar",
            "empty",
            "six dimensions",
            "six that do not collapse",
        )
        for noise in ("drawn", "given")
    ],
    "outputs": [
        "out",
        "out transposed",
        "out of other memory",
        *(f"{case} {b}" for case in ("in place", "shifted") for b in ("reference", "triton")),
    ],
    "types": ["mixed dtypes", "float16", "float64"],
    "far elements": [
        f"start {start} run {run}"
        for start in (0, 2**31, 2**32 - 64, 5 * 2**32 + 128)
        for run in (4, 8)
    ],
    "values": ["device numbers", "nan"],
}


@pytest.fixture(scope="module")
def differences() -> dict[str, list[float]]:
    environment = {k: v for k, v in os.environ.items() if k != "COOPHASH_BACKEND"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreter_program.py"))],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("group", GROUPS)
def test_kernel_equals_reference(differences, group):
    wrong = {
        case: differences[case]
        for case in GROUPS[group]
        if not differences[case][0] <= differences[case][1]
    }
    assert not wrong, f"case: [largest difference, allowed]: {wrong}"


def test_every_case_is_looked_at(differences):
    assert set(differences) == {case for cases in GROUPS.values() for case in cases}
