"""The demo of two modalities, cut short: its split, its table, what it found, its page."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("mlxtend")

from coophash import pair_demo
from coophash.pair_demo import CCA_NAME, UCCH_NAME, run_pair_demo, write_pair_demo
from coophash.pair_demo_page import HEADER, _placed, result_rows


@pytest.fixture(scope="module")
def demo():
    patch = pytest.MonkeyPatch()
    narrow = {**pair_demo.DIGITS, "image_hidden": (64,), "text_hidden": (64,), "negatives": 128}
    patch.setattr(pair_demo, "DIGITS", narrow)
    variants = list(pair_demo.ABLATIONS)
    patch.setattr(
        pair_demo, "ABLATIONS", {name: pair_demo.ABLATIONS[name] for name in variants[:2]}
    )
    yield run_pair_demo(seed=1, bits=16, epochs=2, progress=False)
    patch.undo()


def test_the_parts_are_disjoint_and_no_label_was_seen(demo):
    ids = [set(part.ids.tolist()) for part in demo.parts.values()]
    assert [len(part) for part in ids] == [500, 500, 4000] and len(set.union(*ids)) == 5000
    for history in demo.histories.values():
        # the validation is of own halves, which random codes find in one of 500 places
        assert 0 < history.validation[0][1] < 0.5


def test_it_learns_and_the_table_says_so(demo):
    rows = {row[0]: row for row in result_rows(demo)}
    assert [*rows][:1] == [UCCH_NAME] and [*rows][-1:] == [CCA_NAME]
    assert all(len(row) == len(HEADER) for row in rows.values())
    scores = demo.methods[0].scores
    assert scores.image_to_text.mean_average_precision > 0.2, "chance is 0.1"
    assert rows[UCCH_NAME][1] == f"{scores.image_to_text.mean_average_precision:.3f}"


def test_what_was_found_is_of_the_other_half_and_in_order(demo):
    for rows, distances in demo.found.values():
        assert rows.shape == (500, 8) and (rows >= 0).all() and (rows < 4000).all()
        assert (np.diff(distances, axis=1) >= 0).all()
        same = np.diff(distances, axis=1) == 0
        assert (np.diff(rows, axis=1)[same] > 0).all()


def test_a_half_stands_where_it_was():
    half = np.ones((1, 4, 3))
    for side, there in (("left", slice(0, 3)), ("right", slice(3, 6))):
        whole = _placed(half, side)
        assert whole.shape == (1, 4, 6) and (whole[..., there] == 1).all() and whole.sum() < 12


def test_the_page_and_the_numbers(demo, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    page, results = write_pair_demo(demo, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert "UCCH on halves of MNIST digits: 16-bit codes without labels" in text
    assert "The other direction" in text and CCA_NAME in text
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page needs nothing else"
    numbers = json.loads(results.read_text())
    assert numbers["methods"][0]["image_to_text"] == demo.methods[0].scores.image_to_text.as_dict()
    assert numbers["split"] == {"query": 500, "validation": 500, "train": 4000}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 0}, "epochs must be at least 1"), ({"bits": 393}, "bits must be from 1 to 392")],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        run_pair_demo(**options)
