"""Searches and threads: how many work, several callers at once, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import coophash as ch


def codes(rows: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, width), dtype=np.uint8)


class Caller(threading.Thread):
    """A thread whose result or error can be asked for."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.error, self.result = work, None, None
        self.start()

    def run(self):
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error

    def wait(self):
        self.join(timeout=120)
        assert not self.is_alive(), "the search never came back"
        if self.error:
            raise self.error
        return self.result


def test_many_callers_at_once_get_the_results_of_one():
    database, queries = codes(100_000, 8, 0) & 7, codes(60, 8, 1) & 7  # ties by the thousand
    index = ch.HammingIndex(bits=64)
    index.add(database)

    def search(threads, count):
        asked = queries[:count]
        return [
            *ch.hamming_topk(database, asked, 30, threads=threads),
            *index.search(asked, 30),
            *ch.hamming_range(database, asked, 3, threads=threads),
            ch.hamming_histogram(database, asked, threads=threads),
        ]

    expected = {count: search(1, count) for count in (1, 3, 60)}
    tasks = [(threads, count) for count in expected for threads in (1, 2, 5)] * 3
    callers = [Caller(lambda task=task: search(*task)) for task in tasks]
    for (_, count), caller in zip(tasks, callers, strict=True):
        for found, wanted in zip(caller.wait(), expected[count], strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_one_thread_is_one_core():
    database, queries = codes(200_000, 32, 0), codes(100, 32, 1)
    ch.hamming_topk(database, queries, 10, threads=4)  # the pool has threads that could help
    for search in (
        lambda: ch.hamming_topk(database, queries, 10, threads=1),
        lambda: ch.hamming_range(database, queries, 90, threads=1),
        lambda: ch.hamming_histogram(database, queries, threads=1),
        lambda: ch.hamming_distances(queries, database, threads=1),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() < wall + 0.3:
            search()
        assert time.process_time() - cpu <= 1.2 * (time.perf_counter() - wall)


def runnable_threads() -> int:
    """Threads of this process that run or want to, but for the one that asks."""
    own, count = threading.get_native_id(), 0
    for task in Path("/proc/self/task").iterdir():
        try:
            state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        count += state == "R" and int(task.name) != own
    return count


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc: not Linux")
def test_no_more_threads_are_busy_than_allowed(monkeypatch):
    monkeypatch.setenv("COOPHASH_ISA", "serial")  # slow, so that there is something to see
    database = codes(400_000, 8, 0)

    def busy(threads: int, queries: int) -> np.ndarray:
        caller = Caller(lambda: ch.hamming_topk(database, codes(queries, 8, 1), 5, threads=threads))
        seen = []
        while caller.is_alive():
            seen.append(runnable_threads())
            time.sleep(0.002)
        caller.wait()
        return np.array(seen[2:])

    assert busy(5, 1500).mean() > 3  # so it can be seen, on one core as well, and the pool is large
    for threads, queries in [(1, 600), (2, 900), (3, 12), (3, 1200)]:
        seen = busy(threads, queries)
        if len(seen) > 10:  # a sample may catch a thread on its way to sleep
            assert np.quantile(seen, 0.9) <= threads and seen.mean() < threads + 0.3


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
import coophash as ch

rng = np.random.default_rng(0)
database = rng.integers(0, 256, (1_000_000, 8), dtype=np.uint8)
queries = rng.integers(0, 256, (60_000, 8), dtype=np.uint8)
index = ch.HammingIndex(64)
index.add(database)
wide = rng.integers(0, 256, (30_000, 512), dtype=np.uint8)
allow = rng.random(len(database)) < 0.3  # gathers the rows
searches = {
    "topk": lambda threads: ch.hamming_topk(database, queries, 5, threads=threads),
    "few": lambda threads: [ch.hamming_topk(database, queries[:9], 5, threads=threads)
                            for _ in range(10_000)],
    "filtered": lambda threads: ch.hamming_topk(database, queries, 5, allow=allow, threads=threads),
    "index": lambda threads: index.search(queries, 5),
    "range": lambda threads: ch.hamming_range(database, queries, 5, threads=threads),
    "histogram": lambda threads: ch.hamming_histogram(database, queries, threads=threads),
    "distances": lambda threads: ch.hamming_distances(wide, wide[:5000], threads=threads),
}
expected = ch.hamming_topk(database, queries[:3], 5, threads=1)

def interrupted(search, threads):
    print("begun", flush=True)
    begin = time.perf_counter()
    try:
        search(threads)
    except KeyboardInterrupt:
        return time.perf_counter() - begin
    raise SystemExit("the search came to its end")

def check(threads):
    for found, wanted in zip(ch.hamming_topk(database, queries[:3], 5, threads=threads), expected):
        assert (found == wanted).all()

for name, search in searches.items():
    for threads in (1, 3):
        took = interrupted(search, threads)
        check(threads)
        print(f"{name} with {threads} threads: {took:.2f}", flush=True)
        assert took < 5, (name, threads, took)

# another thread's search goes on to its end
other = []
thread = threading.Thread(
    target=lambda: other.append(ch.hamming_topk(database, queries[:2000], 5, threads=2)))
thread.start()
interrupted(searches["topk"], 2)
assert thread.is_alive() and not other
thread.join()
few = ch.hamming_topk(database, queries[1990:2000], 5)
assert (other[0][0][1990:] == few[0]).all() and (other[0][1][1990:] == few[1]).all()

# a handler that does not raise runs while the search does, may search itself, and ends nothing
ran = []
def handler(*_):
    check(2)
    ran.append(time.perf_counter())
signal.signal(signal.SIGINT, handler)
print("begun", flush=True)
found = ch.hamming_topk(database, queries[:2000], 5, threads=2)
assert ran and ran[0] < time.perf_counter() - 0.2
assert (found[0] == other[0][0]).all() and (found[1] == other[0][1]).all()
print("done", flush=True)
"""


def child(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COOPHASH_ISA": "serial"},  # nothing takes less than some seconds
    )


def test_ctrl_c_ends_a_search():
    with child(INTERRUPTED) as process:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line == "begun\n":
                time.sleep(0.15)
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0 and printed[-1] == "done\n", "".join(printed)
    assert printed.count("begun\n") == 16


def test_a_search_of_a_daemon_thread_does_not_hold_up_the_end():
    program = """
import threading, time
import numpy as np
import coophash as ch
codes = np.random.default_rng(0).integers(0, 256, (200_000, 8), dtype=np.uint8)
search = lambda: ch.hamming_topk(codes, codes, 5, threads=2)
threading.Thread(target=search, daemon=True).start()
time.sleep(0.2)
print("end", flush=True)
"""
    with child(program) as process:
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and printed == "end\n"
