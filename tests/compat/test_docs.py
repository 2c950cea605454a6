"""The page on other projects' metrics: its calls run, and say what the table beside them says."""

import re
from pathlib import Path

import numpy as np
import pytest

import coophash as ch
from coophash.compat.deephash import CalcTopMap
from coophash.metrics import mean_average_precision

PAGE = Path(__file__).parents[2] / "docs" / "metrics-of-other-projects.md"


def test_its_calls():
    imports, calls = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec(compile(imports, PAGE.name, "exec"), {})

    # Distances without ties; the third query has nothing relevant.
    rng = np.random.default_rng(0)
    codes = np.where(np.arange(60) < rng.permutation(60)[:, None], -1.0, 1.0)
    asked = np.ones((3, 60))
    names = {
        "mean_average_precision": mean_average_precision,
        "database": ch.pack(codes),
        "queries": ch.pack(asked),
        "database_labels": np.eye(3, dtype=int)[rng.integers(0, 2, 60)],
        "query_labels": np.eye(3, dtype=int),
    }
    exec(compile(calls, PAGE.name, "exec"), names)
    theirs = CalcTopMap(codes, asked, names["database_labels"], names["query_labels"], None)
    assert names["DeepHash"] == names["OrthoHash"] == pytest.approx(theirs)
    assert names["UCCH"] == names["HashGAN"] == pytest.approx(theirs * 3 / 2)
