"""The object code of the Triton kernels, compiled ahead of time for GPUs that need not be there.

`python -m coophash.kernels.cubins` compiles in a process of its own, because an interpreted kernel
cannot be compiled.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# A target takes about a minute of one core: `pytest -m aot` compiles all three.
TARGETS = (90, *(pytest.param(cc, marks=pytest.mark.slow) for cc in (80, 100)))
TENSOR = ("HMMA", "HGMMA", "UTCHMMA")  # of cc 80, 90, 100
EXCHANGE = ("LDS", "STS", "BAR", "SHFL")  # between threads; STSM begins with STS


@dataclass(frozen=True)
class Limit:
    """What the object code of a variant may and must be, on every target.

    Attributes:
        registers: of a thread, at most.
        instructions: per element that a thread works on, at most. At 93 a kernel of 12 bytes an
            element stops being bound by the memory of an H200.
        exactly: opcode -> how many times.
        absent: beginnings of opcodes that must not be there, besides those of spills and calls.
        products: instruction of the tensor cores -> how many times, of which each target has one.
            Only they show whether float32 is one product of TF32, or three.
    """

    registers: int
    instructions: float
    exactly: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    products: dict[str, int] = field(default_factory=dict)


def _langevin(
    registers: int, instructions: float, loads: int, wide: int = 4, half: int = 0
) -> Limit:
    """x and x' in whole 16-byte pieces, each once; nothing exchanged between threads."""
    exactly = {"LDG.E.128": loads, "STG.E.128": wide}
    return Limit(registers, instructions, exactly | ({"LDG.E.64": half} if half else {}), EXCHANGE)


ALONE = ("LDS", "STS", "BAR", "ATOM", "RED.")  # a warp by itself; sums of floats in one order


def _contrast(instructions: float, barriers: int) -> Limit:
    """All registers that a thread can have, none spilled; one exchange, at the end, for the writes:
    as many barriers as that takes."""
    return Limit(255, instructions, {"LDG.E.128": 0} | {"BAR.SYNC.DEFER_BLOCKING": barriers})


def _products(ampere: int, hopper: int, blackwell: int, terms: int = 1) -> dict[str, int]:
    """Instructions for cc 80, 90 and 100; float32 is the sum of three products of TF32."""
    kind = "HMMA.1688.F32.TF32" if terms == 3 else "HMMA.16816.F32.BF16"
    return {kind: ampere * terms, "HGMMA.64": hopper * terms, "UTCHMMA": blackwell * terms}


LIMITS = {
    # Per bit of a query and of a key: shift, LOP3 and FFMA, twice; halved, but for the FFMA, where
    # two queries share them: 4. On 8.0 a LOP3 takes one constant less: 5. The code before and after
    # the loop counts here as well.
    "bank_contrast fp32 128 bits x 2 captured": _contrast(8.5, barriers=7),
    "bank_contrast fp32 128 bits x 2 given": _contrast(8.5, barriers=7),
    "bank_contrast fp32 128 bits x 2 all": _contrast(10.5, barriers=7),
    "bank_contrast bf16 32 bits x 1 drawn": _contrast(12.5, barriers=3),
    "bank_contrast fp32 2048 bits x 2 drawn": _contrast(10, barriers=22),
    "bank_contrast merge 128 bits": Limit(64, 165, absent=EXCHANGE[:-1]),
    "bank_update fp32 fp32 128 bits": Limit(
        64, 120, {"STG.E.128": 1, "STG.E.U8": 1, "LDG.E": 0}, ("LDS", "STS", "BAR")
    ),
    "bank_update fp32 bf16 512 bits": Limit(64, 130, {"STG.E.128": 1, "LDG.E.U16": 0, "LDG.E": 0}),
    "ranking_loss rows fp32": Limit(96, 60, {"LDG.E.128": 4}),
    "ranking_loss columns fp32": Limit(64, 50, {"LDG.E.128": 4}),
    "ranking_loss backward fp32": Limit(
        64, 40, {"LDG.E.128": 3, "STG.E.128": 2, "MUFU.EX2": 16}, EXCHANGE
    ),
    "ranking_loss backward bf16": Limit(
        64, 45, {"LDG.E.128": 3, "STG.E.128": 1, "MUFU.EX2": 16}, EXCHANGE
    ),
    # The interpreter propagates NaN in any case, so only the object code can show it: FMNMX.NAN.
    "langevin_step fp32 fp32 drawn": replace(
        _langevin(64, 55, loads=8),
        exactly={"LDG.E.128": 8, "STG.E.128": 4, "FMNMX.NAN": 32, "FMNMX": 0},
    ),
    "langevin_step fp32 fp32 captured": Limit(64, 60, {"LDG.E.128": 8, "STG.E.128": 4}, EXCHANGE),
    "langevin_step fp32 fp32 given": _langevin(48, 14, loads=12),
    # A mixed gradient comes in pieces of as many elements as x does.
    "langevin_step fp32 bf16 drawn": _langevin(64, 55, loads=4, half=4),
    "langevin_step bf16 bf16 drawn": _langevin(96, 55, loads=8),
    "langevin_step fp32 fp32 drawn strided": Limit(64, 210),
    # One warp a program: the sums need shuffles, but neither shared memory nor a barrier.
    "langevin_step fp32 fp32 statistics": Limit(
        80, 80, {"LDG.E.128": 8, "STG.E.128": 4}, ("LDS", "STS", "BAR", "ATOM", "RED.")
    ),
    "langevin_step bf16 bf16 statistics": Limit(
        144, 80, {"LDG.E.128": 8, "STG.E.128": 4}, ("LDS", "STS", "BAR", "ATOM", "RED.")
    ),
    "langevin_statistics": Limit(64, 250, absent=("ATOM", "RED.")),  # "element": the 8 of a row
    # 16 elements a thread, in whole 16-byte pieces; the bits in 2 bytes, as a neighbour may have
    # the other half of each. Of 8 bytes an element, 62 instructions take as long; of 4, 31.
    "bias_leaky_relu fp32 row-major": Limit(48, 22, {"LDG.E.128": 4, "STG.E.128": 4}),
    "bias_leaky_relu fp32 channels_last": Limit(48, 20, {"LDG.E.128": 5, "STG.E.128": 4}),
    "bias_leaky_relu bf16 row-major": Limit(40, 17, {"LDG.E.128": 2, "STG.E.128": 2}, EXCHANGE),
    "bias_leaky_relu bf16 channels_last": Limit(48, 15, {"LDG.E.128": 4, "STG.E.128": 2}, EXCHANGE),
    "leaky_relu_backward fp32 row-major": Limit(
        40, 12, {"LDG.E.128": 4, "LDG.E.U8": 2, "STG.E.128": 4}
    ),
    "leaky_relu_backward bf16 channels_last": Limit(
        40, 12, {"LDG.E.128": 2, "LDG.E.U8": 2, "STG.E.128": 2}, EXCHANGE
    ),
    "leaky_relu_backward fp32 row-major bias": Limit(48, 16, {"LDG.E.128": 4, "STG.E.128": 4}),
    "leaky_relu_backward fp32 channels_last bias": Limit(80, 24, {"LDG.E.128": 4, "STG.E.128": 4}),
    "leaky_relu_backward bf16 channels_last bias": Limit(80, 24, {"LDG.E.128": 2, "STG.E.128": 2}),
    # A word of codes a thread: 32 outputs in whole 16-byte pieces, one store, and one of the flag.
    "sign_pack fp32 contiguous": Limit(40, 10, {"LDG.E.128": 8, "STG.E": 2}, EXCHANGE),
    "sign_pack bf16 contiguous": Limit(48, 10, {"LDG.E.128": 4, "STG.E": 2}, EXCHANGE),
    "sign_pack fp64 contiguous": Limit(56, 12, {"LDG.E.128": 16, "STG.E": 2}, EXCHANGE),
    "sign_pack fp32 rows apart": Limit(40, 11, {"LDG.E.128": 8, "STG.E": 2}, EXCHANGE),
    # Any layout: a byte a thread, and a division to find its row.
    "sign_pack bf16 spare bits": Limit(32, 20, {"LDG.E.U16": 8, "STG.E.U8": 1}, EXCHANGE),
    # One warp a sample: f, W[y] and the gradient in whole 16-byte pieces, each once, in a loop over
    # pieces of 256 or 512 features; five shuffles for the sum. ptxas unrolls the loops of the last
    # two, so that an instruction in their count serves up to seven times as many features.
    "energy_class both fp32 256": Limit(64, 20, {"LDG.E.128": 4, "STG.E.128": 2}, ALONE),
    "energy_class both bf16 256": Limit(64, 22, {"LDG.E.128": 2, "STG.E.128": 1}, ALONE),
    "energy_class both slope fp32 256": Limit(72, 24, {"LDG.E.128": 4, "STG.E.128": 2}, ALONE),
    "energy_class both slope bf16 1024": Limit(72, 22, {"LDG.E.128": 4, "STG.E.128": 2}, ALONE),
    "energy_class energies fp32 256": Limit(72, 44, {"SHFL.BFLY": 5}, ALONE),
    "energy_class dfeatures fp32 256": Limit(48, 36, {"SHFL.BFLY": 0}, ALONE),
    # Samples of a class are added in registers, then over the threads through shared memory.
    "energy_class dweight fp32": Limit(112, 16, {"LDG.E.128": 8}, ("ATOM", "RED.")),
    "energy_class dweight bf16": Limit(96, 16, {"LDG.E.128": 4}, ("ATOM", "RED.")),
    # Of features and classes: 3 TF32 products for one of float32, over two walks (labels: one). An
    # "element" is one of the features of a step; the instructions serve all C of its products.
    "energy_mixed marginal fp32 10": Limit(
        112, 250, {"HMMA.1688.F32.TF32": 30, "STG.E.128": 1}, ("ATOM", "RED.")
    ),
    "energy_mixed marginal bf16 10": Limit(112, 250, {"STG.E.64": 1}, ("ATOM", "RED.")),
    "energy_mixed marginal slope fp32 128": Limit(
        224, 500, {"HMMA.1688.F32.TF32": 96, "STG.E.128": 1}, ("ATOM", "RED.")
    ),
    "energy_mixed labels slope fp32 21": Limit(
        112, 150, {"HMMA.1688.F32.TF32": 12, "STG.E.128": 1}, ("ATOM", "RED.")
    ),
    "energy_mixed labels bf16 80": Limit(
        176, 450, {"HMMA.1688.F32.TF32": 48, "STG.E.64": 1}, ("ATOM", "RED.")
    ),
    # 32 results a thread. 80 places of a window, 16 at once: 5 products in bf16.
    "first_conv fp32 3 row-major": Limit(
        224, 110, {"STG.E.128": 8}, products=_products(80, 20, 20, 3)
    ),
    "first_conv fp32 3 channels_last": Limit(
        224, 105, {"STG.E.128": 8}, products=_products(80, 20, 20, 3)
    ),
    "first_conv bf16 3 channels_last": Limit(
        136, 54, {"STG.E.128": 4}, products=_products(40, 10, 10)
    ),
    # Per element of x, and row of cells in the loop: 9 products of 32 channels with 16 columns.
    "first_conv_langevin fp32 3 channels_last": Limit(
        255, 700, {"LDG.E.128": 14, "STG.E.128": 2}, products=_products(72, 36, 36, 3)
    ),
    "first_conv_langevin bf16 3 row-major": Limit(
        200, 390, {"LDG.E.128": 2, "STG.E.128": 2}, products=_products(36, 18, 18)
    ),
    "first_conv_langevin bf16 3 channels_last": Limit(
        200, 220, {"LDG.E.128": 16, "STG.E.128": 4}, products=_products(72, 36, 18)
    ),
    "first_conv_langevin bf16 1 channels_last": Limit(
        176, 500, {"LDG.E.128": 13, "STG.E.128": 1}, products=_products(72, 36, 18)
    ),
}


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    """cc -> name -> what was read from the cubin; a target is compiled when it is asked for."""
    from coophash.kernels.cubins import tool_path

    for tool in ("cuobjdump", "nvdisasm"):
        if tool_path(tool) is None:
            pytest.skip(f"{tool} is neither in Triton's wheel nor on PATH")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))

    @functools.cache
    def compiled(cc: int) -> dict[str, dict]:
        done = subprocess.run(
            [sys.executable, "-m", "coophash.kernels.cubins", "--json", "--cc", str(cc)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return {cubin["name"]: cubin for cubin in json.loads(done.stdout)}

    return compiled


def test_every_variant_is_looked_at(cubins):
    assert set(cubins(90)) == set(LIMITS)


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("name", LIMITS)
def test_object_code(cubins, name, cc):
    cubin, limit = cubins(cc)[name], LIMITS[name]
    instructions = cubin["instructions"]
    assert cubin["stack"] == 0
    assert cubin["registers"] <= limit.registers
    # No spill, no slow path of a trigonometric function.
    unwanted = ("LDL", "STL", "CALL", *limit.absent)
    if "UTCATOMSWS.FIND_AND_SET.ALIGN" in instructions:  # tensor memory is asked for by calls
        unwanted = ("LDL", "STL", *limit.absent)
    assert not [i for i in instructions if i.startswith(unwanted)]
    total = sum(count for i, count in instructions.items() if i != "NOP")
    assert 0 < total / cubin["elements"] <= limit.instructions
    assert {i: instructions.get(i, 0) for i in limit.exactly} == limit.exactly
    if limit.absent == EXCHANGE:
        assert cubin["shared"] == 0
    if limit.products:
        products = {i: n for i, n in instructions.items() if i.startswith(TENSOR)}
        assert products.items() <= limit.products.items() and len(products) == 1
