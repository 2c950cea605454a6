"""Build of the compiled extension coophash._C: C++ always, CUDA where nvcc is.

Environment:

COOPHASH_CUDA=auto|0|1
    auto (the default) builds the CUDA part if nvcc is found and works, and says so if not; 0 leaves
    it out; 1 fails if it cannot be built.
COOPHASH_CUDA_ARCHS="80 90"
    compute capabilities to build for; PTX of the last one is added. Default: all that this nvcc
    offers from 75 on. Those of one generation run each other's code (86 that of 80), but those of
    Jetson and the like (87, 88, 110) do not, and code of its own spares each the doubt. A build for
    one GPU takes a tenth of the time.
COOPHASH_SANITIZE=address|thread
    for development: build with AddressSanitizer and UBSan, or with ThreadSanitizer. Not in place;
    `make asan` and `make tsan` build into folders of their own and run what is to be checked.
CXX, NVCC, MAX_JOBS
    the compilers, and how many to run at once (default: the cores at hand).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = Path("csrc")

# One object a source. A faster instruction set has a source of its own and only that one gets its
# flags, so that no other code runs on it; which is used is decided at run time.
COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow"]
CPU_SOURCES = {
    "bindings.cpp": [],
    "bindings_cuda.cpp": [],
    "bindings_mih.cpp": [],
    "build_info.cpp": [],
    "cpu/bandwidth.cpp": [],
    "cpu/blocks.cpp": [],
    "cpu/costs.cpp": [],
    "cpu/dispatch.cpp": [],
    "cpu/filter.cpp": [],
    "cpu/histogram.cpp": [],
    "cpu/mih.cpp": [],
    "cpu/mih_avx2.cpp": [],
    "cpu/mih_avx512.cpp": [],
    "cpu/mih_batch.cpp": [],
    "cpu/mih_build.cpp": [],
    "cpu/mih_cost.cpp": [],
    "cpu/mih_probe.cpp": [],
    "cpu/mih_range.cpp": [],
    "cpu/mih_rows.cpp": [],
    "cpu/mih_walk.cpp": [],
    "cpu/placing.cpp": [],
    "cpu/radix_sort.cpp": [],
    "cpu/range.cpp": [],
    "cpu/ranking.cpp": [],
    "cpu/relevance.cpp": [],
    "cpu/stop.cpp": [],
    "cpu/threads.cpp": [],
    "cpu/topk.cpp": [],
    # really scalar: it is the reference that the others are compared with
    "cpu/serial.cpp": ["-fno-tree-vectorize"],
    "cpu/avx2.cpp": [],
    "cpu/avx512.cpp": [],
    "cpu/neon.cpp": [],
    "cpu/sliced_avx2.cpp": [],
    "cpu/sliced_avx512.cpp": [],
    "cpu/sliced_neon.cpp": [],
}
AVX2_FLAGS = ["-mavx2", "-mpopcnt"]
AVX512_FLAGS = [
    *["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi"],
    *["-mavx512vpopcntdq", "-mgfni", "-mpopcnt"],
    # GCC's own header reads registers that it leaves undefined on purpose (GCC bug 105593)
    *["-Wno-uninitialized", "-Wno-maybe-uninitialized"],
]
X86_FLAGS = {
    "cpu/avx2.cpp": AVX2_FLAGS,
    "cpu/avx512.cpp": AVX512_FLAGS,
    "cpu/mih_avx2.cpp": AVX2_FLAGS,
    "cpu/mih_avx512.cpp": AVX512_FLAGS,
    "cpu/sliced_avx2.cpp": AVX2_FLAGS,
    "cpu/sliced_avx512.cpp": AVX512_FLAGS,
}
# Flags that come after all others, for compiling and for linking.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer"]
HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall"]
HOST_FLAGS += ["-Wno-unknown-pragmas"]  # unrolling is for the device
# The architectures that each has code for: all, or none (host code alone), or those named.
CUDA_SOURCES = {
    "cuda/codes.cu": "all",
    "cuda/collect.cu": "all",
    "cuda/device.cpp": "none",
    "cuda/feeder.cpp": "none",
    "cuda/guard.cpp": "none",
    "cuda/histogram.cu": "all",
    "cuda/mma.cu": "all",
    "cuda/paths.cpp": "none",
    "cuda/range.cpp": "none",
    "cuda/select.cu": "all",
    "cuda/ties.cu": "all",
    "cuda/topk.cpp": "none",
    "cuda/wgmma.cu": "90a",
}
OLDEST_ARCH = 75
# nvcc 13.2 is known to miscompile for 103, and no later one is known to be right. Such a GPU then
# runs the code for 100.
WRONG_ARCHS = {"103": (13, 2)}


class NoCuda(Exception):
    """Why the CUDA part is not built."""


def run(command: list[str]) -> str:
    """Run a command and return what it printed; an error carries its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}")
    return done.stdout


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def announce(message: str) -> None:
    """Say something that must be seen: pip hides what a build prints, a terminal does not."""
    print(message, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
        terminal.write(message)


class Nvcc:
    """The CUDA compiler, where it keeps its static runtime, and what it can build for."""

    def __init__(self) -> None:
        name = os.environ.get("NVCC", "nvcc")
        found = shutil.which(name) or shutil.which("/usr/local/cuda/bin/nvcc")
        if not found:
            raise NoCuda(f"{name} is not on PATH")
        self.path = found
        try:
            release = re.search(r"release (\S+), V(\S+)", run([found, "--version"]))
            offered = re.findall(r"sm_(\d+)", run([found, "--list-gpu-code"]))
            dry = run([found, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull])
        except (RuntimeError, OSError) as error:
            raise NoCuda(f"{found} does not work: {error}") from None
        self.version = release.group(2) if release else "unknown"
        self.archs = self._choose(offered)
        self.runtime = self._static_runtime(dry)

    def _choose(self, offered: list[str]) -> list[str]:
        asked = re.split(r"[\s,;]+", os.environ.get("COOPHASH_CUDA_ARCHS", "").strip(" ,;"))
        asked = [arch for arch in asked if arch]
        unknown = [arch for arch in asked if arch not in offered]
        if unknown:
            raise SystemExit(
                f"COOPHASH_CUDA_ARCHS: {' '.join(unknown)} not among those of nvcc {self.version}: "
                f"{' '.join(offered)}"
            )
        return sorted(set(asked or filter(self._is_wanted, offered)), key=int)

    def _is_wanted(self, arch: str) -> bool:
        release = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        return int(arch) >= OLDEST_ARCH and release < WRONG_ARCHS.get(arch, (1000,))

    def _static_runtime(self, dry: str) -> Path:
        # `which nvcc` may be a wrapper script, so the folders are asked of nvcc itself.
        places = [Path(p) for p in re.findall(r'"?-L"?([^"\s]+)', dry)]
        top = re.search(r"TOP=(\S+)", dry)
        if top:
            places += [Path(top.group(1)) / "lib64", Path(top.group(1)) / "lib"]
        for place in places:
            library = place / "libcudart_static.a"
            if library.is_file():
                return library
        raise NoCuda(f"libcudart_static.a is in none of {', '.join(map(str, places))}")

    def built_for(self) -> list[str]:
        """All architectures that there is code for."""
        special = {archs for archs in CUDA_SOURCES.values() if archs.rstrip("a") in self.archs}
        return sorted([*self.archs, *special], key=lambda arch: (int(arch.rstrip("a")), arch))

    def ptx_of(self, arch: str) -> str:
        """The architecture whose PTX an architecture's code is made of: the first of its generation
        that is built. No source asks for more, and it is compiled once for all of them."""
        return min((a for a in self.archs if int(a) // 10 == int(arch) // 10), key=int)

    def compile_command(self, source: Path, target: Path, archs: str = "all") -> list[str]:
        targets = [f"-gencode=arch=compute_{self.ptx_of(a)},code=sm_{a}" for a in self.archs]
        newest = self.ptx_of(self.archs[-1])
        targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
        if archs == "none":
            targets = []
        elif archs != "all" and archs.rstrip("a") in self.archs:
            targets = [f"-gencode=arch=compute_{archs},code=sm_{archs}"]
            targets.append(f"-DCOOPHASH_{source.stem.upper()}_BUILT")
        host = ["-Xcompiler", ",".join(HOST_FLAGS)]
        return [
            *[self.path, "-std=c++17", "-O3", *host, *targets],
            *["-c", str(source), "-o", str(target)],
        ]


class Build(build_ext):
    """Compile each source with its own flags, all cores at work, and link."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name != "coophash._C":
            super().build_extension(ext)
            return
        if sys.platform == "win32":
            raise SystemExit("coophash builds on Linux and macOS: use WSL on Windows")
        import pybind11

        self.sanitizer = self._sanitizer()
        self.folder = Path(self.build_temp).resolve() / "coophash"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cxx = self._compiler()
        # pybind11's and Python's headers are not ours to be warned of
        headers = [pybind11.get_include(), *self.include_dirs]
        self.system = [f"-isystem{path}" for path in headers]
        jobs = int(os.environ.get("MAX_JOBS") or 0) or cores()
        with ThreadPoolExecutor(jobs) as pool:
            # nvcc takes longest: it begins
            cuda = ThreadPoolExecutor(1).submit(self._cuda, pool)
            first = [s for s in CPU_SOURCES if s != "build_info.cpp"]
            objects = list(pool.map(self._compile, first))
            cuda_objects, libraries, nvcc, reason = cuda.result()
        self._write_build_info(nvcc, reason)
        objects.append(self._compile("build_info.cpp"))
        objects += cuda_objects or [self._compile("cuda/absent.cpp")]

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        link = [*self.cxx, "-shared", *map(str, objects), *libraries, "-o", str(target)]
        if sys.platform == "darwin":
            link += ["-undefined", "dynamic_lookup"]
        else:
            # the static CUDA runtime stays private, beside the one that another package may load
            link += ["-pthread", "-Wl,--exclude-libs,ALL", "-Wl,-O1"]
            link += self.sanitizer or ["-s"]
        self._call(link)

    def _sanitizer(self) -> list[str]:
        """Flags of the sanitizer that is asked for, if any."""
        name = os.environ.get("COOPHASH_SANITIZE", "")
        if not name:
            return []
        if name not in SANITIZERS:
            raise SystemExit(f"COOPHASH_SANITIZE must be {' or '.join(SANITIZERS)}, got {name!r}")
        if self.inplace:
            raise SystemExit(
                "COOPHASH_SANITIZE is not for the extension in place: such a one loads into no "
                "plain Python. Run make asan or make tsan"
            )
        return SANITIZERS[name]

    def _compiler(self) -> list[str]:
        named = shlex.split(os.environ.get("CXX", "")) or ["c++"]
        names = [named] if os.environ.get("CXX") else [["c++"], ["g++"], ["clang++"]]
        for command in names:
            if shutil.which(command[0]):
                return command
        raise SystemExit(
            f"coophash needs a C++17 compiler, and {' '.join(named)} is not on PATH: install one "
            "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or name it in CXX"
        )

    def _compile(self, name: str) -> Path:
        target = self.folder / (name.replace("/", "_") + ".o")
        flags = [*COMMON, *WARNINGS, *CPU_SOURCES.get(name, [])]
        if platform.machine().lower() in ("x86_64", "amd64"):
            flags += X86_FLAGS.get(name, [])
        includes = [f"-I{self.folder}"]
        if name.startswith("bindings"):
            includes += self.system
            flags += ["-Wno-attributes"]
        if self.sanitizer:
            flags += [*self.sanitizer, *SANITIZED]
        self._call([*self.cxx, *flags, *includes, "-c", str(CSRC / name), "-o", str(target)])
        return target

    def _call(self, command: list[str]) -> None:
        try:
            output = run(command)
        except RuntimeError as error:
            raise SystemExit(f"coophash: compiling failed\n{error}") from None
        if output.strip():
            print(output, flush=True)

    def _cuda(self, pool: ThreadPoolExecutor) -> tuple[list[Path], list[str], Nvcc | None, str]:
        """The CUDA objects, what they link with, the compiler, and why there is none if so."""
        wanted = os.environ.get("COOPHASH_CUDA", "auto").lower()
        if wanted not in ("auto", "0", "1"):
            raise SystemExit(f"COOPHASH_CUDA must be auto, 0 or 1, got {wanted!r}")
        if wanted == "0":
            return [], [], None, "COOPHASH_CUDA=0 when it was built"
        try:
            nvcc = Nvcc()
            commands, objects = [], []
            for name, archs in CUDA_SOURCES.items():
                objects.append(self.folder / (name.replace("/", "_") + ".o"))
                commands.append(nvcc.compile_command(CSRC / name, objects[-1], archs))
            try:
                list(pool.map(run, commands))
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                raise NoCuda(f"nvcc {nvcc.version} could not compile it") from None
        except NoCuda as missing:
            if wanted == "1":
                raise SystemExit(f"COOPHASH_CUDA=1, but: {missing}") from None
            return [], [], None, f"{missing} when it was built"
        libraries = [str(nvcc.runtime), "-ldl", "-lrt", "-lpthread"]
        return objects, libraries, nvcc, ""

    def _write_build_info(self, nvcc: Nvcc | None, reason: str) -> None:
        version = self.distribution.get_version()
        archs = " ".join([*nvcc.built_for(), f"ptx{nvcc.ptx_of(nvcc.archs[-1])}"]) if nvcc else ""
        values = {
            "VERSION": version,
            "CUDA_REASON": reason,
            "NVCC_VERSION": nvcc.version if nvcc else "",
            "CUDA_ARCHS": archs,
        }
        lines = [f"#define COOPHASH_BUILD_CUDA {int(nvcc is not None)}"]
        for name, value in values.items():
            quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
            lines.append(f'#define COOPHASH_BUILD_{name} "{quoted}"')
        (self.folder / "coophash_build.h").write_text("\n".join(lines) + "\n")
        if nvcc:
            print(f"coophash: with CUDA, nvcc {nvcc.version}, for {archs}", flush=True)
            return
        announce(f"coophash: built without CUDA: {reason}\n")


def sources() -> list[str]:
    """Everything that belongs into a source distribution."""
    names = [*CPU_SOURCES, *CUDA_SOURCES, "cuda/absent.cpp"]
    return [str(CSRC / name) for name in names]


if __name__ == "__main__":  # not when tests/csrc/build_check.py reads the flags
    os.chdir(ROOT)
    setup(ext_modules=[Extension("coophash._C", sources())], cmdclass={"build_ext": Build})
