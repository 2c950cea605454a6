"""Search on a CUDA device, from Python, on the emulator of tests/csrc/emulator.

The device's results must be those of the CPU, which other tests compare with an oracle. What only
a GPU can show is in tests/test_cuda_gpu.py.
"""

from __future__ import annotations

import importlib.util
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coophash as ch
from coophash import _cuda, _device_arrays, _native
from coophash.search import hamming_histogram

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not a checkout: no sources"),
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
    ),
]


def load_support():
    spec = importlib.util.spec_from_file_location("cuda_support", ROOT / "tests/cuda_support.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = load_support()
draw, assert_same = support.draw, support.assert_same


Foreign, device = support.Foreign, support.device


def values(result):
    return [x.numpy() if isinstance(x, _device_arrays.DeviceArray) else x for x in result]


@pytest.mark.parametrize("kind", ["random", "clustered", "collapsed"])
@pytest.mark.parametrize("bits", [3, 32, 64, 100, 256])
def test_arrays_on_the_device(device, kind, bits):
    database, queries = draw(kind, 1500, bits, 1), draw(kind, 5, bits, 2)
    allow = np.random.default_rng(0).random(1500) < 0.4
    labels = (np.arange(1500) % 3, np.arange(5) % 3)
    several = tuple(np.random.default_rng(n).random((n, 20)) < 0.2 for n in (1500, 5))
    on_device, asked = Foreign(database), Foreign(queries)
    for k in (0, 1, 70, 1600):
        expected = ch.hamming_topk(database, queries, k)
        found = ch.hamming_topk(on_device, asked, k)
        assert all(isinstance(x, _device_arrays.DeviceArray) for x in found)
        assert_same(values(found), expected)
        assert_same(ch.hamming_topk(on_device, queries, k), expected)  # NumPy in, NumPy out
        assert_same(
            ch.hamming_topk(on_device, queries, k, allow=allow),
            ch.hamming_topk(database, queries, k, allow=allow),
        )
    rows = np.flatnonzero(allow)[::7]
    for radius in (0, bits // 3, 10**6):
        expected = ch.hamming_range(database, queries, radius)
        assert_same(values(ch.hamming_range(on_device, asked, radius)), expected)
        assert_same(
            ch.hamming_range(on_device, queries, radius, allow=rows),
            ch.hamming_range(database, queries, radius, allow=rows),
        )
    assert_same([hamming_histogram(on_device, queries)], [hamming_histogram(database, queries)])
    for relevance in (labels, several):
        for filtered in (None, allow):
            arguments = {"relevance": relevance, "allow": filtered}
            assert_same(
                hamming_histogram(on_device, queries, bits, **arguments),
                hamming_histogram(database, queries, bits, **arguments),
            )


@pytest.mark.parametrize("path", ["popc", "mma", "wgmma"])
def test_a_path_can_be_forced(device, monkeypatch, path):
    monkeypatch.setattr(_cuda, "path", path)
    database, queries = draw("clustered", 5000, 64, 1), draw("clustered", 40, 64, 2)
    before = device.counts()
    found = ch.hamming_topk(Foreign(database), queries, 9)
    assert_same(found, ch.hamming_topk(database, queries, 9))
    ran = {name: device.counts()[name] - before[name] for name in ("mma", "wgmma")}
    assert {name for name, count in ran.items() if count} == {path} - {"popc"}


def test_an_architecture_without_them_takes_no_tensor_cores(device, monkeypatch):
    device.configure(major=12)  # what was tried on device 0 was on another one: ask device 1
    assert "8.0 to 9.0" in device.cuda_try_path("mma", 1)
    monkeypatch.setattr(_cuda, "path", "mma")
    queries = draw("random", 40, 64, 2)
    with pytest.raises(ValueError, match=r"cannot be taken: only compute capability 8\.0"):
        ch.hamming_topk(Foreign(draw("random", 9000, 64, 1), 1), queries, 9)


def test_metrics_need_no_change(device):
    database, queries = draw("clustered", 900, 48, 1), draw("clustered", 7, 48, 2)
    labels = np.arange(7) % 3, np.arange(900) % 3
    expected = ch.metrics.mean_average_precision(queries, database, *labels)
    assert ch.metrics.mean_average_precision(queries, database, *labels) == expected


# ---- tensors ------------------------------------------------------------------------------------


@pytest.fixture
def tensors(device, monkeypatch):
    """torch as on a machine with a GPU: the emulator's device memory is main memory."""
    torch = pytest.importorskip("torch")

    class Stream:
        cuda_stream = 0

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: Stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    plain = _device_arrays.on_device
    for module in (_device_arrays, _cuda):
        monkeypatch.setattr(module, "on_device", lambda a: isinstance(a, torch.Tensor) or plain(a))
    return torch


def test_tensors_in_tensors_out(tensors):
    database, queries = draw("clustered", 3000, 64, 1), draw("clustered", 4, 64, 2)
    a, b = tensors.from_numpy(database), tensors.from_numpy(queries)
    for x, y in ((a, b), (a.T.contiguous().T, b[:, :]), (a, b.repeat(2, 1)[:4])):
        for found, expected in (
            (ch.hamming_topk(x, y, 6), ch.hamming_topk(database, queries, 6)),
            (ch.hamming_range(x, y, 9), ch.hamming_range(database, queries, 9)),
            ([hamming_histogram(x, y)], [hamming_histogram(database, queries)]),
        ):
            assert all(isinstance(value, tensors.Tensor) for value in found)
            assert_same([value.numpy() for value in found], expected)


def test_a_view_of_a_tensor_at_any_byte(tensors):
    database, queries = draw("random", 999, 64, 1), draw("random", 3, 64, 2)
    expected = ch.hamming_topk(database, queries, 6)
    buffer = tensors.zeros(database.size + 32, dtype=tensors.uint8)
    for shift in (1, 4, 8, 15):
        view = buffer[shift : shift + database.size].view(999, 8)
        view.copy_(tensors.from_numpy(database))
        found = ch.hamming_topk(view, tensors.from_numpy(queries), 6)
        assert_same([value.numpy() for value in found], expected)


def test_torch_has_not_enough_memory(tensors, monkeypatch):
    def empty(*_, **__):
        raise tensors.OutOfMemoryError("CUDA out of memory")

    a = tensors.from_numpy(draw("random", 999, 64, 1))
    monkeypatch.setattr(tensors, "empty", empty)
    with pytest.raises(
        MemoryError, match=r"3 results of 5 neighbours take .* on cuda:0, which has"
    ):
        ch.hamming_topk(a, a[:3], 5)


# ---- an index -----------------------------------------------------------------------------------


def both(bits: int, codes: np.ndarray, ids=None) -> tuple[ch.HammingIndex, ch.HammingIndex]:
    pair = ch.HammingIndex(bits), ch.HammingIndex(bits, device="cuda")
    for index in pair:
        index.add(codes, ids)
    return pair


def compare(cpu, gpu, queries, allow=None):
    for k in (3, 40):
        assert_same(gpu.search(queries, k, allow), cpu.search(queries, k, allow))
    for radius in (0, cpu.bits // 4):
        assert_same(
            gpu.range_search(queries, radius, allow), cpu.range_search(queries, radius, allow)
        )


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_an_index_through_its_life(data):
    """Adding, in any order of ids; removing; filters; rows that fit on the device and others."""
    draw_one = data.draw
    library = support.emulated()
    saved = _native.cuda
    _native.cuda = lambda: library
    chunk = _cuda.chunk_bytes
    _cuda.chunk_bytes = 1
    try:
        rng = np.random.default_rng(draw_one(st.integers(0, 2**32)))
        bits = draw_one(st.sampled_from([12, 64]))
        kind = draw_one(st.sampled_from(["random", "clustered", "collapsed"]))
        cpu, gpu = ch.HammingIndex(bits), ch.HammingIndex(bits, device="cuda")
        gpu._on_device.budget = draw_one(st.sampled_from([None, 0, 2000, 9000]))
        queries = draw(kind, 3, bits, 5)
        in_order = draw_one(st.booleans())
        fresh = rng.permutation(20000)
        for step in range(draw_one(st.integers(1, 5))):
            count = draw_one(st.integers(0, 900))
            ids = None if in_order else fresh[1000 * step : 1000 * step + count]
            if in_order and draw_one(st.booleans()):
                ids = 10000 * (step + 1) + 3 * np.arange(count)
            codes = draw(kind, count, bits, step)
            for index in (cpu, gpu):
                index.add(codes, ids)
            if draw_one(st.booleans()) and len(cpu):
                share = draw_one(st.sampled_from([0.01, 0.3, 0.8]))
                gone = cpu.ids[rng.random(len(cpu)) < share]
                for index in (cpu, gpu):
                    index.remove(gone)
            allow = draw_one(st.sampled_from([None, "mask", "ids"]))
            if allow == "mask":
                allow = rng.random(len(cpu)) < 0.5
            elif allow == "ids":
                allow = rng.permutation(cpu.ids)[: len(cpu) // 3]
            compare(cpu, gpu, queries, allow)
        np.testing.assert_array_equal(cpu.ids, gpu.ids)
        wanted = cpu.ids[::5]
        np.testing.assert_array_equal(cpu.get(wanted), gpu.get(wanted))
    finally:
        _native.cuda = saved
        _cuda.chunk_bytes = chunk


def test_an_index_from_disk(device, tmp_path):
    codes, queries = draw("clustered", 4000, 64, 1), draw("clustered", 3, 64, 2)
    cpu, gpu = both(64, codes)
    for index in (cpu, gpu):
        index.remove(np.arange(0, 4000, 7))
    gpu.save(tmp_path / "a")
    for mmap in (True, False):
        opened = ch.HammingIndex.open(tmp_path / "a", mmap=mmap, device="cuda:1")
        assert opened.device == "cuda:1"
        compare(cpu, opened, queries)
        more = draw("random", 100, 64, 3)
        opened.add(more)
        again = ch.HammingIndex.open(tmp_path / "a", mmap=mmap)
        again.add(more)
        compare(again, opened, queries)


def test_what_is_added_is_all_that_is_uploaded(device):
    cpu, gpu = both(64, draw("random", 6000, 64, 1))
    queries = draw("random", 2, 64, 2)
    compare(cpu, gpu, queries)
    held = [segment.memory for segment in gpu._on_device._segments]
    for index in (cpu, gpu):
        index.add(draw("random", 50, 64, 3))
    compare(cpu, gpu, queries)
    segments = gpu._on_device._segments
    assert segments[0].memory is held[0] and segments[-1][:2] == (6000, 6050)
    for _ in range(20):
        for index in (cpu, gpu):
            index.add(draw("random", 50, 64, 3))
        compare(cpu, gpu, queries)
    assert len(gpu._on_device._segments) < 8


def test_searches_beside_one_that_adds(device):
    codes = draw("clustered", 4000, 64, 1)
    _, gpu = both(64, codes[:2000])
    queries = draw("clustered", 2, 64, 2)
    errors = []

    def search():
        try:
            for _ in range(15):
                distances, ids = gpu.search(queries, 5)
                differing = np.bitwise_count(codes[ids] ^ queries[:, None]).sum(2)
                np.testing.assert_array_equal(differing, distances)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for at in range(2000, 4000, 100):
        gpu.add(codes[at : at + 100])
    for thread in threads:
        thread.join()
    assert not errors
    assert_same(gpu.search(queries, 9), ch.hamming_topk(codes, queries, 9))


# ---- what cannot be -----------------------------------------------------------------------------


def test_errors_of_the_device(device, monkeypatch):
    codes = draw("random", 9000, 64, 1)
    with pytest.raises(RuntimeError, match="this machine has 2 CUDA devices"):
        ch.HammingIndex(64, device="cuda:2")
    with pytest.raises(ValueError, match=r'method="mih" searches on the CPU alone: .* slow at'):
        ch.HammingIndex(64, method="mih", device="cuda")
    with pytest.raises(ValueError, match="k must be at most 16384 on a CUDA device, got 17000"):
        ch.hamming_topk(Foreign(np.zeros((20000, 8), np.uint8)), codes[:1], 17000)
    with pytest.raises(ValueError, match=r"queries must be on cuda:0 .* on cuda:1"):
        ch.hamming_topk(Foreign(codes), Foreign(codes[:2], 1), 1)
    with pytest.raises(ValueError, match="codes of one length, got 8 and 4 bytes"):
        ch.hamming_topk(Foreign(codes), codes[:2, :4].copy(), 1)
    with pytest.raises(TypeError, match=r"database must be contiguous, got strides \(16, 1\)"):
        ch.hamming_topk(Foreign(codes, strides=(16, 1)), codes[:2], 1)
    with pytest.raises(TypeError, match=r"database must be uint8 \(N, 1 to 512\), got float32"):
        ch.hamming_topk(Foreign(np.zeros((5, 8), np.float32)), codes[:2], 1)
    index = ch.HammingIndex(12, device="cuda")
    index.add(np.zeros((5, 2), np.uint8))
    with pytest.raises(ValueError, match="queries must be 0 in the 4 spare bits"):
        index.search(Foreign(np.full((1, 2), 255, np.uint8)), 1)
    device.configure(memory=1 << 17)
    with pytest.raises(
        MemoryError, match=r"search for 5 neighbours take .* MB on cuda:0, which has"
    ):
        ch.hamming_topk(Foreign(codes), codes[:2], 5)


def test_little_memory_makes_smaller_groups(device):
    database, queries = draw("clustered", 5000, 64, 1), draw("clustered", 60, 64, 2)
    expected = ch.hamming_topk(database, queries, 10)
    ranges = ch.hamming_range(database, queries, 1)
    _, least = device.cuda_topk_workspace(60, 8, 10, False)
    on_device = Foreign(database)
    free = device.cuda_memory(0)[0]
    total = device.cuda_memory(0)[1]
    device.configure(memory=total - free + least + 200_000)
    assert_same(ch.hamming_topk(on_device, queries, 10), expected)
    assert_same(ch.hamming_range(on_device, queries, 1), ranges)


def test_the_environment_chooses(device, monkeypatch):
    database, queries = draw("random", 2000, 64, 1), draw("random", 3, 64, 2)
    expected = ch.hamming_topk(database, queries, 4)
    monkeypatch.setenv("COOPHASH_BACKEND", "cuda")
    before = device.counts()["kernels"]
    assert_same(ch.hamming_topk(database, queries, 4), expected)
    assert device.counts()["kernels"] > before
    with pytest.raises(RuntimeError, match=r'runs on the CPU; give the index device="cuda"'):
        ch.HammingIndex(64).search(queries, 1)
    monkeypatch.setattr(device, "cuda_status", lambda: "no NVIDIA GPU", raising=False)
    with pytest.raises(RuntimeError, match="COOPHASH_BACKEND=cuda: no NVIDIA GPU"):
        ch.hamming_topk(database, queries, 4)


def test_without_a_device_the_index_says_why(monkeypatch):
    monkeypatch.setattr(_native, "cuda_status", lambda: "no NVIDIA GPU")
    with pytest.raises(RuntimeError, match=r"device=.cuda.: no NVIDIA GPU .*gives the same"):
        ch.HammingIndex(64, device="cuda")


def test_dlpack(device):
    """By a capsule, as any library makes them: a NumPy array that says it lies on the device."""

    class Packed:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, stream=None):
            assert stream == 1
            return self.array.__dlpack__()

    database, queries = draw("random", 2000, 64, 1), draw("random", 3, 64, 2)
    expected = ch.hamming_topk(database, queries, 4)
    found = ch.hamming_topk(Packed(database), Packed(queries), 4)
    assert_same(values(found), expected)
    with pytest.raises(TypeError, match="queries must be contiguous"):
        ch.hamming_topk(Packed(database), Packed(queries[:, ::-1]), 4)
