"""`make gpu` on a machine without a GPU: the script with a Python that only notes how it is called,
the benchmark of the CUDA search on the emulator, and the table of its results."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "gpu.sh").is_file(), reason="not a checkout: no benchmarks"
)
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


def load(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_here", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the script ---------------------------------------------------------------------------------


def run_script(folder: Path, *options: str, failing: str = "nothing") -> tuple[int, str, list[str]]:
    """Run a copy of the script with tools that note how they are called: exit status, output, and
    these calls. What has `failing` in it fails."""
    (folder / "bin").mkdir()
    for name in ("benchmarks/gpu.sh", "benchmarks/bench_signs.py", "benchmarks/bench_mih.py",
                 "benchmarks/bench_cuda_search.py", "tests/test_cuda_gpu.py",
                 "tests/test_codes.py", "tests/test_chain_gpu.py"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    calls = folder / "calls"
    tools = {
        "python": f"""
if [ "$1" = - ]; then echo "NVIDIA_H200 90"; exit 0; fi
echo "python archs=$COOPHASH_CUDA_ARCHS path=${{PYTHONPATH:-}} $*" >> {calls}
case "$*" in *{failing}*) exit 7;; esac
for word in "$@"; do case $word in --benchmark-json=*) mkdir -p benchmarks/results
echo '{{}}' > "${{word#*=}}";; esac; done""",
        "nvcc": "printf 'sm_80\\nsm_90\\n'",
        "compute-sanitizer": f"""
echo "compute-sanitizer $2" >> {calls}
shift 4; exec "$@" """,
    }
    for name, body in tools.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PYTHON": "python"}
    for name in ("COOPHASH_CUDA_ARCHS", "PYTHONPATH"):
        environment.pop(name, None)
    done = subprocess.run(
        ["sh", str(folder / "benchmarks" / "gpu.sh"), *options],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    said = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, said


def test_everything_is_run(tmp_path):
    status, said, calls = run_script(tmp_path)
    assert status == 0, said
    assert calls[0].startswith("python archs=90 path= -m pip install")
    tests, benches = (next(c for c in calls if part in c) for part in ("junitxml", "-json="))
    assert f"path={tmp_path}/build/gpu" in tests
    assert "test_cuda_gpu.py" in tests and "test_chain_gpu.py" in tests
    assert "test_codes.py" not in tests and "bench_mih.py" not in benches
    assert "bench_cuda_search.py" in benches and "bench_signs.py" in benches
    assert "--benchmark-json=benchmarks/results/NVIDIA_H200.json" in benches
    tools = [c.split()[1] for c in calls if c.startswith("compute-sanitizer")]
    assert tools == ["memcheck", "racecheck", "synccheck"]
    assert calls[-1].endswith("benchmarks/table.py benchmarks/results/NVIDIA_H200.json")
    assert said.splitlines()[-1] == "results: benchmarks/results/NVIDIA_H200.json"


def test_a_part_is_run_and_a_failure_is_not_forgotten(tmp_path):
    status, _, calls = run_script(tmp_path, "search", failing="junitxml")
    assert status == 7
    assert not [c for c in calls if "bench_signs" in c or "test_chain_gpu" in c]
    assert "table.py" in calls[-1]  # what comes after it is run all the same


def test_what_is_no_part(tmp_path):
    status, said, calls = run_script(tmp_path, "serach")
    assert status == 2 and "all, search or kernels, not serach" in said and not calls


# ---- the benchmark ------------------------------------------------------------------------------


class Benchmark:
    """What pytest-benchmark's fixture is to these benchmarks."""

    def __init__(self) -> None:
        self.extra_info: dict = {}
        self.group = None

    def pedantic(self, call, setup, rounds, warmup_rounds):
        for _ in range(rounds + warmup_rounds):
            setup()
            call()


def fake_torch(torch):
    """torch whose GPU is the CPU, and where each event is a millisecond behind the last."""
    clock = iter(range(10**6))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return float(other.at - self.at)

    def here(function):
        return lambda *a, device=None, **k: function(*a, **k)

    class Torch:
        cuda = SimpleNamespace(
            Event=Event,
            empty_cache=lambda: None,
            current_device=lambda: 0,
            get_device_capability=lambda: (9, 0),
            current_stream=lambda: SimpleNamespace(cuda_stream=0),
        )
        Generator = staticmethod(lambda _: torch.Generator())
        mm = staticmethod(lambda a, b, out_dtype: torch.mm(a.to(out_dtype), b.to(out_dtype)))

        def __getattr__(self, name):
            found = getattr(torch, name)
            return here(found) if name in ("empty", "arange", "randint") else found

    return Torch()


@needs_compiler
def test_the_benchmark_of_the_search_runs_to_its_table(monkeypatch):
    torch = pytest.importorskip("torch")
    support = load("tests/cuda_support.py")
    library = support.emulated()
    library.configure()
    from coophash import _cuda, _device_arrays, _native

    monkeypatch.setattr(_native, "cuda", lambda: library)
    plain = _device_arrays.on_device
    for module in (_device_arrays, _cuda):
        monkeypatch.setattr(module, "on_device", lambda a: isinstance(a, torch.Tensor) or plain(a))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    # on a GPU's machine the CPU's search gets its codes from there; here they are both tensors
    monkeypatch.setenv("COOPHASH_BENCH_ROWS", "12e3")
    bench = load("benchmarks/bench_cuda_search.py")
    assert bench.ROWS == 12000
    monkeypatch.setattr(bench, "torch", fake_torch(torch))
    drawn = bench.words.__wrapped__()
    words = next(drawn)
    assert len(words) == 8 * bench.ROWS

    def scheme(codes, queries):
        every = torch.from_numpy(np.bitwise_count(codes.numpy() ^ queries.numpy()[:, None]))
        return every.sum(2).min(1).values.to(torch.int32)

    runs = []

    def run(function, *arguments):
        benchmark = Benchmark()
        function(benchmark, *arguments)
        info = json.loads(json.dumps(benchmark.extra_info))  # what a file can hold
        runs.append({"name": f"{function.__name__}[x]", "fullname": "x", "extra_info": info})

    run(bench.test_one_query, words, 64)
    run(bench.test_a_batch, monkeypatch, words, scheme, "wgmma", 64, 40)
    monkeypatch.setattr(_cuda, "path", "")
    run(bench.test_k, words, 100)
    run(bench.test_streamed, monkeypatch, words, 1)
    table = load("benchmarks/table.py")
    info = {"processor": "x", "cores": 2, "gpu": "emulated", "versions": {"torch": "2"}}
    lines = table.tables({"machine_info": info, "benchmarks": runs}, None).splitlines()
    assert [line.split(" |")[0] for line in lines[4:]] == [
        "| one_query", "| a_batch", "| k", "| streamed"
    ]  # fmt: skip
    assert "faiss-scheme" in lines[5] and "%" in lines[4]
    assert len({line.count("|") for line in lines[2:]}) == 1


@pytest.mark.sass
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_the_scheme_of_faiss_compiles(tmp_path):
    done = subprocess.run(
        ["nvcc", "-arch=sm_90", "-shared", "-Xcompiler", "-fPIC",
         str(ROOT / "benchmarks" / "faiss_scheme.cu"), "-o", str(tmp_path / "scheme.so")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sys.platform != "linux" or (tmp_path / "scheme.so").stat().st_size
