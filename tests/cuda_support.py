"""What the tests of the CUDA search share: the emulator as a module, and codes to search."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import coophash as ch
from coophash import _device_arrays, _native

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def emulated() -> ModuleType:
    """The functions cuda_* of the extension on the emulator; built if sources have changed."""
    sys.path.insert(0, str(ROOT / "tests" / "csrc"))
    try:
        import build_cuda_check
    finally:
        sys.path.pop(0)
    file = build_cuda_check.build_module(ROOT / "build" / "cuda-check" / "host")
    spec = importlib.util.spec_from_file_location(build_cuda_check.MODULE, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def device(monkeypatch):
    """The emulator in the place of the extension's CUDA part."""
    library = emulated()
    library.configure()
    monkeypatch.setattr(_native, "cuda", lambda: library)
    monkeypatch.delenv("COOPHASH_BACKEND", raising=False)
    yield library
    library.configure()


class Foreign:
    """An array of some other library on the device."""

    def __init__(self, array: np.ndarray, device: int = 0, strides=None) -> None:
        self.kept = _device_arrays.upload(array, device, "a test")
        self.strides = strides

    @property
    def __cuda_array_interface__(self):
        interface = dict(self.kept.__cuda_array_interface__)
        interface["strides"] = self.strides
        return interface


def draw(kind: str, rows: int, bits: int, seed: int) -> np.ndarray:
    """Packed codes: random; clustered, with many ties; collapsed to a few."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        signs = rng.random((rows, bits)) < 0.5
    else:
        centres = np.random.default_rng(bits).random((4, bits)) < 0.5
        noise = 0.03 if kind == "clustered" else 0.0
        signs = centres[rng.integers(4, size=rows)] ^ (rng.random((rows, bits)) < noise)
    return ch.pack(signs)


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype and a.shape == b.shape
