"""Run the search tests on an extension that is built with a sanitizer.

python tests/sanitize.py address|thread [--short] [-- PYTEST_OPTION ...]

Builds the extension into build/sanitize-NAME, beside a copy of the package, and kernel_check
likewise; runs kernel_check, then the tests of TESTS with the sanitizer's library loaded first, as
Python itself is not built with it. The extension in place is not touched. Stops at the first report
of the sanitizer. `--short` leaves out the extension. Needs GCC or Clang, on Linux.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "address": [
        "test_threads.py",
        "test_search*.py",
        "test_index*.py",
        "test_store*.py",
        "test_mih*.py",
    ],
    "thread": ["test_threads.py", "test_index.py", "test_mih*.py"],
}
RUNTIMES = {"address": ("asan", "__asan_init"), "thread": ("tsan", "__tsan_init")}
# Python and NumPy free little at the end, and are not what is looked at.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0:abort_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
}


def step(what: str, command: list[str], **environment: str) -> None:
    """Run a command; end with its exit status if it fails."""
    print(f"== {what}", flush=True)
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode
    if status:
        sys.exit(f"sanitize: {what}: failed ({status}): {shlex.join(command)}")


def preload(name: str, cxx: list[str]) -> str:
    """Libraries that must be loaded before Python: the sanitizer's, and the one it looks into."""
    found = []
    clang = "clang" in subprocess.run([*cxx, "--version"], capture_output=True, text=True).stdout
    machine = os.uname().machine
    runtime = f"libclang_rt.{name}-{machine}.so" if clang else f"lib{name}.so"
    for library in (runtime, "libstdc++.so.6"):
        path = subprocess.run(
            [*cxx, f"-print-file-name={library}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if not Path(path).is_file():
            sys.exit(f"sanitize: {library} is not here: {cxx[0]} has no such sanitizer")
        found.append(str(Path(path).resolve()))
    return " ".join(found)


def build_extension(sanitizer: str, folder: Path) -> Path:
    """The extension beside a copy of the package; the folder to put first on the path of Python."""
    shutil.rmtree(folder, ignore_errors=True)  # a file that is gone must not stay in the copy
    options = ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    step(
        "build the extension",
        [sys.executable, "setup.py", "-q", "build_ext", *options],
        COOPHASH_SANITIZE=sanitizer,
        COOPHASH_CUDA="0",
    )
    (library,) = folder.glob("lib/coophash/_C*.so")
    if RUNTIMES[sanitizer][1].encode() not in library.read_bytes():
        sys.exit(f"sanitize: {library} is not built with {sanitizer} sanitizer")
    package, leave = folder / "lib" / "coophash", shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "coophash", package, ignore=leave, dirs_exist_ok=True)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=leave)
    return package.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sanitizer", choices=sorted(TESTS))
    parser.add_argument("--short", action="store_true", help="kernel_check alone, fewer cases")
    parser.add_argument("options", nargs="*", help="for pytest, after --")
    arguments = parser.parse_args()
    name = arguments.sanitizer
    if sys.platform != "linux":
        sys.exit("sanitize: Linux only")

    check = [sys.executable, "tests/csrc/build_check.py", "--sanitize", name, "--"]
    short = ["--short"] if arguments.short or name == "thread" else []
    step("kernel_check", [*check, *short], **OPTIONS)
    threads_short = ["--short"] if arguments.short else []
    step("kernel_check --threads", [*check, "--threads", *threads_short], **OPTIONS)
    if arguments.short:
        return

    cxx = shlex.split(os.environ.get("CXX", "")) or ["c++" if shutil.which("c++") else "g++"]
    libraries = preload(RUNTIMES[name][0], cxx)
    path = build_extension(name, ROOT / "build" / f"sanitize-{name}")
    environment = {
        **OPTIONS,
        "LD_PRELOAD": libraries,
        "PYTHONPATH": str(path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # The working folder, which Python puts first, has the package without the sanitizer.
    program = (
        "import sys; sys.path.remove(''); from coophash import _C; "
        f"assert _C.__file__.startswith({str(path)!r}), _C.__file__; "
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    tests = [str(p) for pattern in TESTS[name] for p in sorted((ROOT / "tests").glob(pattern))]
    # Those that measure are of no use here, and ThreadSanitizer ends where a fork makes threads.
    leave_out = "not busy and not one_core" + (" and not forked" if name == "thread" else "")
    options = ["-q", "-x", "--durations=5", "-k", leave_out]
    command = [sys.executable, "-c", program, *options, *tests, *arguments.options]
    step("pytest", command, **environment)
    print(f"sanitize: {name}: clean")


if __name__ == "__main__":
    main()
