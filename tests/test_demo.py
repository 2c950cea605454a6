"""The demo on the real digits with few updates: what it reports is what its parts give."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

for module in ("torch", "mlxtend", "matplotlib", "jinja2", "typer"):
    pytest.importorskip(module)

import coophash as ch  # noqa: E402
from coophash import demo as demo_module  # noqa: E402
from coophash.cli import main  # noqa: E402
from coophash.demo import COOPHASH, run_demo, write_demo  # noqa: E402
from coophash.demo_page import PLAIN, result_rows  # noqa: E402
from coophash.generation import latent_grid, triplets  # noqa: E402


@pytest.fixture(scope="module")
def found():
    return run_demo(seed=3, bits=16, updates=3, progress=False)


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "report"
    page, results = write_demo(found, folder)
    assert page == folder / "index.html" and results == folder / "results.json"
    return folder


def test_parts_are_disjoint_and_balanced(found):
    sizes = {name: len(part) for name, part in found.parts.items()}
    assert sizes == {"train": 500, "validation": 500, "query": 500, "database": 3500}
    ids = np.concatenate([part.ids for part in found.parts.values()])
    assert len(np.unique(ids)) == 5000
    for part in found.parts.values():
        assert np.ptp(part.class_counts) == 0


def test_methods_are_scored_on_the_same_digits(found):
    names = [method.name for method in found.methods]
    assert names == [COOPHASH, PLAIN, "ITQ", "random projections"]
    assert [method.uses_labels for method in found.methods] == [True, True, False, False]
    for method in found.methods:
        scores = method.scores
        assert (scores.queries, scores.database, scores.bits) == (500, 3500, 16)
        assert scores.map_worst <= scores.mean_average_precision <= scores.map_best
        assert method.curve.precision.shape == (17,)
        assert method.curve.precision[2] == pytest.approx(scores.precision_at_radius)
        assert method.curve.recall[-1] == 1
    by_name = {m.name: m.scores.mean_average_precision for m in found.methods}
    # Known from the pixels alone: ITQ ranks digits better than random projections, both above 0.1.
    assert by_name["ITQ"] > by_name["random projections"] > 0.15


def test_networks_differ_only_in_the_cooperative_part(found):
    coop, plain = (found.histories[name].settings for name in (COOPHASH, PLAIN))
    assert coop["model"]["cooperative"] and not plain["model"]["cooperative"]
    assert {**coop["model"], "cooperative": None} == {**plain["model"], "cooperative": None}
    assert coop["seed"] == plain["seed"] == 3
    assert (coop["images"], coop["validation_images"]) == (500, 500)
    ratio = demo_module.PLAIN_UPDATES / demo_module.COOPHASH_UPDATES
    assert (coop["updates"], plain["updates"]) == (3, round(3 * ratio))


def test_neighbours_are_those_of_the_first_methods_codes(found):
    assert found.rows.shape == found.distances.shape == (500, 10)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    labels = found.parts["database"].labels[found.rows]
    share = (labels == found.parts["query"].labels[:, None]).mean()
    coop = found.methods[0]
    data = coop.scores
    assert 0.0 < share <= 1.0 and data.precision_at_k is not None


def test_results_hold_every_number_and_no_place(found, folder):
    text = (folder / "results.json").read_text()
    results = json.loads(text)
    assert results["settings"]["seed"] == 3 and results["settings"]["bits"] == 16
    assert results["settings"]["model"]["latent_dim"] == found.settings["model"]["latent_dim"]
    for method, written in zip(found.methods, results["methods"], strict=True):
        assert written["name"] == method.name
        assert written["mean_average_precision"] == method.scores.mean_average_precision
        assert written["curve"]["recall"] == method.curve.recall.tolist()
    assert results["versions"]["torch"] and results["machine"]["cores"] >= 1
    assert results["generator"]["diversity"] == found.report.diversity
    assert results["histories"][COOPHASH]["records"] == found.histories[COOPHASH].records
    page = (folder / "index.html").read_text(encoding="utf-8")
    words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    for private in (os.uname().nodename, os.path.expanduser("~") + "/", str(folder), os.getcwd()):
        assert private not in words and private not in text


def test_page_shows_what_was_found(found, folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    for row in result_rows(found):
        for cell in row:
            assert cell in page
    assert page.count('class="rank"') == 10, "one query of each class"
    marks = page.count("<b>✓ ") + page.count("<b>✗ ")
    assert page.count('<li class="right">') + page.count('<li class="wrong">') == marks == 100
    for heading in ("Results", "Nearest neighbours", "Contrastive pairs", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert f"{100 * found.report.diversity:.0f} % of the real" in page
    for address in re.findall(r'(?:src|href)="([^"]{0,30})', page):
        assert address.startswith("data:image/png;base64,")
    assert len(page) < 5_000_000


def test_page_shows_the_same_marks_as_the_labels(found, folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    queries, database = found.parts["query"], found.parts["database"]
    first = [int(np.flatnonzero(queries.labels == c)[0]) for c in range(10)]
    right = sum(
        int(database.labels[row]) == c for c, q in enumerate(first) for row in found.rows[q]
    )
    assert page.count('<li class="right">') == right


def test_recovery_of_occluded_queries_is_shown(found, folder):
    results = json.loads((folder / "results.json").read_text())["recovery"]
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "<h2>Recovery of occluded queries</h2>" in page
    assert list(results["as_is"]["occlusion"]) == ["1", "3", "5"]
    for side in ("as_is", "recovered"):
        for score in results[side]["occlusion"].values():
            assert f"<td>{score['mean_average_precision']:.3f}</td>" in page
    coop = found.methods[0].scores.mean_average_precision
    assert found.recovery.clean.mean_average_precision == pytest.approx(coop)
    real, occluded, recovered = found.recovery_images
    assert real.shape == (10, 1, 28, 28)
    visible = occluded == real
    assert 0.6 < visible.mean() < 0.8, "a share of 0.3 is hidden; grey equals no pixel"
    assert (recovered[occluded != 0] == real[occluded != 0]).all()
    assert (recovered[~visible] != 0).mean() > 0.99


def test_command_prints_its_table_and_writes_both_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--updates", "1", "--bits", "8", "--out", "report"])
    assert not stop.value.code
    out = capsys.readouterr().out
    for name in (COOPHASH, PLAIN, "ITQ", "random projections"):
        assert re.search(rf"│ {name} +│ 0\.\d\d\d │", out), out
    assert max(map(len, out.splitlines()[:14])) <= 100
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["index.html", "results.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize(("argument", "value"), [("updates", 0), ("bits", 0), ("bits", 785)])
def test_wrong_arguments(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .*got {value}"):
        run_demo(**{argument: value})


def test_missing_extra_is_said_before_training(capsys, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(tmp_path / "report")])
    assert stop.value.code == 2
    assert 'pip install "coophash[demo]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def small_model(**options):
    return ch.CoopHash(8, 3, (1, 8, 8), base_channels=4, features=16, generator_channels=4,
                       latent_dim=4, langevin_steps=3, **options)  # fmt: skip


def real_images(per_class=6):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), per_class)
    images = random.integers(0, 256, (len(labels), 1, 8, 8), dtype=np.uint8)
    return ch.data.ImageSet(images, labels, ("a", "b", "c"))


def test_grid_rows_share_z_and_columns_the_class():
    import torch

    model = small_model(seed=2)
    model.eval()
    grid = latent_grid(model, rows=4, seed=7)
    assert grid.shape == (4, 3, 1, 8, 8)
    z = torch.randn(4, 4, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for row in range(4):
            for column in range(3):
                alone = model.generator(torch.tensor([column]), z[row : row + 1])[0].numpy()
                np.testing.assert_allclose(grid[row, column], alone, atol=1e-5)


def test_triplets_show_each_class_once():
    model, real = small_model(seed=2), real_images()
    model.eval()
    found = triplets(model, real, seed=1)
    assert found.labels.tolist() == [0, 1, 2] and (found.labels != found.negative_labels).all()
    assert (found.real == real.float([0, 6, 12])).all()
    for images in (found.positive, found.revised, found.negative):
        assert images.shape == (3, 1, 8, 8)
    assert (found.revised != found.positive).any()
