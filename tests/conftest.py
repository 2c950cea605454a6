"""Settings that must stand before NumPy and torch are imported, and what is skipped where."""

import os

import pytest

# The tensors of the tests are tiny: a second OpenMP thread would only wait, or spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` are reported as skipped where torch sees no device, never as passed."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    try:
        import torch

        reason = None if torch.cuda.is_available() else "no GPU: torch sees no CUDA device"
    except ImportError:
        reason = "no GPU: torch is not installed"
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
