"""Pictures of a training: which curves are drawn, and PNG files."""

import base64

import pytest

pytest.importorskip("matplotlib")

import numpy as np

from coophash import figures
from coophash.history import History


def history(**values):
    records = [{"update": 20.0 * i, "seconds": i, **values} for i in (1, 2, 3)]
    return History(records=records)


def test_only_what_was_watched_is_drawn(monkeypatch):
    seen = []

    def drawn(panels, **options):
        seen.append({title: list(series) for title, _, series in panels})
        return "data:image/png;base64,AA=="

    monkeypatch.setattr(figures, "curves_uri", drawn)
    figures.training_uri(history(energy_real=1.0, energy_revised=2.0, kl=3.0, unknown=4.0))
    assert seen == [{"Energies": ["energy_real", "energy_revised"], "KL of the latent": ["kl"]}]
    with pytest.raises(ValueError, match="no records"):
        figures.training_uri(History())


def test_the_picture_is_written(tmp_path):
    uri = figures.grid_uri(np.zeros((1, 2, 1, 8, 8), np.uint8))
    figures.write_png(uri, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == base64.b64decode(uri.split(",")[1])
    with pytest.raises(ValueError, match="must be a PNG"):
        figures.write_png("grid.png", tmp_path / "other.png")


def test_a_history_is_read_back(tmp_path):
    written = history(kl=1.0)
    written.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == written
    (tmp_path / "history.json").write_text("[]")
    with pytest.raises(ValueError, match="no history of a training"):
        History.load(tmp_path / "history.json")
