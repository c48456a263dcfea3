"""One self-contained HTML file about a scored set of images."""

import base64
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

THUMBNAIL = 192  # longest side, pixels
BINS = 40
PICTURES = {"image": "input", "reconstruction": "reconstruction", "overlay": "heat map", "mask": "true mask"}

# matplotlib's inferno at 17 equal steps
_INFERNO = """000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754
              d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"""
INFERNO = np.array([list(bytes.fromhex(colour)) for colour in _INFERNO.split()], dtype=np.float64)  # [17, 3]
CONTOUR = (80, 230, 255)


def colormap(values: np.ndarray) -> np.ndarray:
    """Heat colours, uint8 [H, W, 3], of values [H, W] in [0, 1] (clipped); ValueError where one is NaN."""
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("NaN has no colour: such an image belongs in an error row.")
    steps = np.linspace(0, 1, len(INFERNO))
    channels = [np.interp(values, steps, INFERNO[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(
    image: torch.Tensor | np.ndarray,
    anomaly_map: torch.Tensor | np.ndarray,
    threshold: float,
    low: float,
    high: float,
) -> np.ndarray:
    """The image under its heat map, uint8 [H, W, 3], with a contour where the map exceeds `threshold`.

    `image` is [C, H, W] in [-1, 1] (shown by its mean where C is neither 1 nor 3), `anomaly_map` [H, W]; `low` and
    `high` are the scores at the ends of the colour scale, which is the more opaque the higher the score. Raises
    ValueError on other shapes, on a map that is not finite, and where `low` exceeds `high`.
    """
    pixels, scores = _array(image), _array(anomaly_map)
    if pixels.ndim != 3 or scores.shape != pixels.shape[1:]:
        raise ValueError(f"Expected an image [C, H, W] and a map [H, W], got {pixels.shape} and {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("The anomaly map has values that are not finite: such an image belongs in an error row.")
    if not low <= high:
        raise ValueError(f"The colour scale needs low <= high, got {low} and {high}.")
    if len(pixels) != 3:
        pixels = np.broadcast_to(pixels.mean(axis=0), (3, *scores.shape))
    background = np.clip((pixels.transpose(1, 2, 0) + 1) * 127.5, 0, 255)  # [H, W, 3]
    heat = np.clip((scores - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    alpha = 0.8 * np.sqrt(heat)[..., None]
    blended = background + alpha * (colormap(heat) - background)
    blended[_contour(scores > threshold, width=math.ceil(max(scores.shape) / THUMBNAIL))] = CONTOUR
    return np.rint(blended).astype(np.uint8)


@dataclass
class Row:
    """One image of a report; pictures are uint8 [H, W] or [H, W, 3], the mask is bool [H, W]; labels are 0 or 1."""

    image_path: str
    pred_score: float | None = None
    pred_label: int | None = None
    gt_label: int | None = None
    defect: str = ""
    error: str = ""
    image: np.ndarray | None = None
    reconstruction: np.ndarray | None = None
    overlay: np.ndarray | None = None
    mask: np.ndarray | None = None


def roc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1), for labels 0 or 1, both present."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(labels[order] == 1)[last_of_ties]
    false = last_of_ties + 1 - true
    return np.append(0, false / false[-1]), np.append(0, true / true[-1])


def write_report(
    path: str | Path,
    rows: Iterable[Row],
    *,
    title: str,
    threshold: float | None,
    metrics: dict[str, float | None],
    settings: dict[str, str],
) -> None:
    """Writes one self-contained HTML file, which appears at `path` complete or not at all.

    `rows` is read once, and each row's pictures are dropped when their thumbnails are made. A row with an error, or
    whose score is missing or not finite, is shown as an error and counts as neither good nor anomalous. Raises OSError
    where the folder cannot be written, and ValueError on pictures of other shapes.
    """
    cards = sorted((_card(row) for row in rows), key=lambda card: -math.inf if card["error"] else card["score"])[::-1]
    scored = [card for card in cards if not card["error"]]
    context = {
        "title": title,
        "threshold": threshold,
        "metrics": {name: _number(value) for name, value in metrics.items()},
        "settings": settings,
        "cards": cards,
        "pictures": {key: name for key, name in PICTURES.items() if any(key in card["pictures"] for card in cards)},
        "counts": {group: sum(group in card["groups"] for card in cards) for group in FILTERS},
        "histogram": _histogram(scored, threshold),
        "roc": _roc_plot(scored),
        "span": (scored[-1]["score"], scored[0]["score"]) if scored else (0.0, 0.0),
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # a file name that is not valid UTF-8 holds lone surrogates
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(environment.get_template("report.html.j2").generate(context))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


FILTERS = {
    "all": "All",
    "wrong": "Wrong decisions",
    "anomalous": "Anomalous",
    "good": "Good",
    "error": "Errors",
}
