"""The benchmark of a cooperative update times the update that the defaults make, and no other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_training.py"


@pytest.mark.skipif(not BENCHMARK.is_file(), reason="not a checkout: no benchmarks")
def test_plain_pytorch_makes_the_update_of_the_defaults():
    spec = importlib.util.spec_from_file_location("bench_training", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.gate(1, 12, "cpu")
