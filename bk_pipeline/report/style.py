"""How pictures look: colors that are legible on white and on black, and SVG as small as it gets.

Dagster shows a picture on a ground whose color the picture cannot know, so text has a gray that has
the same contrast with both. An HTML report replaces these grays by those of its own theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bk_pipeline.report.blocks import Picture

STATES = {
    "passed": "#2e9e5b",
    "failed": "#d64545",
    "canceled": "#b08a3c",
    "blocked": "#5b7bd5",
    "other": "#9a8fb8",
}
INK, QUIET, GRID, WAITED = "#74797f", "#7d8288", "#8a8f96", "#a9b1ba"
GRID_ALPHA = 0.25
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp, and with the reader's emoji
    "svg.hashsalt": "bk_pipeline",  # the same picture has the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": f"{GRID}40",
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.alpha": GRID_ALPHA,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.parse_math": False,  # a dollar in a label is a dollar
}
WIDTH_IN = 9.5


@contextmanager
def style() -> Iterator[None]:
    """Apply our style, and ignore warnings on glyphs that matplotlib's font lacks: it draws none."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ", category=UserWarning)
        yield


def picture_of(figure: Figure, text: str) -> Picture:
    """Return a figure as a picture; `text` says what it shows."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(text, re.sub(rb">\s+<", b"><", file.getvalue()))
