"""Compile the Triton kernels to cubins without a GPU, and read from them what the code became.

    python -m coophash.kernels.cubins --cc 80,90,100

prints registers, stack, shared memory and instructions of each kernel variant on each compute
capability; --json prints the same for a program. It needs Triton, whose wheel carries ptxas,
cuobjdump and nvdisasm, and neither a driver nor a CUDA toolkit.

A module `<op>_triton` takes part by a function `cubin_variants()`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coophash.kernels._backend import has_triton, interpreting

MODULES = (
    "coophash.kernels.langevin_triton",
    "coophash.kernels.energy_class_triton",
    "coophash.kernels.energy_mixed_triton",
    "coophash.kernels.leaky_relu_triton",
    "coophash.kernels.signs_triton",
    "coophash.kernels.contrast_triton",
    "coophash.kernels.bank_triton",
    "coophash.kernels.ranking_triton",
    "coophash.kernels.first_layer_triton",
    "coophash.kernels.first_layer_langevin_triton",
)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.M)
# For sm_80 ptxas writes some jumps within a kernel as calls that do not come back.
JUMP = re.compile(r"CALL\.REL\.NOINC(?= `\(\.L_x_\d+\))")


@dataclass(frozen=True)
class Variant:
    """One specialization of a kernel, as a launch would ask for it.

    Attributes:
        name: shown in the table.
        kernel: the jitted function.
        types: argument name -> Triton type ("*fp32", "i32", …), a tuple of types, or None for an
            argument that is None. Pointers and `n` are taken to be divisible by 16.
        constants: constexpr argument name -> value.
        warps: per program.
        elements: that a thread works on.
        aligned: integer arguments, such as strides, that are divisible by 16 as well.
        stages: of loads in flight in a loop of matrix products.
    """

    name: str
    kernel: Any
    types: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    elements: float
    aligned: tuple[str, ...] = ()
    stages: int = 3


@dataclass(frozen=True)
class Cubin:
    """What was read from one cubin. `instructions` counts opcodes with their modifiers."""

    name: str
    cc: int
    registers: int
    stack: int
    shared: int
    elements: float
    instructions: dict[str, int] = field(repr=False)

    @property
    def total(self) -> int:
        """Instructions of the program, padding left out."""
        return sum(count for name, count in self.instructions.items() if name != "NOP")


def variants() -> list[Variant]:
    """Every variant of every kernel that takes part."""
    return [
        variant
        for module in MODULES
        for variant in importlib.import_module(module).cubin_variants()
    ]


def compile_variant(variant: Variant, cc: int) -> Cubin:
    """Compile one variant for one compute capability (80, 90, 100, …) and read its cubin."""
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    for position, name in enumerate(variant.kernel.arg_names):
        kind = variant.types.get(name)
        if kind is None:
            signature[name] = "constexpr"
            constants[(position,)] = variant.constants.get(name)
            continue
        signature[name] = kind
        pointer = isinstance(kind, str) and kind.startswith("*")
        if pointer or name == "n" or name in variant.aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    compiled = triton_compile(
        ASTSource(variant.kernel, signature, constants, attributes),
        target=GPUTarget("cuda", cc, 32),
        options={"num_warps": variant.warps, "num_stages": variant.stages},
    )
    return _read(variant, cc, compiled.asm["cubin"])


def compile_all(targets: Sequence[int]) -> list[Cubin]:
    """Compile every variant for every target, on all cores that this process may use."""
    numbers = [(i, cc) for i in range(len(_variants())) for cc in targets]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(max(1, min(cores, len(numbers))), mp_context=context) as pool:
        return list(pool.map(_compile_number, numbers))


_variants = functools.cache(variants)


def _compile_number(number: tuple[int, int]) -> Cubin:
    index, cc = number
    return compile_variant(_variants()[index], cc)


def _read(variant: Variant, cc: int, binary: bytes) -> Cubin:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        usage = _tool("cuobjdump", "-res-usage", str(path))
        listing = _tool("nvdisasm", "-c", str(path))

    def resource(name: str) -> int:
        found = re.search(rf"\b{name}:(\d+)", usage)
        if found is None:
            raise RuntimeError(f"cuobjdump printed no {name} for {variant.name}: {usage!r}")
        return int(found[1])

    return Cubin(
        variant.name,
        cc,
        resource("REG"),
        resource("STACK"),
        resource("SHARED"),
        variant.elements,
        dict(Counter(INSTRUCTION.findall(JUMP.sub("BRA", listing)))),
    )


def tool_path(name: str) -> str | None:
    """A CUDA binary tool: the one in Triton's wheel, or on PATH."""
    import triton

    carried = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return str(carried) if carried.is_file() else shutil.which(name)


def _tool(name: str, *arguments: str) -> str:
    path = tool_path(name)
    if path is None:
        raise RuntimeError(
            f"{name} is neither in Triton's wheel nor on PATH: pip install nvidia-cuda-{name}"
        )
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr.strip()}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m coophash.kernels.cubins", description=__doc__)
    parser.add_argument("--cc", default="80,90,100", help="compute capabilities, by commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if not has_triton():
        parser.error("Triton is not installed: pip install triton")
    if interpreting():
        parser.error("TRITON_INTERPRET=1 is set, and interpreted kernels cannot be compiled")
    targets = [int(cc) for cc in options.cc.split(",")]
    cubins = compile_all(targets)
    if options.json:
        print(json.dumps([asdict(cubin) for cubin in cubins]))
        return 0
    print(f"{'kernel':<34}{'cc':>4}{'regs':>6}{'stack':>7}{'shared':>8}{'instr/element':>15}")
    for cubin in cubins:
        print(
            f"{cubin.name:<34}{cubin.cc:>4}{cubin.registers:>6}{cubin.stack:>7}{cubin.shared:>8}"
            f"{cubin.total / cubin.elements:>15.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
