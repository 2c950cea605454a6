"""What is in the cubins: the instructions that matter, and none of those that would spoil them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from coophash import _native

INFO = _native.build_info()
ARCHS = [arch for arch in INFO["cuda_archs"].split() if not arch.startswith("ptx")]
pytestmark = [
    pytest.mark.sass,
    pytest.mark.skipif(not INFO["cuda"], reason=f"no CUDA: {INFO['cuda_reason']}"),
]


def cuobjdump() -> str:
    """The disassembler: of a CUDA toolkit, or the one that Triton's wheel carries."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if not found and triton and triton.origin:
        inside = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(inside) if inside.is_file() else None
    if not found:
        pytest.skip("no cuobjdump: neither a CUDA toolkit nor Triton is here")
    return found


def dump(*options: str) -> str:
    command = [cuobjdump(), *options, _native.library().__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def kernels(arch: str) -> dict[str, list[str]]:
    """Of each kernel of an architecture its instructions, without what they work on."""
    found: dict[str, list[str]] = {}
    listing = dump("-sass", "-arch", f"sm_{arch}")
    for part in re.split(r"code for sm_", listing)[1:]:
        if part.split("\n", 1)[0].strip() != arch:  # 90 lists 90a as well
            continue
        for text in re.split(r"Function : ", part)[1:]:
            name = text.split("\n", 1)[0]
            found[name] = re.findall(
                r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.M
            )
    assert found
    return found


def of(arch: str, kernel: str) -> dict[str, list[str]]:
    """Kernels of one name, by their template arguments."""
    pattern = re.compile(rf"\d{kernel}_kernel")
    return {name: code for name, code in kernels(arch).items() if pattern.search(name)}


def tensor(code: list[str]) -> list[str]:
    """The instructions for tensor cores. HFMA2.MMA is none: by it constants are moved on 9.0."""
    return [i for i in code if "MMA" in i and not i.startswith("HFMA2")]


def number(arch: str) -> int:
    return int(arch.rstrip("a"))


def test_every_architecture_is_there_and_the_newest_as_ptx():
    assert set(re.findall(r"\.sm_(\d+a?)\.cubin", dump("--list-elf"))) == set(ARCHS)
    ptx = set(re.findall(r"\.sm_(\d+)\.ptx", dump("--list-ptx")))
    assert ptx == {a.removeprefix("ptx") for a in INFO["cuda_archs"].split() if "ptx" in a}


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_is_kept_in_local_memory(arch):
    usage = re.findall(r"STACK:(\d+).*?LOCAL:(\d+)", dump("-res-usage", "-arch", f"sm_{arch}"))
    assert usage and set(usage) == {("0", "0")}
    for name, code in kernels(arch).items():
        assert not [i for i in code if re.match(r"(LDL|STL)\b", i)], name


@pytest.mark.parametrize("arch", [a for a in ARCHS if a != "90a"])
def test_the_scan_counts_bits_and_reads_vectors(arch):
    scans = of(arch, "scan")
    assert len(scans) == 7 + 4 + 2 + 2  # candidates, histograms, ties, all distances
    for name, code in scans.items():
        assert any(i.startswith("POPC") for i in code), name
        assert any(re.match(r"LDG\.E\.128", i) for i in code) or "ELb0E" in name, name
        assert not tensor(code)


@pytest.mark.parametrize("arch", [a for a in ARCHS if a != "90a"])
def test_mma_is_one_instruction_where_it_is_and_left_out_elsewhere(arch):
    codes = of(arch, "mma")
    assert len(codes) == 5
    for name, code in codes.items():
        used = tensor(code)
        if 80 <= number(arch) < 100:
            # a product each for 2 stripes of 128 queries, or its like with more steps
            assert set(used) == {"BMMA.168256.AND.POPC"}, name
            assert len(used) == (32 if "Li1E" in name or "Li2E" in name else 16), name
        else:  # it would be emulated
            assert not used and len(code) < 40, name


@pytest.mark.skipif("90a" not in ARCHS, reason="not built for 90a")
def test_wgmma_is_one_instruction_a_step():
    codes = of("90a", "wgmma")
    steps = {"Li1E": 1, "Li2E": 1, "Li4E": 1, "Li8E": 2, "Li16E": 4}
    assert len(codes) == len(steps) == len(kernels("90a"))
    for name, code in codes.items():
        used = tensor(code)
        assert set(used) == {"BGMMA.64x128x256.AND.POPC"}, name
        assert len(used) == next(n for key, n in steps.items() if f"kernelI{key}" in name), name
        assert not [i for i in code if i.startswith("CALL")], name


def test_no_xor_on_tensor_cores():
    for arch in ARCHS:
        assert not [i for code in kernels(arch).values() for i in code if "XOR.POPC" in i], arch


@pytest.mark.skipif(not _native.library().cuda_status(), reason="there is a GPU")
def test_without_a_gpu_everything_says_why_and_nothing_crashes():
    library = _native.library()
    assert library.cuda_devices() == []
    for call in (lambda: library.CudaMemory(0, 8), lambda: library.cuda_memory(0)):
        with pytest.raises(RuntimeError, match="CUDA: "):
            call()
