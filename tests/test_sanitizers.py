"""The short form of `make asan` and `make tsan`: kernel_check, built with each sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not a checkout: no sources")
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("c++"), reason="no C++ compiler")
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_search_core_is_clean(sanitizer):
    command = [sys.executable, str(ROOT / "tests" / "sanitize.py"), sanitizer, "--short"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("serial: ok") == 2  # by itself, and from many threads
