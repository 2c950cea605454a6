"""Choice of the implementation, and what is imported when."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from coophash.kernels import _backend


def run_python(program: str, **environment: str) -> str:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("COOPHASH_BACKEND", "TRITON_INTERPRET")
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=kept | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_is_imported_before_it_is_needed():
    program = """
import sys
import coophash.kernels
assert "langevin_step" in dir(coophash.kernels)
assert "torch" not in sys.modules and "numpy" not in sys.modules
coophash.kernels.philox_normal(5, seed=1)
assert "torch" not in sys.modules
try:
    coophash.kernels.no_such_kernel
except AttributeError as error:
    assert "no_such_kernel" in str(error)
else:
    raise AssertionError
"""
    run_python(program)


def test_cpu_works_without_triton_and_does_not_import_it():
    pytest.importorskip("torch")
    program = """
import sys
import torch
before = "triton" in sys.modules
if not before:
    sys.modules["triton"] = None  # an import of triton now raises ImportError
from coophash.kernels import langevin_step
x = torch.zeros(5)
langevin_step(x, x, grad_scale=1.0, noise_scale=1.0)
assert before or sys.modules["triton"] is None
"""
    run_python(program)


@pytest.fixture
def backend(monkeypatch):
    def choose(value: str | None, triton: bool = True, interpret: bool = False) -> None:
        if value is None:
            monkeypatch.delenv("COOPHASH_BACKEND", raising=False)
        else:
            monkeypatch.setenv("COOPHASH_BACKEND", value)
        monkeypatch.setenv("TRITON_INTERPRET", "1" if interpret else "0")
        monkeypatch.setattr(_backend, "has_triton", lambda: triton)
        _backend._warn_once.cache_clear()

    return choose


@pytest.mark.parametrize("value", [None, "", "auto", "AUTO", "native", "cuda"])
def test_automatic_choice(backend, value):
    backend(value)
    assert _backend.use_triton("cuda")
    assert not _backend.use_triton("cpu")
    backend(value, interpret=True)
    assert not _backend.use_triton("cpu")


def test_automatic_choice_never_raises_and_says_what_it_left_out(backend):
    backend("auto", triton=False)
    with pytest.warns(RuntimeWarning, match="Triton is not installed: pip install triton"):
        assert not _backend.use_triton("cuda")
    assert not _backend.use_triton("cpu")


def test_reference(backend):
    backend("reference")
    assert not _backend.use_triton("cuda") and not _backend.use_triton("cpu")


def test_forced_triton(backend):
    backend("triton")
    assert _backend.use_triton("cuda")
    with pytest.raises(RuntimeError, match="COOPHASH_BACKEND=triton, but the tensors are on cpu"):
        _backend.use_triton("cpu")
    backend("triton", interpret=True)
    assert _backend.use_triton("cpu")
    backend("triton", triton=False)
    with pytest.raises(RuntimeError, match="COOPHASH_BACKEND=triton, but Triton is not installed"):
        _backend.use_triton("cuda")


def test_unknown_backend(backend):
    backend("tritn")
    with pytest.raises(ValueError, match="auto, reference, native, triton, cuda, got 'tritn'"):
        _backend.use_triton("cpu")


def test_forced_triton_reaches_the_user(backend):
    torch = pytest.importorskip("torch")
    from coophash.kernels import langevin_step

    backend("triton")
    with pytest.raises(RuntimeError, match="Triton kernels need a CUDA device"):
        langevin_step(torch.zeros(3), torch.zeros(3), grad_scale=0.5)
