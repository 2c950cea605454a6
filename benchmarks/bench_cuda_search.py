"""Search on one GPU beside a copy of the same bytes, faiss' scheme, and torch's matmul with topk.

    pytest benchmarks/bench_cuda_search.py -m gpu --benchmark-only

Codes are drawn on the device. Every way first passes a gate on a part of them: its distances must
be those of the CPU. `extra_info` has pairs a second of each, 1e12 = 1 Tp/s, and for one query the
share of a copy's bandwidth (of a copy that reads and writes as many bytes as the search reads).

"faiss-scheme" is a re-implementation, see faiss_scheme.cu; it takes minutes for one query over 10^9
codes, so it runs on a part of the rows and is scaled to all. COOPHASH_BENCH_ROWS gives other sizes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash import _cuda, _native

torch = pytest.importorskip("torch")

ROWS = int(float(os.environ.get("COOPHASH_BENCH_ROWS", "1e9")))
GATE_ROWS = 200_000
PATHS = ("popc", "mma", "wgmma")
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(_native.cuda_status()), reason=_native.cuda_status() or "-"),
]


@pytest.fixture(scope="module")
def words():
    """Random bytes of 8 x ROWS, once for all lengths of codes."""
    generator = torch.Generator("cuda").manual_seed(0)
    data = torch.empty(ROWS, dtype=torch.int64, device="cuda")
    step = 1 << 27
    for at in range(0, ROWS, step):
        part = data[at : at + step]
        part.random_(-(2**63), None, generator=generator)
    yield data.view(torch.uint8)
    del data
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def scheme(tmp_path_factory):
    """faiss' scheme, compiled by nvcc for this device."""
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc")) or "/usr/local/cuda/bin/nvcc"
    major, minor = torch.cuda.get_device_capability()
    library = tmp_path_factory.mktemp("scheme") / "scheme.so"
    subprocess.run(
        [nvcc, "-O3", f"-arch=sm_{major}{minor}", "-shared", "-Xcompiler", "-fPIC",
         str(HERE / "faiss_scheme.cu"), "-o", str(library)],
        check=True,
    )  # fmt: skip
    function = ctypes.CDLL(str(library)).faiss_scheme
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64,
                         ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]  # fmt: skip

    def run(codes, queries):
        nearest = torch.empty(len(queries), dtype=torch.int32, device="cuda")
        stream = torch.cuda.current_stream().cuda_stream
        error = function(codes.data_ptr(), len(codes), queries.data_ptr(), len(queries),
                         codes.shape[1] // 4, nearest.data_ptr(), stream)  # fmt: skip
        assert error == 0
        return nearest

    return run


def skip_missing(path: str) -> None:
    if why := _native.cuda().cuda_try_path(path, torch.cuda.current_device()):
        assert "wrong result" not in why
        pytest.skip(why)


def matmul_topk(codes, queries, k):
    """What a user of torch would write: +-1 in bf16, exact in fp32; (distances, rows)."""

    def signs(x):
        bits = (x[:, :, None] >> torch.arange(8, dtype=torch.uint8, device="cuda")) & 1
        return (2.0 * bits.reshape(len(x), -1) - 1).to(torch.bfloat16)

    dots = torch.mm(signs(queries), signs(codes).T, out_dtype=torch.float32)
    values, rows = dots.topk(k, dim=1)
    return ((8 * codes.shape[1] - values) / 2).to(torch.int32), rows


def gate(codes, queries, k) -> None:
    """Refuse to time a wrong search."""
    part = codes[:GATE_ROWS]
    found = ch.hamming_topk(part, queries, k)
    expected = ch.hamming_topk(part.cpu().numpy(), queries.cpu().numpy(), k)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


def seconds(call, times: int) -> float:
    """Of one call, by events."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(times):
        call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / times / 1e3


def in_turns(benchmark, ours, others: dict, rounds: int) -> dict[str, list[float]]:
    """Quartiles of seconds of each, all of them once a round; peers may scale their own."""
    each: dict[str, list[float]] = {name: [] for name in ("ours", *others)}

    def before():
        for name, (call, factor) in others.items():
            each[name].append(seconds(call, 1) * factor)

    def timed():
        each["ours"].append(seconds(ours, 1))

    benchmark.pedantic(timed, setup=before, rounds=rounds, warmup_rounds=1)
    kept = {name: np.array(found[-rounds:]) for name, found in each.items()}
    benchmark.extra_info["seconds"] = {
        name: np.quantile(found, [0.25, 0.5, 0.75]).tolist() for name, found in kept.items()
    }
    benchmark.extra_info["over_ours"] = {
        name: np.quantile(found / kept["ours"], [0.25, 0.5, 0.75]).tolist()
        for name, found in kept.items()
        if name != "ours"
    }
    return kept


@pytest.mark.parametrize("bits", [32, 64, 128, 256, 512])
def test_one_query(benchmark, words, bits):
    codes = words.view(-1, bits // 8)
    query = codes[-1:] ^ 5
    gate(codes, query, 10)
    half = len(words) // 2
    target = torch.empty(half, dtype=torch.uint8, device="cuda")
    benchmark.group = "one query"
    benchmark.extra_info |= {"bits": bits, "rows": len(codes), "k": 10, "batch": 1}
    # half of the bytes read and written: as many as the search reads
    copy = {"copy": (lambda: target.copy_(words[:half]), 1.0)}
    kept = in_turns(benchmark, lambda: ch.hamming_topk(codes, query, 10), copy, 15)
    benchmark.extra_info["of_copy_bandwidth"] = np.quantile(
        kept["copy"] / kept["ours"], [0.25, 0.5, 0.75]
    ).tolist()
    benchmark.extra_info["GB/s"] = len(words) / float(np.median(kept["ours"])) / 1e9


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bits", "batch"), [(64, 64), (64, 512), (64, 4096), (32, 4096),
                                             (128, 4096), (256, 4096), (512, 4096)])  # fmt: skip
def test_a_batch(benchmark, monkeypatch, words, scheme, path, bits, batch):
    skip_missing(path)
    monkeypatch.setattr(_cuda, "path", path)
    # as many pairs for all: some seconds at the slowest
    rows = min(len(words) // (bits // 8), ROWS if batch * bits <= 64 * 4096 else ROWS // 8)
    if path == "popc" and batch == 4096:
        rows = min(rows, ROWS // 4)
    codes = words.view(-1, bits // 8)[:rows]
    queries = codes[torch.randint(rows, (batch,), device="cuda")] ^ 3
    gate(codes, queries, 10)
    others = {}
    few = codes[: max(1, rows // 100)]
    if bits <= 256:
        least = scheme(few, queries)
        torch.testing.assert_close(least, ch.hamming_topk(few, queries, 1)[0][:, 0])
        others["faiss-scheme"] = (lambda: scheme(few, queries), rows / len(few))
    some = codes[: min(rows, max(1 << 16, (1 << 31) // batch // 4))]
    distances, _ = matmul_topk(some, queries, 10)
    torch.testing.assert_close(distances, ch.hamming_topk(some, queries, 10)[0])
    others["torch-matmul"] = (lambda: matmul_topk(some, queries, 10), rows / len(some))
    benchmark.group = f"batch, {bits} bits"
    benchmark.extra_info |= {"bits": bits, "rows": rows, "k": 10, "batch": batch, "path": path}
    kept = in_turns(benchmark, lambda: ch.hamming_topk(codes, queries, 10), others, 5)
    benchmark.extra_info["Tp/s"] = {
        name: rows * batch / float(np.median(found)) / 1e12 for name, found in kept.items()
    }


@pytest.mark.parametrize("k", [1, 100, 1000, 16384])
def test_k(benchmark, words, k):
    codes = words.view(-1, 8)[: ROWS // 8]
    queries = codes[-256:] ^ 9
    gate(codes, queries, k)
    benchmark.group = "k, 64 bits, 256 queries"
    benchmark.extra_info |= {"rows": len(codes), "batch": 256, "k": k}
    kept = in_turns(benchmark, lambda: ch.hamming_topk(codes, queries, k), {}, 5)
    benchmark.extra_info["Tp/s"] = len(codes) * 256 / float(np.median(kept["ours"])) / 1e12


@pytest.mark.parametrize("batch", [1, 1000])
def test_streamed(benchmark, monkeypatch, words, batch):
    """From main memory, with nothing kept on the device."""
    rows = min(ROWS, 1 << 28)
    index = ch.HammingIndex(64, device="cuda")
    index.add(words.view(-1, 8)[:rows].cpu().numpy())
    index._on_device.budget = 0
    queries = words.view(-1, 8)[:batch].cpu().numpy() ^ 9
    part = ch.hamming_topk(words.view(-1, 8)[:rows], queries, 10)
    for ours, theirs in zip(index.search(queries, 10), part, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    benchmark.group = "streamed, 64 bits"
    benchmark.extra_info |= {"rows": rows, "batch": batch, "k": 10}
    kept = in_turns(benchmark, lambda: index.search(queries, 10), {}, 3)
    benchmark.extra_info["GB/s"] = 8 * rows / float(np.median(kept["ours"])) / 1e9
