"""Search on a GPU: equal to the CPU bit for bit, on the streams and devices of the caller.

Everything here needs a GPU. What does not is in tests/test_cuda_search.py.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash import _cuda, _native
from coophash.search import hamming_histogram

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(_native.cuda_status()), reason=_native.cuda_status() or "-"),
]


def load_support():
    file = Path(__file__).with_name("cuda_support.py")
    spec = importlib.util.spec_from_file_location("cuda_support", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = load_support()
draw, assert_same = support.draw, support.assert_same
KINDS = ("random", "clustered", "collapsed")


def on_gpu(array, device="cuda"):
    return torch.from_numpy(array).to(device)


def host(result):
    return [x.cpu().numpy() if isinstance(x, torch.Tensor) else x for x in result]


@pytest.fixture(params=["popc", "mma", "wgmma"])
def path(request, monkeypatch):
    """Every way of comparing that this device has."""
    if why := _native.cuda().cuda_try_path(request.param, torch.cuda.current_device()):
        assert "wrong result" not in why
        pytest.skip(why)
    monkeypatch.setattr(_cuda, "path", request.param)
    return request.param


def test_this_device_has_the_tensor_cores_that_it_should_have():
    major, minor = torch.cuda.get_device_capability()
    for name, expected in (
        ("mma", 80 <= 10 * major + minor < 100),
        ("wgmma", (major, minor) == (9, 0)),
    ):
        why = _native.cuda().cuda_try_path(name, torch.cuda.current_device())
        assert (why == "") == expected, why


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [*range(1, 18), 24, 31, 32, 33, 48, 63, 64, 65, 128, 255, 512])
def test_every_width(width, kind):
    database, queries = draw(kind, 20_011, 8 * width, 1), draw(kind, 9, 8 * width, 2)
    a, b = on_gpu(database), on_gpu(queries)
    for k in (1, 100, 3000):
        assert_same(host(ch.hamming_topk(a, b, k)), ch.hamming_topk(database, queries, k))
    for radius in (0, 2 * width, 4 * width - 2):
        assert_same(
            host(ch.hamming_range(a, b, radius)), ch.hamming_range(database, queries, radius)
        )
    assert_same(host([hamming_histogram(a, b)]), [hamming_histogram(database, queries)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [32, 64, 128, 256, 512])
def test_every_path(path, bits, kind):
    database, queries = draw(kind, 300_007, bits, 1), draw(kind, 300, bits, 2)
    a, b = on_gpu(database), on_gpu(queries)
    allow = np.random.default_rng(0).random(len(database)) < 0.3
    for k in (1, 10, 1000):
        assert_same(host(ch.hamming_topk(a, b, k)), ch.hamming_topk(database, queries, k))
    for share in (allow, np.flatnonzero(allow)[::50]):
        assert_same(
            host(ch.hamming_topk(a, b, 20, allow=share)),
            ch.hamming_topk(database, queries, 20, allow=share),
        )
    radius = int(ch.hamming_topk(database, queries, 30)[0].max())
    for count in (1, 300):
        assert_same(
            host(ch.hamming_range(a, b[:count], radius)),
            ch.hamming_range(database, queries[:count], radius),
        )


def test_the_largest_k_and_many_rows(path):
    database, queries = draw("random", 3_000_001, 64, 1), draw("random", 40, 64, 2)
    a, b = on_gpu(database), on_gpu(queries)
    assert_same(host(ch.hamming_topk(a, b, 16384)), ch.hamming_topk(database, queries, 16384))


def test_near_ones_last_and_copies_without_end(path):
    rows = 1_000_000
    far = np.zeros((rows, 8), np.uint8)
    far[: 3 * rows // 4] = 255  # then a quarter of a million copies at one distance
    far[-1] = 1
    early = far.copy()  # near ones that are kept when the copies come
    early[[5, 700]] = 0
    falling = np.packbits(
        np.arange(64)[None] < (64 - 64 * np.arange(rows)[:, None] // rows),
        axis=1,
        bitorder="little",
    )
    queries = np.zeros((50, 8), np.uint8)
    queries[::3, 3] = 16
    for database in (far, early, falling):
        a, b = on_gpu(database), on_gpu(queries)
        assert_same(host(ch.hamming_topk(a, b, 30)), ch.hamming_topk(database, queries, 30))


def test_relevance():
    database, queries = draw("clustered", 100_000, 48, 1), draw("clustered", 30, 48, 2)
    rng = np.random.default_rng(0)
    several = tuple(rng.random((n, 40)) < 0.1 for n in (len(database), 30))
    for relevance in ((np.arange(100_000) % 10, np.arange(30) % 10), several):
        assert_same(
            host(hamming_histogram(on_gpu(database), on_gpu(queries), relevance=relevance)),
            hamming_histogram(database, queries, relevance=relevance),
        )


@pytest.mark.parametrize("bits", [4, 64, 100, 256, 4096])
def test_all_distances_and_spare_bits(bits):
    a, b = draw("clustered", 300, bits, 1), draw("clustered", 20_011, bits, 2)
    expected = ch.hamming_distances(a, b)
    assert_same(host([ch.hamming_distances(on_gpu(a), on_gpu(b))]), [expected])
    assert_same(host([ch.hamming_distances(on_gpu(a), b)]), [expected])
    assert_same(
        host([hamming_histogram(on_gpu(b), on_gpu(a[:3]), bits)]),
        [hamming_histogram(b, a[:3], bits)],
    )
    if bits % 8:
        b[[19_000, 12_345], -1] |= 128
        with pytest.raises(ValueError, match=r"database must be 0 in the 4 spare bits .* 12345 is"):
            hamming_histogram(on_gpu(b), on_gpu(a[:3]), bits)


def test_the_stream_of_the_caller():
    database, queries = draw("random", 400_000, 64, 1), draw("random", 20, 64, 2)
    expected = ch.hamming_topk(database, queries, 50)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(20):
            a = torch.zeros(database.shape, dtype=torch.uint8, device="cuda")
            torch.cuda._sleep(10_000_000)  # the codes come late
            a.copy_(on_gpu(database))
            found = ch.hamming_topk(a, on_gpu(queries), 50)
            del a
            torch.empty(database.shape, dtype=torch.uint8, device="cuda").fill_(255)
    stream.synchronize()
    assert_same(host(found), expected)


def test_threads_at_once():
    database, queries = draw("clustered", 200_000, 64, 1), draw("clustered", 40, 64, 2)
    expected = ch.hamming_topk(database, queries, 50)
    a, b = on_gpu(database), on_gpu(queries)
    errors = []

    def search():
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(10):
                    assert_same(host(ch.hamming_topk(a, b, 50)), expected)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("budget", [None, 3 << 20, 0])
def test_an_index(budget, monkeypatch):
    """On the device, half on it, and streamed to it."""
    monkeypatch.setattr(_cuda, "chunk_bytes", 1 << 20)
    cpu, gpu = ch.HammingIndex(64), ch.HammingIndex(64, device="cuda")
    gpu._on_device.budget = budget
    queries = draw("clustered", 70, 64, 3)
    for step in range(3):
        codes = draw("clustered", 300_000, 64, step)
        for index in (cpu, gpu):
            index.add(codes)
            index.remove(np.arange(300_000 * step, 300_000 * (step + 1), 11))
        assert_same(gpu.search(queries, 30), cpu.search(queries, 30))
        assert_same(host(gpu.search(on_gpu(queries), 30)), cpu.search(queries, 30))
        assert_same(gpu.range_search(queries, 3), cpu.range_search(queries, 3))
        allow = np.random.default_rng(step).random(len(cpu)) < 0.01
        assert_same(gpu.search(queries, 30, allow), cpu.search(queries, 30, allow))


def test_the_device_is_as_it_was_and_others_can_be_named():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone")
    database, queries = draw("random", 50_000, 64, 1), draw("random", 40, 64, 2)
    expected = ch.hamming_topk(database, queries, 9)
    for number in range(2):
        torch.cuda.set_device(1 - number)
        a = on_gpu(database, f"cuda:{number}")
        found = ch.hamming_topk(a, on_gpu(queries, f"cuda:{number}"), 9)
        assert found[0].device.index == number
        assert_same(host(found), expected)
        index = ch.HammingIndex(64, device=f"cuda:{number}")
        index.add(database)
        assert_same(index.search(queries, 9), expected)
        assert torch.cuda.current_device() == 1 - number
    torch.cuda.set_device(0)


NO_CONTEXT_ON_0 = """
import ctypes
import numpy as np
import coophash as ch
index = ch.HammingIndex(64, device="cuda:1")
index.add(np.zeros((9000, 8), np.uint8))
index.search(np.zeros((40, 8), np.uint8), 3)
flags, active = ctypes.c_uint(), ctypes.c_int()
driver = ctypes.CDLL("libcuda.so.1")
assert not driver.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active))
assert not active.value, "there is a context on device 0"
"""


def test_a_device_that_nobody_uses_gets_no_context():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone")
    done = subprocess.run([sys.executable, "-c", NO_CONTEXT_ON_0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_out_of_memory_says_how_much_is_needed():
    free = torch.cuda.mem_get_info()[0]
    held = torch.empty(max(0, free - (300 << 20)), dtype=torch.uint8, device="cuda")
    a = on_gpu(draw("random", 1000, 64, 1))
    try:
        with pytest.raises(MemoryError, match=r"take .* GB on cuda:0, which has"):
            ch.hamming_range(a.repeat(1000, 1), a.repeat(2, 1), 64)  # two billion results
    finally:
        del held
        torch.cuda.empty_cache()


def test_cupy_in_cupy_out():
    cupy = pytest.importorskip("cupy")
    database, queries = draw("random", 50_000, 64, 1), draw("random", 40, 64, 2)
    found = ch.hamming_topk(cupy.asarray(database), cupy.asarray(queries), 9)
    assert all(isinstance(x, cupy.ndarray) for x in found)
    assert_same([cupy.asnumpy(x) for x in found], ch.hamming_topk(database, queries, 9))
