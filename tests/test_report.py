"""The report and its pictures: right content, self-contained, readable by ear."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
Image = pytest.importorskip("PIL.Image")

from coophash import figures, report  # noqa: E402
from coophash.data import ImageSet  # noqa: E402


class Page(HTMLParser):
    """What a browser would fetch or show."""

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values)
        self.addresses += [values[name] for name in ("src", "href", "srcset") if name in values]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


def decode(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body, validate=True))))


def image_set(count: int, seed: int, channels: int = 1) -> ImageSet:
    random = np.random.default_rng(seed)
    return ImageSet(
        random.integers(0, 256, (count, channels, 8, 9), dtype=np.uint8),
        np.arange(count) % 3,
        ("<one>", "two & a half", "three"),
    )


def test_image_uri_keeps_every_pixel():
    grey = image_set(1, 0).images[0]
    assert (decode(figures.image_uri(grey)) == grey[0]).all()
    colour = image_set(1, 0, channels=3).images[0]
    assert (decode(figures.image_uri(colour)) == colour.transpose(1, 2, 0)).all()


def test_float_images_return_to_the_bytes_they_came_from():
    images = image_set(4, 1)
    assert (figures.to_uint8(images.float()) == images.images).all()


def test_grid_places_rows_and_columns():
    tiles = np.random.default_rng(0).integers(0, 255, (2, 3, 1, 8, 9), dtype=np.uint8)
    sheet = decode(figures.grid_uri(tiles, gap=2))
    assert sheet.shape == (18, 31)
    for r in range(2):
        for c in range(3):
            assert (sheet[10 * r : 10 * r + 8, 11 * c : 11 * c + 9] == tiles[r, c, 0]).all()
    assert (sheet[8:10] == 255).all() and (sheet[:, 9:11] == 255).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: figures.image_uri(np.zeros((2, 4, 4))), ValueError, r"\(1 or 3, H, W\)"),
        (lambda: figures.image_uri(np.zeros((1, 4, 4), int)), TypeError, "uint8 or float"),
        (lambda: figures.image_uri(np.full((1, 4, 4), np.nan)), ValueError, "finite"),
        (lambda: figures.grid_uri(np.zeros((2, 1, 4, 4))), ValueError, "rows, columns"),
    ],
)
def test_wrong_images(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_curves_are_drawn():
    flat = figures.curves_uri([("t", "y", {"a": ([0, 1], [1, 1])})], x_label="x", columns=1)
    rising = figures.curves_uri([("t", "y", {"a": ([0, 1], [1, 2])})], x_label="x", columns=1)
    picture = decode(flat)
    assert picture.shape[0] > 200 and picture.shape[1] > 400
    assert (picture[..., :3] < 128).any() and flat != rising
    curve = figures.precision_recall_uri({"a": ([1.0, 0.5], [0.1, 1.0])}, chance=0.1)
    blue = np.array([0x00, 0x72, 0xB2])
    assert (np.abs(decode(curve)[..., :3].astype(int) - blue).sum(-1) < 12).any()


def test_no_open_figures_are_left():
    plt = pytest.importorskip("matplotlib.pyplot")
    figures.precision_recall_uri({"a": ([1.0], [0.1])})
    assert plt.get_fignums() == []


def test_retrieved_marks_right_and_wrong():
    queries, database = image_set(2, 0), image_set(6, 1)
    rankings = report.retrieved(queries, database, [[3, 1], [4, -1]], [[0, 5], [2, 2**31 - 1]])
    assert [ranking.name for ranking in rankings] == ["<one>", "two & a half"]
    first, second = rankings
    assert [(n.name, n.distance, n.right) for n in first.neighbours] == [
        ("<one>", 0, True),
        ("two & a half", 5, False),
    ]
    assert first.right == 1
    assert len(second.neighbours) == 1, "a missing result is no neighbour"
    assert (decode(first.neighbours[0].picture) == database.images[3, 0]).all()


def test_retrieved_refuses_what_does_not_fit():
    queries, database = image_set(2, 0), image_set(6, 1)
    with pytest.raises(ValueError, match=r"\(2, k\)"):
        report.retrieved(queries, database, [[1]], [[0]])
    with pytest.raises(ValueError, match="from -1 to 5, got 6"):
        report.retrieved(queries, database, [[6], [0]], [[0], [0]])


def test_bold_best_marks_ties():
    rows = [["a", "0.50", "0.1"], ["b", "0.50", "0.3"], ["c", "0.40", "0.2"]]
    assert report.bold_best(rows, (1, 2)) == [{1}, {1, 2}, set()]


@pytest.fixture
def page(tmp_path):
    queries, database = image_set(2, 0), image_set(6, 1)
    uri = figures.image_uri(queries.images[0])
    path = report.write_report(
        tmp_path / "page.html",
        title="Codes <of> & mine",
        lead="A lead.",
        table=report.Table(["method", "mAP"], [["a <b>", "0.5"]], [frozenset({1})], "A note."),
        curve=report.Figure(uri, "a curve", "below it"),
        neighbours=report.retrieved(queries, database, [[3, 1], [4, 2]], [[0, 5], [2, 7]]),
        sections=[
            report.Section("More", ["Text."], [report.Table(["x"], [["1"]])],
                           [report.Figure(uri, "a grid", "", ["c1", "c2"], ["r1"], 200)])
        ],
        facts={"Run": {"seed": 0}},
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


def test_page_needs_nothing_else(page):
    parsed = Page(page)
    assert parsed.addresses and all(a.startswith("data:image/png") for a in parsed.addresses)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    for outside in ("http:", "https:", "url(", "@import", "//"):
        body = page.replace("data:image/png;base64", "")
        for image in parsed.images:
            body = body.replace(str(image["src"]).partition(",")[2], "")
        assert outside not in body
    assert parsed.open == [], "a tag is left open"


def test_page_can_be_read_by_ear(page):
    parsed = Page(page)
    assert len(parsed.images) == 2 + 4 + 2
    assert all(image.get("alt") for image in parsed.images)
    alts = [image["alt"] for image in parsed.images]
    assert "right: class <one>, distance 0" in alts
    assert "wrong: class two & a half, distance 5" in alts
    assert '<html lang="en">' in page


def test_page_escapes_and_marks(page):
    assert "Codes &lt;of&gt; &amp; mine" in page and "a &lt;b&gt;" in page
    assert "<strong>0.5</strong>" in page
    assert page.count("✓") == 2 and page.count("✗") == 2
    assert page.count('class="right"') == 2 and page.count('class="wrong"') == 2


def test_sections_that_are_not_given_are_left_out(tmp_path):
    path = report.write_report(tmp_path / "page.html", title="Empty")
    parsed = Page(path.read_text(encoding="utf-8"))
    assert "h2" not in parsed.tags and parsed.images == []
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_report_says_where_it_cannot_write(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report.write_report(tmp_path / "no" / "page.html", title="x")


def test_missing_extra_names_the_command(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r'pip install "coophash\[report\]"'):
        report.write_report(tmp_path / "page.html", title="x")
    assert list(tmp_path.iterdir()) == []
