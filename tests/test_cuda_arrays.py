"""Arrays on a CUDA device wherever arrays are taken, on the emulator of tests/csrc/emulator."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash import _cuda, _device_arrays
from coophash.codes import as_numpy
from coophash.search import hamming_distances, hamming_histogram

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


@pytest.mark.parametrize("bits", [5, 64, 100, 512])
def test_all_distances(device, bits):
    a, b = draw("clustered", 70, bits, 1), draw("clustered", 300, bits, 2)
    expected = hamming_distances(a, b)
    before = device.counts()["kernels"]
    found = hamming_distances(Foreign(a), Foreign(b))
    assert isinstance(found, _device_arrays.DeviceArray)
    assert_same([found.numpy()], [expected])
    assert_same([hamming_distances(Foreign(a, 1), b).numpy()], [expected])
    assert device.counts()["kernels"] > before
    assert_same([hamming_distances(a, Foreign(b))], [expected])  # NumPy first, NumPy out
    for left, right in ((a[:0], b), (a, b[:0])):
        found = hamming_distances(Foreign(left), Foreign(right)).numpy()
        assert_same([found], [hamming_distances(left, right)])
    with pytest.raises(ValueError, match="a must be on cuda:1 as the codes are"):
        hamming_distances(Foreign(a), Foreign(b, 1))


def test_spare_bits_are_looked_at_on_the_device(device, monkeypatch):
    codes = draw("random", 5000, 44, 1)
    expected = hamming_histogram(codes, codes[:2], 44)
    there, asked = Foreign(codes), Foreign(codes[:2])

    def numpy(_):
        raise AssertionError("codes were copied to main memory")

    with monkeypatch.context() as patch:
        patch.setattr(_device_arrays.DeviceArray, "numpy", numpy)
        found = hamming_histogram(there, asked, 44)
    assert_same([found.numpy()], [expected])
    codes[[4321, 2345], -1] |= 16
    with pytest.raises(ValueError, match=r"database must be 0 in the 4 spare bits .* row 2345 is"):
        hamming_histogram(Foreign(codes), asked, 44)


def test_a_database_that_does_not_fit_is_streamed(device, monkeypatch):
    database, queries = draw("clustered", 60_000, 64, 1), draw("clustered", 3, 64, 2)
    allow = np.random.default_rng(0).random(len(database)) < 0.3
    expected = [
        ch.hamming_topk(database, queries, 6),
        ch.hamming_topk(database, queries, 6, allow=allow),
        ch.hamming_range(database, queries, 4, allow=allow),
        [hamming_distances(queries, database)],
    ]
    monkeypatch.setenv("COOPHASH_BACKEND", "cuda")
    monkeypatch.setattr(_cuda, "chunk_bytes", 1 << 16)
    held = device.CudaMemory
    monkeypatch.setattr(
        device,
        "CudaMemory",
        lambda number, size: (_ for _ in ()).throw(MemoryError) if size == database.nbytes
        else held(number, size),
        raising=False,
    )  # fmt: skip
    copies = device.counts()["copies"]
    found = [
        ch.hamming_topk(database, queries, 6),
        ch.hamming_topk(database, queries, 6, allow=allow),
        ch.hamming_range(database, queries, 4, allow=allow),
        [hamming_distances(queries, database)],
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
    assert device.counts()["copies"] - copies > 4 * database.nbytes >> 16


def test_memory_that_torch_keeps_is_asked_back(device, monkeypatch):
    torch = pytest.importorskip("torch")
    asked = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append(1))
    free = device.cuda_memory(0)[0]
    with pytest.raises(MemoryError):
        _device_arrays.own_memory(0, free + 1)
    assert asked == [1]
    assert _device_arrays.own_memory(0, 1000).bytes == 1000 and asked == [1]


def test_an_index_takes_and_gives_arrays_on_the_device(device):
    codes, queries = draw("clustered", 900, 40, 1), draw("clustered", 3, 40, 2)
    for where in ("cpu", "cuda"):
        index = ch.HammingIndex(40, device=where)
        ids = index.add(Foreign(codes[:600]))
        assert_same([ids.numpy()], [np.arange(600)])
        index.add(codes[600:], Foreign(np.arange(5000, 5300)))
        assert_same([index.get(Foreign(np.array([3, 5001]))).numpy()], [codes[[3, 601]]])
        mask = np.arange(900) % 3 == 0
        expected = ch.hamming_topk(codes[mask], queries, 4)[0]
        assert_same([index.search(queries, 4, allow=Foreign(mask))[0]], [expected])
        distances, found = index.search(Foreign(queries), 4, allow=index.ids[mask])
        assert_same([distances.numpy()], [expected])
        assert_same([index.get(found.numpy()[0])], [index.get(found.numpy()[0].tolist())])
        assert index.remove(Foreign(np.array([5001, 5002]))) == 2


def test_labels_on_the_device(device):
    database, queries = draw("clustered", 800, 48, 1), draw("clustered", 7, 48, 2)
    labels = np.arange(800) % 3, np.arange(7) % 3
    expected = hamming_histogram(database, queries, relevance=labels)
    found = hamming_histogram(
        Foreign(database), Foreign(queries), relevance=tuple(map(Foreign, labels))
    )
    assert_same([x.numpy() for x in found], expected)
    assert ch.metrics.mean_average_precision(
        Foreign(queries), Foreign(database), Foreign(labels[1]), Foreign(labels[0])
    ) == ch.metrics.mean_average_precision(queries, database, labels[1], labels[0])


def test_without_cuda_code_an_array_on_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(_device_arrays._native, "cuda_status", lambda: "no NVIDIA GPU")

    class Elsewhere:
        @property
        def __cuda_array_interface__(self):
            return {"shape": (1,), "typestr": "|u1", "data": (0, False)}

    with pytest.raises(TypeError, match=r"codes is a Elsewhere on a CUDA device, .*no NVIDIA GPU"):
        as_numpy(Elsewhere(), "codes")


def test_a_streamed_search_can_be_interrupted(device, monkeypatch):
    monkeypatch.setattr(_cuda, "chunk_bytes", 1)
    index = ch.HammingIndex(64, device="cuda")
    codes = draw("random", 20_000, 64, 1)
    index.add(codes)
    index._on_device.budget = 0
    expected = ch.hamming_topk(codes[:2000], codes[:1], 3)

    class Enough(Exception):
        pass

    def handle(*_):
        raise Enough

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Enough):
            for _ in range(100):
                index.search(codes[:40], 3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    small = ch.HammingIndex(64, device="cuda")  # and what comes after is right
    small.add(codes[:2000])
    assert_same(small.search(codes[:1], 3), expected)
