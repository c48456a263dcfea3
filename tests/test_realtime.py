"""One image in, one result out: the bits, the levels of effort, what happens to bad images. The clock is a stand-in."""

from __future__ import annotations

import copy
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import texture
from PIL import Image

import diffnoise as dn
from diffnoise import realtime, telemetry
from diffnoise.realtime import RealtimeScorer, fallbacks, lighter

Make = Callable[..., dn.Detector]


def good(count: int, seed: int = 0) -> list[torch.Tensor]:
    return [torch.from_numpy(texture(seed + i, 16, 16)).float()[None] / 127.5 - 1 for i in range(count)]


@pytest.fixture
def detector(tiny: Make) -> dn.Detector:
    made = tiny(scoring=dn.Scoring(starts=(100, 200), steps=2, samples=2, filter_size=3))
    made.calibrate(good(6))
    return made


# What less effort is


def test_every_level_has_half_the_calls_of_the_one_before() -> None:
    def of(scoring: dn.Scoring) -> list[tuple[tuple[int, ...], int, int]]:
        return [(s.starts, s.steps, s.samples) for s in lighter(scoring)]

    four = (100, 200, 300, 400)
    assert of(dn.Scoring(four, steps=1, samples=2)) == [(four, 1, 1), ((100, 300), 1, 1), ((100,), 1, 1)]
    assert of(dn.Scoring((50,), steps=10, samples=2)) == [
        ((50,), 5, 2), ((50,), 2, 2), ((50,), 1, 2), ((50,), 1, 1),
    ]  # fmt: skip
    assert of(dn.Scoring((4, 8), steps=1000, samples=1))[0] == ((4, 8), 4, 1)  # no more than 8 steps are taken
    # A KL map takes one call per scale, whatever its steps.
    assert [s.samples for s in lighter(dn.Scoring((50,), steps=9, samples=4, map="kl"))] == [2, 1]
    assert lighter(dn.Scoring((50,), steps=1, samples=1)) == []
    scoring = dn.Scoring(four, steps=2, eta=0.5, top_k=7, seed=3)
    assert all(replace(s, starts=four, steps=2, samples=2) == scoring for s in lighter(scoring))


def test_a_fallback_has_the_thresholds_of_its_own_effort(detector: dn.Detector, tiny: Make) -> None:
    found = fallbacks(detector, good(6))
    assert [f.scoring for f in found] == lighter(detector.scoring) and len(found) == 3
    assert all(f.model is detector.model for f in found)
    for fallback in found:
        alone = tiny(scoring=fallback.scoring)
        alone.calibrate(good(6))
        assert fallback.calibration == alone.calibration != detector.calibration
    [one] = fallbacks(detector, good(6), [dn.Scoring((30,), filter_size=3)])
    assert one.scoring.starts == (30,) and detector.scoring.starts == (100, 200)


# The result


def test_the_result_is_that_of_predict(detector: dn.Detector, tmp_path: Path) -> None:
    image = texture(50, 20, 24)
    Image.fromarray(image).save(tmp_path / "image.png")
    scorer = RealtimeScorer(detector, image_size=(20, 24))
    expected = detector.predict(image)
    for form in (image, torch.from_numpy(image)[None], tmp_path / "image.png", str(tmp_path / "image.png")):
        result = scorer(form)
        assert result.pred_score == float(expected.pred_score) and result.pred_label == bool(expected.pred_label)
        assert torch.equal(result.anomaly_map, expected.anomaly_map[0])
        assert torch.equal(result.pred_mask, expected.pred_mask[0])
        assert result.threshold == detector.calibration.image_threshold
        assert (result.level, result.steps, result.calls, result.reason, result.error) == (0, 2, 8, "", "")
        assert result.latency_ms > 0 and not result.late and not result.degraded


def test_a_degraded_result_is_that_of_its_level(detector: dn.Detector) -> None:
    lightest = fallbacks(detector, good(6))
    scorer = RealtimeScorer(detector, 1e-3, fallbacks=lightest)  # nothing is that fast: the least effort
    result, expected = scorer(texture(50, 16, 16)), lightest[-1].predict(texture(50, 16, 16))
    assert (result.level, result.steps, result.calls, result.degraded, result.late) == (3, 1, 1, True, True)
    assert result.pred_score == float(expected.pred_score) and torch.equal(result.pred_mask, expected.pred_mask[0])
    assert result.threshold == lightest[-1].calibration.image_threshold
    assert result.pred_label == (result.pred_score > result.threshold)
    assert "full effort is expected to take" in result.reason


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (None, "An image must be an array, a tensor or the path of a file, not NoneType"),
        (np.full((16, 16), np.nan), "NaN"),
        (np.zeros((16, 16, 3), np.uint8), "must have shape"),
        (np.zeros((2, 16, 16, 1), np.uint8), "one image at a time"),
        (np.zeros((0, 16, 16, 1), np.uint8), "one image at a time"),
        ("missing.png", "missing.png does not exist"),
    ],
)
def test_a_bad_image_is_never_good_and_stops_nothing(detector: dn.Detector, image: object, why: str) -> None:
    scorer = RealtimeScorer(detector, 1e9)
    first, second = scorer(image), scorer(texture(1, 16, 16))
    assert why in first.error and first.pred_label is True
    assert first.pred_score is None and first.anomaly_map is None and first.pred_mask is None
    assert not second.error and second.pred_score is not None
    found = scorer.statistics()
    assert (found["images"], found["errors"], found["levels"][0]["images"]) == (2, 1, 1)


def test_a_network_that_fails_is_an_error_and_not_good(detector: dn.Detector) -> None:
    scorer = RealtimeScorer(detector, image_size=(16, 16))
    weight = next(detector.model.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(math.nan)
    assert "not finite" in scorer(texture(1, 16, 16)).error
    with torch.no_grad():
        weight.copy_(kept)
    assert not scorer(texture(1, 16, 16)).error


def test_settings_that_cannot_be(detector: dn.Detector, tiny: Make) -> None:
    for deadline in (0, -1, math.nan):
        with pytest.raises(ValueError, match="deadline_ms must be positive"):
            RealtimeScorer(detector, deadline)
    with pytest.raises(RuntimeError, match="no thresholds"):
        RealtimeScorer(tiny())
    colour = copy.copy(detector)
    colour.channels = 3
    with pytest.raises(ValueError, match="1 channel"):
        RealtimeScorer(detector, 10, fallbacks=[colour])


# Time


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Timed:
    """A detector that does nothing for so many milliseconds, times how busy the machine is."""

    busy = 1.0

    def __init__(self, clock: Clock, ms: float, steps: int) -> None:
        self.clock, self.ms, self.channels, self.device = clock, ms, 1, torch.device("cpu")
        self.scoring = dn.Scoring((100,), steps=steps, samples=1)
        self.calibration = SimpleNamespace(image_threshold=float(steps))

    def calibrated(self) -> SimpleNamespace:
        return self.calibration

    def predict(self, image: torch.Tensor) -> dn.detector.PredictionBatch:
        self.clock.now += self.ms * Timed.busy / 1e3
        nothing = torch.zeros(1, 1, 2, 2)
        return dn.detector.PredictionBatch(
            torch.zeros(1), torch.zeros(1, dtype=torch.bool), nothing, nothing > 0, nothing
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(realtime, "time", found)
    monkeypatch.setattr(Timed, "busy", 1.0)
    return found


def scorer_of(clock: Clock, deadline_ms: float | None, *ms: float) -> RealtimeScorer:
    detectors = [Timed(clock, each, steps=2 ** (len(ms) - 1 - level)) for level, each in enumerate(ms)]
    return RealtimeScorer(detectors[0], deadline_ms, fallbacks=detectors[1:], image_size=(2, 2))


IMAGE = torch.zeros(1, 2, 2)


def test_effort_follows_how_busy_the_machine_is(clock: Clock) -> None:
    scorer = scorer_of(clock, 50.0, 40.0, 20.0, 10.0)
    assert [scorer(IMAGE).level for _ in range(50)] == [0] * 50
    Timed.busy = 2.0  # full effort takes 80 ms, half of it 40 ms
    results = [scorer(IMAGE) for _ in range(30)]
    levels = [result.level for result in results]
    assert levels[0] == 0 and levels == sorted(levels) and levels[3:] == [1] * 27
    assert [result.late for result in results] == [level == 0 for level in levels]
    assert results[-1].latency_ms == pytest.approx(40) and results[-1].threshold == 2.0 and results[-1].steps == 2
    assert results[-1].reason == "full effort is expected to take 80.0 ms, 50.0 ms were left"
    Timed.busy = 1.0
    levels = [scorer(IMAGE).level for _ in range(40)]
    assert levels == sorted(levels, reverse=True) and levels[20:] == [0] * 20
    Timed.busy = 100.0
    assert [scorer(IMAGE) for _ in range(20)][-1].level == 2  # late, but the least late
    found = scorer.statistics()
    assert found["images"] == 140 and sum(level["images"] for level in found["levels"]) == 140
    assert found["degraded"] == 140 - found["levels"][0]["images"]
    assert [level["fastest_ms"] for level in found["levels"]] == pytest.approx([40, 20, 10])
    assert [level["calls"] for level in found["levels"]] == [4, 2, 1]


def test_one_slow_image_changes_nothing(clock: Clock) -> None:
    scorer = scorer_of(clock, 50.0, 40.0, 20.0)
    Timed.busy = 50.0
    assert scorer(IMAGE).late
    Timed.busy = 1.0
    assert [scorer(IMAGE).level for _ in range(20)] == [0] * 20


def test_an_image_that_waited_gets_what_is_left_of_its_time(clock: Clock) -> None:
    scorer = scorer_of(clock, 50.0, 40.0, 20.0, 10.0)
    for waited, level, latency in ((5, 0, 45), (25, 1, 45), (35, 2, 45), (45, 2, 55)):
        result = scorer(IMAGE, since=clock.now - waited / 1e3)
        assert result.level == level and result.latency_ms == pytest.approx(latency) and result.late == (latency > 50)
    assert scorer.statistics()["late"] == 1


def test_without_fallbacks_or_deadline_the_effort_is_full(clock: Clock) -> None:
    alone, unhurried = scorer_of(clock, 30.0, 40.0), scorer_of(clock, None, 40.0, 20.0)
    assert alone(IMAGE).late and not alone(IMAGE).degraded
    result = unhurried(IMAGE, since=clock.now - 1000)
    assert not result.late and not result.degraded


def test_without_a_size_the_first_image_waits_for_the_warm_up(clock: Clock) -> None:
    scorer = RealtimeScorer(Timed(clock, 10.0, 1), 50.0)
    assert scorer.statistics()["levels"][0]["fastest_ms"] is None
    assert scorer(IMAGE).latency_ms == pytest.approx(10 + 10 * (1 + realtime.WARM_UP_ROUNDS))
    assert scorer(IMAGE).latency_ms == pytest.approx(10)


def test_the_percentiles_are_those_of_the_last_images(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime, "WINDOW", 100)
    scorer = scorer_of(clock, None, 10.0)
    empty = scorer.statistics()
    assert empty["latency_ms"] == {"p50": None, "p95": None, "p99": None, "max": None} and empty["fps"] is None
    times = 1 + np.random.default_rng(0).random(250)
    times[3] = 9.0  # long ago
    for busy in times:
        Timed.busy = busy
        scorer(IMAGE)
    found = scorer.statistics()
    p50, p95, p99 = np.percentile(10 * times[-100:], (50, 95, 99))
    assert found["latency_ms"] == pytest.approx({"p50": p50, "p95": p95, "p99": p99, "max": 90})
    assert found["fps"] == pytest.approx(99 / (10e-3 * times[-99:].sum()))
    assert found["images"] == 250 and found["deadline_ms"] is None
    assert json.loads(json.dumps(found)) == found


def test_statistics_ask_the_gpu_that_is_in_use(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(telemetry, "sample", lambda device: asked.append(device) or {"power_W": 300.0})
    scorer = scorer_of(clock, None, 10.0)
    scorer.detectors[0].device = torch.device("cuda:1")
    assert scorer.statistics()["telemetry"] == {"power_W": 300.0} and asked == [torch.device("cuda:1")]


# The threads behind it


class Meeting(torch.nn.Module):
    """A model of which two calls have to be under way at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)
        self.threads: set[int] = set()

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1
        self.barrier.wait(timeout=60)
        self.threads.add(threading.get_ident())
        return x_t / 2


def test_the_samples_of_one_image_run_at_the_same_time_in_threads_that_are_kept() -> None:
    torch.set_num_threads(2)
    model = Meeting()
    detector = dn.Detector(
        model, framing=dn.Framing(16), channels=1, device="cpu", scoring=dn.Scoring((10, 20), samples=2, filter_size=3)
    )
    detector.calibrate(good(1))
    scorer = RealtimeScorer(detector, image_size=(16, 16))
    assert not scorer(texture(1, 16, 16)).error
    assert len(model.threads) == 2 and torch.get_num_threads() == 2


def test_a_forked_process_scores_too(detector: dn.Detector) -> None:
    image = texture(1, 16, 16)
    expected = detector.predict(image).anomaly_map
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if torch.equal(detector.predict(image).anomaly_map, expected) else 1
        finally:
            os._exit(code)
    until = time.monotonic() + 300
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("The forked process hangs.")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
