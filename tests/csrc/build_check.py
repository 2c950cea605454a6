"""Build and run kernel_check, the check of the search core that needs no Python at run time.

python tests/csrc/build_check.py [--neon] [--sanitize address|thread] [--build-only] [-- OPTION ...]

Sources and flags are those of setup.py, one object a source, kept in build/kernel-check and made
again only when a file has changed. What follows `--` goes to kernel_check. `--neon` builds for
64-bit ARM and runs in an emulator; where the machine is one, it is like a plain run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("kernel_check.cpp", "mih_check.cpp", "sliced_check.cpp", "thread_check.cpp")
NEEDS_PYTHON = ("bindings.cpp", "bindings_cuda.cpp", "bindings_mih.cpp", "build_info.cpp")
CROSS_COMPILER, EMULATORS = "aarch64-linux-gnu-g++", ("qemu-aarch64-static", "qemu-aarch64")


def load_setup():
    """setup.py as a module: it builds nothing when it is imported."""
    spec = importlib.util.spec_from_file_location("coophash_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(command: list[str]) -> str:
    """Run a command; its output, or the end of this program with all it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}")
    return done.stdout


def host_compiler() -> list[str]:
    """CXX, or the first C++ compiler on PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or [name for name in ("c++", "g++", "clang++") if shutil.which(name)][:1]
    if not found or not shutil.which(found[0]):
        sys.exit(
            "no C++ compiler: install one (Debian, Ubuntu: apt install g++), or name it in CXX"
        )
    return found


def cross_tools() -> tuple[list[str], list[str]]:
    """Compiler and emulator for 64-bit ARM."""
    emulator = next((path for name in EMULATORS if (path := shutil.which(name))), None)
    missing = [CROSS_COMPILER] if not shutil.which(CROSS_COMPILER) else []
    missing += [EMULATORS[0]] if not emulator else []
    if missing or not emulator:
        sys.exit(
            f"not on PATH: {', '.join(missing)}. Debian, Ubuntu: "
            "apt install g++-aarch64-linux-gnu qemu-user-static"
        )
    return [CROSS_COMPILER], [emulator]


def up_to_date(target: Path, needs: Path) -> bool:
    """Whether an object is newer than all that it was made from."""
    if not (target.exists() and needs.exists()):
        return False
    files = needs.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    newest = max(Path(f).stat().st_mtime if Path(f).exists() else float("inf") for f in files)
    return target.stat().st_mtime > newest


def build(cxx: list[str], folder: Path, extra: list[str], link: list[str]) -> Path:
    """Compile what is older than its sources, and link.

    Args:
        cxx: the compiler.
        folder: for the objects and the program.
        extra: flags for all sources, after those of setup.py.
        link: flags for the linker.

    Returns:
        The program.
    """
    setup = load_setup()
    folder.mkdir(parents=True, exist_ok=True)
    x86 = call([*cxx, "-dumpmachine"]).split("-")[0] in ("x86_64", "amd64")
    sources = {
        ROOT / "csrc" / name: [*flags, *(setup.X86_FLAGS.get(name, []) if x86 else [])]
        for name, flags in setup.CPU_SOURCES.items()
        if name not in NEEDS_PYTHON
    }
    sources |= {ROOT / "tests" / "csrc" / name: ["-O1"] for name in PROGRAM}

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.name}.o"
        needs = target.with_suffix(".needs")  # what it was made from, as the compiler says
        command = [*cxx, *setup.COMMON, *setup.WARNINGS, *sources[source], *extra]
        command += ["-MMD", "-MF", str(needs), "-c", str(source), "-o", str(target)]
        kept = target.with_suffix(".command")  # other flags make it anew
        if not up_to_date(target, needs) or kept.read_text() != shlex.join(command):
            kept.write_text(shlex.join(command))
            target.unlink(missing_ok=True)
            print(call(command), end="", flush=True)  # warnings
        return target

    with ThreadPoolExecutor(setup.cores()) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "kernel_check"
    if not program.exists() or any(o.stat().st_mtime > program.stat().st_mtime for o in objects):
        call([*cxx, *map(str, objects), *link, "-pthread", "-o", str(program)])
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neon", action="store_true", help="for 64-bit ARM, in an emulator")
    parser.add_argument("--sanitize", choices=["address", "thread"])
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "kernel-check")
    parser.add_argument("options", nargs="*", help="for kernel_check, after --")
    arguments = parser.parse_args()

    cxx, runner, name = host_compiler(), [], "host"
    extra: list[str] = []
    link: list[str] = []
    if arguments.neon and not call([*cxx, "-dumpmachine"]).startswith(("aarch64", "arm64")):
        (cxx, runner), name, link = cross_tools(), "neon", ["-static"]
    if arguments.sanitize:
        setup = load_setup()
        name += f"-{arguments.sanitize}"
        extra = [*setup.SANITIZERS[arguments.sanitize], *setup.SANITIZED]
        link = [*link, *setup.SANITIZERS[arguments.sanitize]]
    program = build(cxx, arguments.folder / name, extra, link)
    if arguments.build_only:
        print(program)
        return 0
    return subprocess.run([*runner, str(program), *arguments.options]).returncode


if __name__ == "__main__":
    sys.exit(main())
