"""Build and run cuda_check, the check of the CUDA search on a machine without a GPU.

python tests/csrc/build_cuda_check.py [--sanitize address] [--build-only] [-- OPTION ...]

The kernels of csrc/cuda are compiled by the host's compiler against tests/csrc/emulator, one object
a source, kept in build/cuda-check and made again only when a file has changed. What follows `--`
goes to cuda_check. `build_module` makes the same into a Python module, for tests of what stands
above it.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = (
    *("cuda_check.cpp", "cuda_compare.cpp", "cuda_edge_check.cpp"),
    *("cuda_encode_check.cpp", "cuda_select_check.cpp"),
)
EMULATOR = ("fibers.cpp", "runtime.cpp", "tensor.cpp")
MODULE = "coophash_emulated"
FLAGS = ["-DCOOPHASH_CUDA_EMULATOR", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-O1", "-g1"]


def load(name: str):
    """build_check.py beside this one: it runs nothing when it is imported."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_all(folder: Path, sources: dict[Path, list[str]]) -> list[Path]:
    """Objects of the sources, each with flags of its own; what is up to date is not made again."""
    tools = load("build_check")
    setup = tools.load_setup()
    cxx = tools.host_compiler()
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.name}.o"
        needs, kept = target.with_suffix(".needs"), target.with_suffix(".command")
        command = [*cxx, *setup.COMMON, *setup.WARNINGS, *FLAGS, *sources[source]]
        command += ["-MMD", "-MF", str(needs), "-x", "c++", "-c", str(source), "-o", str(target)]
        if not tools.up_to_date(target, needs) or kept.read_text() != shlex.join(command):
            kept.write_text(shlex.join(command))
            target.unlink(missing_ok=True)
            print(tools.call(command), end="", flush=True)  # warnings
        return target

    with ThreadPoolExecutor(setup.cores()) as pool:
        return list(pool.map(compile_one, sources))


def kernels() -> list[Path]:
    """The sources of the CUDA part, of the emulator, and of what both stand on."""
    setup = load("build_check").load_setup()
    return [
        *(ROOT / "csrc" / name for name in setup.CUDA_SOURCES),
        *(ROOT / "csrc" / "cpu" / name for name in ("threads.cpp", "stop.cpp")),
        *(ROOT / "tests" / "csrc" / "emulator" / name for name in EMULATOR),
    ]


def link(target: Path, objects: list[Path], options: list[str]) -> Path:
    tools = load("build_check")
    if not target.exists() or any(o.stat().st_mtime > target.stat().st_mtime for o in objects):
        command = [*tools.host_compiler(), *map(str, objects), *options, "-pthread"]
        tools.call([*command, "-o", str(target)])
    return target


def build_program(folder: Path, extra: list[str]) -> Path:
    """cuda_check; extra: flags for compiling and linking."""
    sources = [*kernels(), *(ROOT / "tests" / "csrc" / name for name in CHECKS)]
    objects = compile_all(folder, {source: extra for source in sources})
    return link(folder / "cuda_check", objects, extra)


def build_module(folder: Path) -> Path:
    """The functions cuda_* of coophash._C on the emulator, as a Python module: its file."""
    import pybind11

    headers = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    python = [*(f"-isystem{path}" for path in headers), "-Wno-attributes"]
    sources: dict[Path, list[str]] = {source: [] for source in kernels()}
    sources[ROOT / "csrc" / "bindings_cuda.cpp"] = python
    sources[ROOT / "tests" / "csrc" / "emulator" / "module.cpp"] = python
    objects = compile_all(folder, sources)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    shared = ["-shared"]
    if sys.platform == "darwin":
        shared += ["-undefined", "dynamic_lookup"]
    return link(folder / f"{MODULE}{suffix}", objects, shared)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", choices=["address"])
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "cuda-check")
    parser.add_argument("options", nargs="*", help="for cuda_check, after --")
    arguments = parser.parse_args()
    folder, extra = arguments.folder / "host", []
    if arguments.sanitize:
        setup = load("build_check").load_setup()
        folder = arguments.folder / arguments.sanitize
        extra = [*setup.SANITIZERS[arguments.sanitize], *setup.SANITIZED]
    program = build_program(folder, extra)
    if arguments.build_only:
        print(program)
        return 0
    return subprocess.run([str(program), *arguments.options]).returncode


if __name__ == "__main__":
    sys.exit(main())
