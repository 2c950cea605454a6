"""Pictures for reports, each a PNG inside a `data:` address: a page with them needs nothing else.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; curves differ by
line style as well.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coophash.errors import require
from coophash.history import History

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8f4a7a", "#7a6a00", "#56799c")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 2)))

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> (x, y)


def to_uint8(images: ArrayLike) -> NDArray[np.uint8]:
    """Images as uint8: floats in [-1, 1] become 0 to 255, uint8 stays as it is; any shape."""
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise TypeError(f"images must be uint8 or float in [-1, 1], got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("images must be finite, got NaN or infinity")
    return np.clip(np.rint((array + 1) * 127.5), 0, 255).astype(np.uint8)


def image_uri(image: ArrayLike) -> str:
    """One image as a PNG `data:` address. image: (C, H, W), C 1 or 3, uint8 or float."""
    pixels = to_uint8(image)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"image must be (1 or 3, H, W), got {pixels.shape}")
    pillow = require("PIL.Image", "report", "writing pictures")
    picture = pillow.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return _png_uri(buffer)


def grid_uri(images: ArrayLike, gap: int = 2) -> str:
    """A table of images as one PNG. images: (rows, columns, C, H, W); gap: white pixels between."""
    tiles = to_uint8(images)
    if tiles.ndim != 5 or 0 in tiles.shape:
        raise ValueError(f"images must be (rows, columns, C, H, W), got {tiles.shape}")
    rows, columns, channels, height, width = tiles.shape
    sheet = np.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, np.uint8
    )
    for r in range(rows):
        for c in range(columns):
            top, left = r * (height + gap), c * (width + gap)
            sheet[:, top : top + height, left : left + width] = tiles[r, c]
    return image_uri(sheet)


def curves_uri(
    panels: Sequence[tuple[str, str, Series]], *, x_label: str, columns: int = 2, marker: str = ""
) -> str:
    """Line plots side by side as one PNG.

    Args:
        panels: of each its title, the name of its y axis and its curves.
        x_label: name of the x axis of all.
        columns: panels in a row.
        marker: on the points, in matplotlib's notation; "" for none.
    """
    plt = _pyplot()
    rows = -(-len(panels) // columns)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(5.4 * columns, 3.2 * rows), squeeze=False
        )
        for place, ax in enumerate(axes.flat):
            if place >= len(panels):
                ax.set_visible(False)
                continue
            title, y_label, series = panels[place]
            for number, (name, (x, y)) in enumerate(series.items()):
                # one point alone has no line to be seen by
                dot = marker or ("o" if len(x) == 1 else "")
                ax.plot(x, y, label=name, marker=dot, **_pen(number))
            ax.set(title=title, xlabel=x_label, ylabel=y_label)
            if len(series) > 1:
                ax.legend()
        return _figure_uri(plt, figure)


# What a History watches, by panel: title, y axis, records' names. Absent ones are left out.
_PANELS = (
    ("Energies", "mean energy", ("energy_real", "energy_generated", "energy_revised")),
    ("Energy lost along the chain", "energy", ("chain_drop",)),
    ("Move by the chain", "mean change of a pixel", ("chain_move",)),
    ("Variety of x+", "share of that of real images", ("diversity", "pair_distance")),
    ("Spread of the inferred latents", "standard deviation", ("latent_spread",)),
    ("KL of the latent", "nats", ("kl",)),
    ("Reconstruction", "squared error of an image", ("reconstruction",)),
    ("Losses of the heads", "loss", ("hash", "category")),
    ("Gradient norms", "norm", ("gradient_norm", "generator_gradient_norm")),
    ("Gradient penalty", "squared norm", ("gradient_penalty",)),
    ("Validation", "mAP", ("validation_map",)),
)


def training_uri(history: History, columns: int = 3) -> str:
    """How a CoopHash training went, as one PNG: energies, chain, variety, latent, losses, mAP.

    history: of `fit`; panels of which it has no curve are left out.

    Raises:
        ValueError: it has none at all.
    """
    panels = []
    for title, y_label, names in _PANELS:
        curves = {name: history.curve(name) for name in names}
        series = {name: curve for name, curve in curves.items() if curve[0]}
        if series:
            panels.append((title, y_label, series))
    if not panels:
        raise ValueError("the history has no records of a training to draw")
    return curves_uri(panels, x_label="update", columns=columns)


def write_png(uri: str, path: str | Path) -> None:
    """Write a picture of this module to a file."""
    head, _, content = uri.partition("base64,")
    if not head.startswith("data:image/png;") or not content:
        raise ValueError(f"uri must be a PNG data: address, got {uri[:40]!r}")
    Path(path).write_bytes(base64.b64decode(content))


def precision_recall_uri(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], chance: float | None = None
) -> str:
    """Precision against recall, one curve a method, as one PNG.

    Args:
        curves: name -> (precision, recall), each (radii,), from the smallest radius up.
        chance: precision of a random ranking, drawn as a thin line.
    """
    plt = _pyplot()
    with plt.rc_context(_STYLE):
        figure, ax = plt.subplots(figsize=(6.4, 4.4))
        for number, (name, (precision, recall)) in enumerate(curves.items()):
            ax.plot(recall, precision, label=name, marker="o", markersize=3, **_pen(number))
        if chance is not None:
            ax.axhline(chance, color="#888", linewidth=0.8, linestyle=(0, (2, 2)))
            ax.text(0.01, chance - 0.01, "chance", va="top", color="#555", fontsize=9)
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        # above the axes: no corner of the plot is free of curves for every set of methods
        ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=min(len(curves), 2))
        return _figure_uri(plt, figure)


_STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555",
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.9,
    "figure.facecolor": "white",
}


def _pen(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)]}


def _pyplot() -> Any:
    matplotlib = require("matplotlib", "report", "drawing the report")
    matplotlib.use("Agg")  # no window, no display needed
    return require("matplotlib.pyplot", "report", "drawing the report")


def _figure_uri(plt: Any, figure: Any) -> str:
    buffer = io.BytesIO()
    try:
        figure.tight_layout()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    finally:
        plt.close(figure)
    return _png_uri(buffer)


def _png_uri(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
