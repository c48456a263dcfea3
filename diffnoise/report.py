"""One self-contained HTML file about a scored set of images."""

import base64
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .html import template

THUMBNAIL = 192  # longest side, pixels
BINS = 40
PICTURES = {"image": "input", "reconstruction": "reconstruction", "overlay": "heat map", "mask": "true mask"}
FILTERS = {"all": "All", "wrong": "Wrong decisions", "anomalous": "Anomalous", "good": "Good", "error": "Errors"}

# matplotlib's inferno at 17 equal steps
INFERNO = np.frombuffer(
    bytes.fromhex(
        "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754"
        "d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"
    ),
    np.uint8,
).reshape(17, 3)
CONTOUR = (80, 230, 255)


def colormap(values: np.ndarray) -> np.ndarray:
    """Heat colours, uint8 [H, W, 3], of values [H, W] in [0, 1] (clipped); ValueError where one is NaN."""
    if np.isnan(values).any():
        raise ValueError("NaN has no colour: such an image belongs in an error row.")
    channels = [np.interp(values, np.linspace(0, 1, 17), INFERNO[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


# Tables over the square root of the heat, which is what the opacity follows: of the opacity, and of the colour that it leaves.
OPACITY = 0.85 * np.linspace(0, 1, 1024, dtype=np.float32)
PAINT = OPACITY * colormap(np.linspace(0, 1, 1024)[None] ** 2)[0].T.astype(np.float32)  # [3, 1024]


def overlay(
    image: torch.Tensor | np.ndarray,
    anomaly_map: torch.Tensor | np.ndarray,
    threshold: float,
    low: float,
    high: float,
) -> np.ndarray:
    """The image under its heat map, uint8 [H, W, 3], with a contour where the map crosses `threshold`.

    `image` is [C, H, W] in [-1, 1] (the mean over channels where C is not 3), `anomaly_map` is [H, W]; `low` and `high`
    are the values at the two ends of the colour scale, and the heat map is the more opaque the higher the value.
    Raises ValueError on other shapes, on a map that is not finite, and where `low` exceeds `high`.
    """
    pixels, values = _array(image), _array(anomaly_map)
    if pixels.ndim != 3 or values.shape != pixels.shape[1:]:
        raise ValueError(f"Expected an image [C, H, W] and a map [H, W], got {pixels.shape} and {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("The anomaly map has values that are not finite: such an image belongs in an error row.")
    if not low <= high:
        raise ValueError(f"The colour scale needs low <= high, got {low} and {high}.")
    if len(pixels) != 3:
        pixels = pixels.mean(axis=0, keepdims=True)
    heat = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
    level = np.rint(np.sqrt(heat) * (len(OPACITY) - 1)).astype(np.intp)
    background = np.clip((pixels + 1) * 127.5, 0, 255) * (1 - OPACITY.take(level))  # [3 or 1, H, W]
    # Channel by channel, as numpy is slow along an axis of three.
    planes = [np.rint(background[c % len(background)] + PAINT[c].take(level)).astype(np.uint8) for c in range(3)]
    picture = np.stack(planes, axis=-1)
    picture[_outline(values > threshold, width=math.ceil(max(values.shape) / THUMBNAIL))] = CONTOUR
    return picture


def _array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return values if values.dtype == np.float32 else values.astype(np.float64)


def _outline(region: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a bool [H, W] region within `width` steps of its outside; beyond the image counts as inside."""
    core = region
    for _ in range(width):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return region & ~core


@dataclass
class Row:
    """One image of a report; pictures are uint8 [H, W] or [H, W, 3], the mask is bool [H, W], labels are 0 or 1."""

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


def write_report(
    path: str | Path,
    rows: Iterable[Row],
    *,
    title: str,
    threshold: float | None,
    metrics: dict[str, float | None],
    settings: dict[str, str],
) -> None:
    """Writes one HTML file that needs nothing else, and that appears at `path` complete or not at all.

    `rows` is read once; of each row's pictures only thumbnails are kept. A row with an error, or whose score is missing
    or not finite, is shown as an error and counts as neither good nor anomalous. Raises OSError where the folder cannot
    be written to, and ValueError on pictures of other shapes or types and on a threshold that is not finite.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"The threshold is {threshold}: pass a finite one, or None.")
    cards = sorted((_card(row) for row in rows), key=lambda card: math.inf if card.error else card.score, reverse=True)
    scored = [card for card in cards if not card.error]
    page = template(Path(__file__).with_name("report.html.j2"), number=_number).generate(
        title=title,
        threshold=threshold,
        metrics=metrics,
        settings=settings,
        cards=cards,
        pictures={key: name for key, name in PICTURES.items() if any(key in card.pictures for card in cards)},
        filters=FILTERS,
        counts={name: sum(name in card.groups for card in cards) for name in FILTERS},
        histogram=_histogram(scored, threshold) if scored else None,
        roc=_roc_plot([card for card in scored if card.truth != "unknown"]),
        inferno=INFERNO,
    )
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # backslashreplace: the name of a file may hold bytes that are not UTF-8
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(page)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass
class _Card:
    """A row as the template shows it."""

    folder: str
    name: str
    score: float
    decision: str  # good, anomalous, undecided or error
    truth: str  # good, anomalous or unknown
    defect: str
    mistake: str
    error: str
    groups: list[str]  # the filters that show it
    pictures: dict[str, str]  # data URIs


def _card(row: Row) -> _Card:
    names: dict[int | None, str] = {0: "good", 1: "anomalous"}
    score = math.nan if row.pred_score is None else float(row.pred_score)
    error = row.error or ("" if math.isfinite(score) else "The image has no finite score.")
    decision = "error" if error else names.get(row.pred_label, "undecided")
    truth = names.get(row.gt_label, "unknown")
    mistake = {("good", "anomalous"): "missed", ("anomalous", "good"): "false alarm"}.get((decision, truth), "")
    folder, name = os.path.split(row.image_path)
    arrays = {key: getattr(row, key) for key in PICTURES}
    return _Card(
        folder=folder,
        name=name,
        score=score,
        decision=decision,
        truth=truth,
        defect=row.defect,
        mistake=mistake,
        error=error,
        groups=["all", decision] + ["wrong"] * bool(mistake),
        pictures={key: _data_uri(array) for key, array in arrays.items() if array is not None},
    )


def _data_uri(pixels: np.ndarray) -> str:
    """A thumbnail as a data URI: PNG for bool [H, W], JPEG for uint8 [H, W] and [H, W, 3]."""
    if pixels.dtype not in (np.uint8, np.bool_) or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
        raise ValueError(f"Expected a bool or uint8 picture [H, W] or [H, W, 3], got {pixels.dtype} {pixels.shape}.")
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint8) * 255)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    kind = "jpeg" if pixels.dtype == np.uint8 else "png"
    picture.save(buffer, format=kind, quality=85, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else f"{value:.4g}"


def _histogram(cards: Sequence[_Card], threshold: float | None) -> dict[str, Any]:
    """Stacked bars of the scores by true label; places and sizes are fractions of the plot."""
    marks = [card.score for card in cards] + [threshold] * (threshold is not None)
    low, high = min(marks), max(marks)
    if low == high:
        low, high = low - (abs(low) or 1), high + (abs(high) or 1)
    edges = np.linspace(low, high, BINS + 1)
    counts = {
        kind: np.histogram([card.score for card in cards if card.truth == kind], edges)[0]
        for kind in ("good", "anomalous", "unknown")
    }
    top = np.sum(list(counts.values()), axis=0).max()
    base, bars = np.zeros(BINS), []
    for kind, count in counts.items():
        for index in np.flatnonzero(count):
            text = f"{count[index]} {kind}, {_number(edges[index])} to {_number(edges[index + 1])}"
            bars.append((kind, index / BINS, 1 / BINS, base[index] / top, count[index] / top, text))
        base += count
    return {
        "low": low,
        "high": high,
        "bars": bars,
        "top": top,
        "kinds": {kind: count.sum() for kind, count in counts.items() if count.any()},
        "ticks": [((tick - low) / (high - low), f"{tick:g}") for tick in _ticks(low, high)],
        "threshold": None if threshold is None else (threshold - low) / (high - low),
    }


def _ticks(low: float, high: float) -> np.ndarray:
    """At most 7 round numbers in [low, high]."""
    step = 10 ** math.floor(math.log10((high - low) / 6))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step


def roc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, each [P + 1], at the P distinct scores and at (0, 0); labels hold 0 and 1."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each run of equal scores
    positives = np.cumsum(labels[order])[ends]
    negatives = ends + 1 - positives
    return np.append(0, negatives / negatives[-1]), np.append(0, positives / positives[-1])


def _roc_plot(cards: Sequence[_Card]) -> dict[str, Any] | None:
    """The curve, its area and the rates of the decisions, or None where labels of one class are missing."""
    labels = np.array([card.truth == "anomalous" for card in cards], dtype=np.int64)
    if len(np.unique(labels)) < 2:
        return None
    false, true = roc(labels, np.array([card.score for card in cards]))
    decided = np.array([card.decision == "anomalous" for card in cards])
    complete = all(card.decision != "undecided" for card in cards)
    return {
        "points": list(zip(false.tolist(), true.tolist(), strict=True)),
        "area": np.trapezoid(true, false),
        "decisions": (decided[labels == 0].mean(), decided[labels == 1].mean()) if complete else None,
    }
