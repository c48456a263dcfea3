"""One image in, one result out, within a deadline."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import telemetry
from .data import DataError
from .detector import Detector
from .results import PredictionBatch
from .scoring import Scoring

WINDOW = 1000  # images that the percentiles are over
RECENT = 16  # images that tell how busy the machine is
WARM_UP_ROUNDS = 5

Image = Tensor | np.ndarray | str | os.PathLike[str]


class RealtimeResult(NamedTuple):
    """The result for one image; a score compares with the `threshold` beside it, which is that of the effort taken.

    An image that could not be scored has `error` set, no score, no map, and the label True: it is never taken for a good one.
    """

    pred_score: float | None
    pred_label: bool
    anomaly_map: Tensor | None  # float32 [1, H, W]
    pred_mask: Tensor | None  # bool [1, H, W]
    threshold: float
    latency_ms: float
    late: bool  # whether latency_ms exceeds the deadline
    level: int  # 0: full effort; 1, 2, ...: the fallback
    steps: int  # model calls for each sample of each noise scale
    calls: int  # model calls for each frame
    reason: str  # why less than full effort was taken; "" at full effort
    error: str  # why there is no score; "" where there is one

    @property
    def degraded(self) -> bool:
        """Whether less than full effort was taken."""
        return self.level > 0


def lighter(scoring: Scoring) -> list[Scoring]:
    """Settings with about half the model calls of the one before, down to a single one: first fewer steps, then fewer samples, then every second noise scale."""
    found: list[Scoring] = []
    while True:
        if _steps(scoring) > 1:
            scoring = replace(scoring, steps=_steps(scoring) // 2)
        elif scoring.samples > 1:
            scoring = replace(scoring, samples=scoring.samples // 2)
        elif len(scoring.starts) > 1 and scoring.target == "image" and scoring.dynamic is None:
            scoring = replace(scoring, starts=scoring.starts[::2])
        else:
            return found
        found.append(scoring)


def fallbacks(detector: Detector, good: Sequence[Tensor], scorings: Sequence[Scoring] | None = None) -> list[Detector]:
    """Detectors with the same model that take less effort, each with thresholds of its own.

    A score of less effort is on another scale, so every one is calibrated. good: as in `Detector.calibrate`, good images [C, H, W] in [-1, 1] that
    the model was not trained on. scorings: from more effort to less; by default `lighter(detector.scoring)`. Raises `ValueError` as
    `Detector.scoring` and `Detector.calibrate` do.
    """
    found = []
    for scoring in lighter(detector.scoring) if scorings is None else scorings:
        fallback = copy.copy(detector)
        fallback.scoring = scoring
        fallback.calibrate(good)
        found.append(fallback)
    return found


class RealtimeScorer:
    """Scores images one at a time, keeps count of how long they take, and takes less effort when the deadline demands it.

    deadline_ms: None for no deadline. fallbacks: calibrated detectors from more effort to less, such as `fallbacks(detector, good)`. Each
    image is scored by the first of (detector, *fallbacks) that is expected to meet the deadline, else by the last. Expected is its
    fastest time at the warm-up, times the 90th percentile of how many times as long the last 16 images took as the fastest.
    Without fallbacks an image that takes too long is only marked `late`. image_size: (H, W) of the images to come, for the warm-up; without it
    the first image waits for the warm-up. Raises `RuntimeError` for a detector without thresholds, `ValueError` for a
    deadline that is not positive or a fallback with other image channels.

    Memory is constant. Calls must not overlap; `statistics` may be called from another thread.
    """

    def __init__(
        self,
        detector: Detector,
        deadline_ms: float | None = None,
        *,
        fallbacks: Sequence[Detector] = (),
        image_size: tuple[int, int] | None = None,
    ) -> None:
        if deadline_ms is not None and not deadline_ms > 0:
            raise ValueError(f"deadline_ms must be positive, or None for no deadline, not {deadline_ms}.")
        self.detectors = (detector, *fallbacks)
        self.deadline_ms = deadline_ms
        for each in self.detectors:
            each.calibrated()
        if any(each.channels != detector.channels for each in fallbacks):
            raise ValueError(f"All fallbacks must take images of {detector.channels} channel(s), as the detector does.")
        self._fastest = np.empty(0)  # ms at each level
        self._slowdowns = np.ones(RECENT)  # time / fastest
        self._latencies = np.empty(WINDOW)  # ms
        self._ends = np.empty(WINDOW)  # s
        self._longest = 0.0  # ms
        self._late = self._errors = self._anomalous = 0
        self._images = [0] * len(self.detectors)  # scored at each level
        if image_size is not None:
            self.warm_up(torch.full((detector.channels, *image_size), 0.5))

    def warm_up(self, image: Image) -> None:
        """Score an image several times at every level, which loads the kernels and measures its fastest time."""
        for detector in self.detectors:
            _predict(detector, image)
        # In turns, so that what disturbs one round does not disturb one level.
        rounds = [[_timed(detector, image)[1] for detector in self.detectors] for _ in range(WARM_UP_ROUNDS)]
        self._fastest = np.min(rounds, axis=0)

    def __call__(self, image: Image, since: float | None = None) -> RealtimeResult:
        """Score one image, in any form that `Detector.predict` takes.

        since: the `time.perf_counter()` from which latency and deadline count, such as that of the camera's trigger; by default now. Whatever is
        wrong with the image or its scoring becomes a result with `error` set, and the next image is scored as if nothing had been.
        """
        since = time.perf_counter() if since is None else since
        level, reason, prediction, error = 0, "", None, ""
        try:
            if not len(self._fastest):
                self.warm_up(image)
            level, reason = self._choose(since)
            prediction, took = _timed(self.detectors[level], image)
        except Exception as problem:  # one bad image must not stop the line
            level, reason, error = 0, "", str(problem) or type(problem).__name__
        result = self._result(prediction, error, since, level, reason)
        if prediction is None:
            self._errors += 1
        else:
            self._count(result, took)
        return result

    def statistics(self) -> dict[str, Any]:
        """Everything that happened so far, ready for JSON.

        images, errors, anomalous (of those that could be scored), late, degraded: how many. latency_ms: p50, p95 and p99 over the last 1000 scored images, and the max of all; None before the
        first. fps: scored images per second of the clock, over the same 1000; None before the second. levels: for each level its starts,
        steps, samples, calls, fastest_ms (None before the warm-up) and images. telemetry: what the GPU tells (see `telemetry.sample`), or None.
        """
        scored = sum(self._images)
        kept = min(scored, WINDOW)
        latencies, ends = self._latencies[:kept], self._ends[:kept]
        p50, p95, p99 = (float(p) for p in np.percentile(latencies, (50, 95, 99))) if kept else (None,) * 3
        levels = [
            {
                "starts": list(detector.scoring.scales),
                "steps": _steps(detector.scoring),
                "samples": detector.scoring.samples,
                "calls": _calls(detector.scoring),
                "fastest_ms": float(self._fastest[level]) if len(self._fastest) else None,
                "images": self._images[level],
            }
            for level, detector in enumerate(self.detectors)
        ]
        return {
            "deadline_ms": self.deadline_ms,
            "images": scored + self._errors,
            "errors": self._errors,
            "anomalous": self._anomalous,
            "late": self._late,
            "degraded": scored - self._images[0],
            "latency_ms": {"p50": p50, "p95": p95, "p99": p99, "max": self._longest if kept else None},
            "fps": (kept - 1) / float(np.ptp(ends)) if kept > 1 else None,
            "levels": levels,
            "telemetry": telemetry.sample(self.detectors[0].device),
        }

    def _choose(self, since: float) -> tuple[int, str]:
        """The level for an image that has been waiting since then, and why it is not full effort."""
        if self.deadline_ms is None or len(self.detectors) == 1:
            return 0, ""
        expected = self._fastest * np.quantile(self._slowdowns, 0.9)
        left = self.deadline_ms - (time.perf_counter() - since) * 1e3
        fitting = np.flatnonzero(expected <= left)
        level = int(fitting[0]) if len(fitting) else len(expected) - 1
        return level, f"full effort is expected to take {expected[0]:.1f} ms, {left:.1f} ms were left" if level else ""

    def _result(
        self, prediction: PredictionBatch | None, error: str, since: float, level: int, reason: str
    ) -> RealtimeResult:
        scoring, calibration = self.detectors[level].scoring, self.detectors[level].calibration
        latency = (time.perf_counter() - since) * 1e3
        return RealtimeResult(
            pred_score=float(prediction.pred_score[0]) if prediction else None,
            pred_label=bool(prediction.pred_label[0]) if prediction else True,
            anomaly_map=prediction.anomaly_map[0] if prediction else None,
            pred_mask=prediction.pred_mask[0] if prediction else None,
            threshold=calibration.image_threshold if calibration else math.nan,
            latency_ms=latency,
            late=self.deadline_ms is not None and latency > self.deadline_ms,
            level=level,
            steps=_steps(scoring),
            calls=_calls(scoring),
            reason=reason,
            error=error,
        )

    def _count(self, result: RealtimeResult, took: float) -> None:
        scored = sum(self._images)
        self._slowdowns[scored % RECENT] = took / self._fastest[result.level]
        self._latencies[scored % WINDOW] = result.latency_ms
        self._ends[scored % WINDOW] = time.perf_counter()
        self._longest = max(self._longest, result.latency_ms)
        self._late += result.late
        self._anomalous += result.pred_label
        self._images[result.level] += 1


def _predict(detector: Detector, image: Image) -> PredictionBatch:
    if not isinstance(image, (Tensor, np.ndarray, str, os.PathLike)):
        raise DataError(f"An image must be an array, a tensor or the path of a file, not {type(image).__name__}.")
    if isinstance(image, (Tensor, np.ndarray)) and image.ndim == 4 and len(image) != 1:
        raise DataError(f"Give one image at a time, not {len(image)}.")
    return detector.predict(image)


def _timed(detector: Detector, image: Image) -> tuple[PredictionBatch, float]:
    """The prediction and the milliseconds that it took; predictions are in the CPU's memory, so the device is done."""
    start = time.perf_counter()
    return _predict(detector, image), (time.perf_counter() - start) * 1e3


def _steps(scoring: Scoring) -> int:
    return scoring.model_calls(max(scoring.scales))


def _calls(scoring: Scoring) -> int:
    starts = scoring.starts if scoring.dynamic is None else scoring.scales[-1:]
    return scoring.samples * sum(map(scoring.model_calls, starts))
