"""What the metrics take and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from coophash import metrics


def codes_at(distances, width=2):
    """One query of zeros and codes that stand at these distances from it."""
    bits = np.arange(8 * width)[None, :] < np.asarray(distances)[:, None]
    return np.zeros((1, width), np.uint8), np.packbits(bits, axis=1, bitorder="little")


def random_case(seed, queries=20, items=150, width=1, classes=4):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (queries, width), dtype=np.uint8),
        rng.integers(0, 256, (items, width), dtype=np.uint8),
        rng.integers(0, classes, queries),
        rng.integers(0, classes, items),
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"q": np.zeros((3, 8), np.float32)},
            TypeError,
            "query_codes must be uint8 .* got float32",
        ),
        ({"d": np.zeros(5, np.uint8)}, ValueError, "database_codes must be uint8"),
        ({"d": np.zeros((5, 2), np.uint8)}, ValueError, "the same width, got 1 and 2"),
        ({"d": np.zeros((0, 1), np.uint8)}, ValueError, "at least one code"),
        ({"q": np.zeros((3, 513), np.uint8)}, ValueError, r"\(N, 1 to 512\)"),
        ({"ql": [0, 1]}, ValueError, "query_labels must have one row per code, 3"),
        ({"ql": [0.0, 1.0, 2.0]}, TypeError, "query_labels must be classes, integers"),
        ({"ql": [-1, 0, 1]}, ValueError, "classes >= 0, got -1"),
        ({"ql": ["a", "b", "c"]}, TypeError, "query_labels must be an array of real numbers"),
        ({"dl": np.eye(5)}, ValueError, "must both be classes"),
        ({"dl": np.zeros((5, 1), int)}, ValueError, "could be either"),
        ({"dl": np.full((5, 2), 2)}, ValueError, "zeros and ones only"),
        ({"dl": np.full((5, 2), np.nan)}, ValueError, "zeros and ones only"),
        ({"k": 0}, ValueError, "k must be an integer >= 1, got 0"),
        ({"k": 1.5}, TypeError, "k must be an integer >= 1, got 1.5"),
        ({"k": True}, TypeError, "k must be an integer >= 1"),
        ({"ties": "random"}, ValueError, "ties must be 'average' or 'stable'"),
        ({"empty": "nan"}, ValueError, "empty must be 'zero' or 'skip'"),
        ({"divisor": "k"}, ValueError, "divisor must be 'relevant' or 'hits'"),
    ],
)
def test_bad_input(change, error, message):
    case = {
        "q": np.zeros((3, 1), np.uint8),
        "d": np.zeros((5, 1), np.uint8),
        "ql": [0, 1, 2],
        "dl": [0, 1, 2, 3, 4],
        **change,
    }
    q, d, ql, dl = (case.pop(name) for name in ("q", "d", "ql", "dl"))
    with pytest.raises(error, match=message):
        metrics.mean_average_precision(q, d, ql, dl, **case)


def test_bad_radius_and_missing_k():
    case = random_case(0)
    with pytest.raises(ValueError, match="radius must be an integer >= 0, got -1"):
        metrics.precision_at_radius(*case, radius=-1)
    with pytest.raises(TypeError, match="k must be an integer >= 1, got None"):
        metrics.precision_at_k(*case, k=None)
    with pytest.raises(ValueError, match="no query has an item within radius 0"):
        metrics.precision_at_radius(*codes_at([3, 4]), [0], [0, 1], radius=0, empty="skip")
    with pytest.raises(ValueError, match="average must be 'macro' or 'micro'"):
        metrics.precision_recall_curve(*case, average="mean")


def test_inputs_are_left_alone_and_views_are_read_right():
    q, d, ql, dl = random_case(8, width=4)
    expected = metrics.average_precision(q[:, :2].copy(), d[::2].copy()[:, :2], ql, dl[::2])
    copies = q.copy(), d.copy()
    got = metrics.average_precision(q[:, :2], d[::2, :2], ql, dl[::2])
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(q, copies[0])
    np.testing.assert_array_equal(d, copies[1])


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    case = random_case(9)
    tensors = [torch.from_numpy(x) for x in case]
    np.testing.assert_array_equal(
        metrics.average_precision(*tensors), metrics.average_precision(*case)
    )
    multi_hot = torch.nn.functional.one_hot(tensors[2]).float().requires_grad_()
    theirs = torch.nn.functional.one_hot(tensors[3]).float()
    assert isinstance(metrics.precision_at_k(*tensors[:2], multi_hot, theirs, k=5), float)


def test_metrics_need_no_torch():
    code = (
        "import sys, numpy as np, coophash.metrics as m\n"
        "c = np.arange(4, dtype=np.uint8)[:, None]\n"
        "assert m.mean_average_precision(c, c, [0, 1, 2, 3], [0, 1, 2, 3]) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
