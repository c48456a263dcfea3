"""matplotlib, and how the study's pictures look."""

from __future__ import annotations

import io
from pathlib import Path

from ..checkpoint import write_atomically

try:
    import matplotlib as matplotlib
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
except ImportError as error:
    raise RuntimeError(
        "The study is drawn with matplotlib, which is not installed; run `pip install matplotlib`, or install diffnoise with its extra `study`."
    ) from error

COLOURS = {
    "gaussian": "#7d838b",
    "simplex": "#0072b2",
    "tsimplex": "#d55e00",
    "gmm": "#cc79a7",
    "tsg": "#009e73",
    "kts": "#e69f00",
}
STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5c636c",
    "grid.color": "#dfe1e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.4,
    "figure.dpi": 100,
    "savefig.dpi": 100,
}


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG file, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
    return path
