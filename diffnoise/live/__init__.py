"""Scores frames as they come, and draws the anomaly map over them."""

from __future__ import annotations

import csv
import sys
import time
from collections import deque
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ..data import DataError
from ..realtime import RealtimeScorer
from .drawing import draw
from .frames import frames
from .showing import CODECS, Closed, Show, into_folder, into_video, into_window

COLUMNS = ("frame", "pred_score", "pred_label", "threshold", "latency_ms", "late", "level", "steps", "calls", "reason", "error")  # fmt: skip
FRAME_RATE = 10.0  # of a video that is made of images, per second
SHOWN = (
    "fps",
    "images",
    "anomalous",
    "errors",
    "late",
    "degraded",
)  # of the statistics, where there is no room for all
RECENT = 30  # frames that the drawn frame rate is over


def run(
    scorer: RealtimeScorer,
    source: str,
    output: str | Path | None = None,
    *,
    window: bool = False,
    limit: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score every frame of a source and return the scorer's statistics.

    source: as `frames` takes it. output: a folder for `results.csv` and the drawn `frames/000000.jpg`, ..., or a video (.mp4, .avi, .mkv) with
    the CSV beside it. window: also show them, until q is pressed. limit: end after so many frames; Ctrl-C ends well, too. Raises `DataError`
    for an unusable source or an output that is there already (unless `overwrite`), `RuntimeError` where OpenCV is needed and missing.
    """
    found, rate = frames(source, scorer.detectors[0].channels)
    ends: deque[float] = deque(maxlen=RECENT)
    with ExitStack() as stack:
        stack.callback(found.close)
        shows: list[Show] = [into_window(stack)] if window else []
        table = None
        if output is not None:
            video = Path(output).suffix.lower() in CODECS
            path = Path(output).with_suffix(".csv") if video else Path(output) / "results.csv"
            if path.exists() and not overwrite:
                raise DataError(f"{path} holds an earlier run; name another output, or add --overwrite.")
            shows.append(
                into_video(Path(output), rate or FRAME_RATE, stack) if video else into_folder(Path(output) / "frames")
            )
            file = stack.enter_context(path.open("w", newline="", encoding="utf-8", errors="surrogateescape"))
            table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            table.writeheader()
        with suppress(KeyboardInterrupt, Closed):
            for number, frame in enumerate(islice(found, limit)):
                since = frame.since
                if number == 0:
                    with suppress(ValueError, OSError):  # the result says it
                        scorer.warm_up(frame.image)
                    since = time.perf_counter()
                result = scorer(frame.image, since)
                ends.append(time.perf_counter())
                fps = (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else None
                if table:
                    row = result._asdict()
                    numbers = {"pred_label": int(result.pred_label), "late": int(result.late)}
                    table.writerow(row | numbers | {"frame": frame.name})
                    file.flush()
                if shows:
                    picture = draw(frame, result, scorer.detectors[result.level], fps)
                    for show in shows:
                        show(number, picture)
                if (number + 1) % 100 == 0:
                    print(f"{number + 1} frames, {fps:.1f} per second", file=sys.stderr, flush=True)
    return scorer.statistics()
