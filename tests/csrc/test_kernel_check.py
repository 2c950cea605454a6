"""The search core without Python: built by itself, run, and made to fail."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "csrc" / "build_check.py"

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not a checkout: no sources"),
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
    ),
]


def load_script():
    spec = importlib.util.spec_from_file_location("build_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cross_tools_missing() -> str:
    try:
        load_script().cross_tools()
    except SystemExit as error:
        return str(error)
    return ""


needs_cross_tools = pytest.mark.skipif(bool(cross_tools_missing()), reason=cross_tools_missing())


def check(*options: str, expect: int = 0, **environment: str) -> str:
    """Build and run kernel_check; all that was printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == expect, done.stdout
    assert "warning:" not in done.stdout
    return done.stdout


def test_every_instruction_set_of_this_machine():
    from coophash import _native

    printed = check("--", "--short")
    for name, missing in _native.build_info()["isas"].items():
        assert f"{name}: {f'not checked: {missing}' if missing else 'ok'}\n" in printed
    assert "serial: ok" in check("--", "--short", "--threads")


@needs_cross_tools
def test_neon_in_an_emulator():
    printed = check("--neon", "--", "--short")
    assert "neon: ok" in printed and "serial: ok" in printed
    assert "neon: ok" in check("--neon", "--", "--short", "--threads", "--isa", "neon")


@needs_cross_tools
@pytest.mark.parametrize(
    ("source", "public"), [("neon", "neon_kernelsEv"), ("sliced_neon", "neon_slicedEi")]
)
def test_neon_shares_no_inline_function(tmp_path, source, public):
    # as test_build.py has it for the instruction sets of x86
    compiler = load_script().cross_tools()[0][0]
    command = [compiler, "-std=c++17", "-w", "-c", str(ROOT / "csrc" / "cpu" / f"{source}.cpp")]
    subprocess.run([*command, "-o", str(tmp_path / "a.o")], check=True)
    nm = [compiler.replace("g++", "nm"), str(tmp_path / "a.o")]
    lines = subprocess.run(nm, capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = {line.split()[-1]: line.split()[-2] for line in lines}
    assert [name for name, kind in symbols.items() if kind == "T"] == [
        f"_ZN8coophash{len(public[:-2])}{public}"
    ]
    assert not [name for name, kind in symbols.items() if kind in "VWu"]


def test_faults_are_found_and_named(tmp_path):
    for name in ("setup.py", "csrc", "tests/csrc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for name in ("avx2", "avx512", "neon"):  # not looked at here, and long to compile
        cpu = tmp_path / "csrc" / "cpu"
        (cpu / f"sliced_{name}.cpp").write_text("")
        (cpu / f"{name}.cpp").write_text(
            '#include "kernels.h"\n'
            f"namespace coophash {{ const Kernels* {name}_kernels() {{ return nullptr; }} }}\n"
        )
    header = tmp_path / "csrc" / "cpu" / "hamming_impl.h"
    sound = header.read_text()
    # in the loops that all instruction sets share: a step too many, and a bit too few
    for right, wrong, message in (
        ("rows * stride - step.reach()", "rows * stride - step.reach() + 1", "is touched"),
        ("return sum + popcount(rest)", "return sum + popcount(rest >> 1)", ", expected "),
    ):
        assert sound.count(right) == 1
        header.write_text(sound.replace(right, wrong))
        command = [sys.executable, str(tmp_path / "tests/csrc/build_check.py"), "--", "--short"]
        done = subprocess.run([*command, "--isa", "serial"], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("FAILED: serial, width ") and message in done.stderr


def test_missing_tools_are_named_with_the_mend(tmp_path):
    gcc = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    (tmp_path / "c++").symlink_to(gcc)
    printed = subprocess.run(
        [sys.executable, str(SCRIPT), "--neon"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path), "CXX": "c++"},
    )
    if "not on PATH" not in printed.stderr and printed.returncode == 0:
        pytest.skip("this machine is a 64-bit ARM itself")
    assert printed.returncode == 1
    assert "apt install g++-aarch64-linux-gnu qemu-user-static" in printed.stderr
