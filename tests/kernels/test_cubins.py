"""The object code of the Triton kernels, compiled ahead of time for GPUs that need not be there.

`python -m coophash.kernels.cubins` compiles in a process of its own, because an interpreted kernel
cannot be compiled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.aot

TARGETS = (80, 90, 100)
# registers a thread, instructions an element: at 93 a kernel of 12 bytes an element stops being
# bound by the memory of an H200.
LIMITS = {
    "langevin_step fp32 fp32 drawn": (64, 55),
    "langevin_step fp32 fp32 captured": (64, 60),
    "langevin_step fp32 fp32 given": (48, 14),
    "langevin_step fp32 bf16 drawn": (64, 55),
    "langevin_step bf16 bf16 drawn": (96, 55),
    "langevin_step fp32 fp32 drawn strided": (64, 210),
}


@pytest.fixture(scope="module")
def cubins(tmp_path_factory) -> dict[tuple[str, int], dict]:
    from coophash.kernels.cubins import tool_path

    for tool in ("cuobjdump", "nvdisasm"):
        if tool_path(tool) is None:
            pytest.skip(f"{tool} is neither in Triton's wheel nor on PATH")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    targets = ",".join(str(cc) for cc in TARGETS)
    done = subprocess.run(
        [sys.executable, "-m", "coophash.kernels.cubins", "--json", "--cc", targets],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {(c["name"], c["cc"]): c for c in json.loads(done.stdout)}


def test_every_variant_is_looked_at(cubins):
    assert set(cubins) == {(name, cc) for name in LIMITS for cc in TARGETS}


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("name", LIMITS)
def test_resources(cubins, name, cc):
    cubin = cubins[name, cc]
    registers, per_element = LIMITS[name]
    instructions = cubin["instructions"]
    assert cubin["stack"] == 0
    assert cubin["registers"] <= registers
    # No spill, no slow path of a trigonometric function.
    assert not [i for i in instructions if i.startswith(("LDL", "STL", "CALL"))]
    total = sum(count for i, count in instructions.items() if i != "NOP")
    assert 0 < total / cubin["elements"] <= per_element


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("name", [name for name in LIMITS if "strided" not in name])
def test_row_major_access(cubins, name, cc):
    """x and x' in whole 16-byte pieces, each once; nothing exchanged between threads."""
    cubin = cubins[name, cc]
    instructions = cubin["instructions"]
    bits_x, bits_grad = (16 if kind == "bf16" else 32 for kind in name.split()[1:3])
    pieces = cubin["elements"] * bits_x // 128
    # A mixed gradient comes in pieces of as many elements as x does.
    loads = 1 + (bits_grad == bits_x) + ("given" in name)
    assert instructions["LDG.E.128"] == loads * pieces
    assert instructions["STG.E.128"] == pieces
    if bits_grad != bits_x:
        assert instructions["LDG.E.64"] == pieces
    assert not [i for i in instructions if i.startswith(("LDS", "STS", "BAR", "SHFL"))]
    assert cubin["shared"] == 0 and not [i for i in instructions if i.startswith("STSM")]


@pytest.mark.parametrize("cc", TARGETS)
def test_bounds_propagate_nan(cubins, cc):
    # The interpreter propagates NaN in any case, so only the object code can show it.
    instructions = cubins["langevin_step fp32 fp32 drawn", cc]["instructions"]
    bounds = {i: count for i, count in instructions.items() if i.startswith("FMNMX")}
    assert bounds == {"FMNMX.NAN": 2 * cubins["langevin_step fp32 fp32 drawn", cc]["elements"]}
