"""What tests of readers share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def python2() -> ModuleType:
    """The module `python2.py` beside this file: pickles as Python 2 wrote them."""
    spec = importlib.util.spec_from_file_location("python2", Path(__file__).with_name("python2.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
