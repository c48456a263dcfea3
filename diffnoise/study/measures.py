"""What is measured of a cell: functions of its configuration, its detector and the test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import metrics
from ..anomaly import gaussian_filter, image_score, mean_filter
from ..config import Config
from ..data import DataError, Placement, Sample, read_image, read_mask
from ..detector import Detector
from ..dynamic import DynamicSteps, StepSelector
from ..forward import add_noise
from ..scoring import Scoring
from ..similarity import ssim

TIMED_IMAGES = 8  # at most; fewer where they take longer than
TIMED_SECONDS = 20.0
REPLICATES = 300  # of the test images, for intervals
Values = dict[str, float | None]


class Errors(NamedTuple):
    """What a detector made of one image, before any filter."""

    errors: Tensor  # [frames, 1, S, S]
    placement: Placement


@dataclass(frozen=True)
class Subject:
    """What a measure looks at.

    config: with the cell's scoring. asked: the scoring without the study's limit of network calls. channels: of the images. errors: the test images' errors in order, made on the first call and kept for cells that only filter them in another way.
    """

    config: Config
    asked: Scoring
    samples: Sequence[Sample]
    channels: int
    device: str | None
    detector: Detector | None
    errors: Callable[[], Sequence[Errors]]

    def image(self, index: int) -> Tensor:
        """Test image [C, H, W] in [-1, 1]."""
        return read_image(self.samples[index].path, self.channels)

    def trained(self) -> Detector:
        assert self.detector is not None
        return self.detector


def denoise(detector: Detector, samples: Sequence[Sample]) -> list[Errors]:
    """The errors of all samples, for one noise scale; raises `DataError` for an unreadable image, `ValueError` for other maps than one."""
    images = (read_image(sample.path, detector.channels) for sample in samples)
    found = [Errors(errors, placement) for errors, placement, _ in detector.errors(images)]
    if any(each.errors.shape[1] != 1 for each in found):
        raise ValueError("A study filters one error map per image; give a scoring with one map, such as one start.")
    return found


def maps(subject: Subject) -> list[Tensor]:
    """The filtered anomaly maps [1, H, W] of all images, in units of the error."""
    scoring, framing = subject.config.scoring, subject.config.framing
    return [framing.merge(_filtered(errors, scoring), placement) for errors, placement in subject.errors()]


def _filtered(errors: Tensor, scoring: Scoring) -> Tensor:
    if scoring.filter == "mean":
        return mean_filter(errors, scoring.filter_size)
    return gaussian_filter(errors, scoring.filter_sigma) if scoring.filter == "gaussian" else errors


def _masks(subject: Subject, found: Sequence[Tensor]) -> list[Tensor | None]:
    """bool [H, W], None where an image has none."""
    return [
        None if sample.mask is None else read_mask(sample.mask, (each.shape[-2], each.shape[-1]), sample.class_mask)
        for sample, each in zip(subject.samples, found, strict=True)
    ]


def detection(subject: Subject) -> Values:
    """Image and pixel metrics, and an interval for the image AUROC; they need no units or thresholds, so nothing is calibrated."""
    found, labels = maps(subject), [sample.label or 0 for sample in subject.samples]
    scores = [float(image_score(each[None], min(subject.config.scoring.top_k, each.numel()))) for each in found]
    values = metrics.evaluate(scores, labels, [each[0] for each in found], _masks(subject, found))
    if values["image_AUROC"] is None:
        return values
    interval = metrics.bootstrap(metrics.image_auroc, scores, labels, strata=labels, replicates=REPLICATES)
    return values | {"image_AUROC_low": interval.low, "image_AUROC_high": interval.high}


def segmentation(subject: Subject) -> Values:
    """Masks at Otsu's threshold of each map against the true ones, AUC, and calibration of the maps as confidences."""
    found = [each[0] for each in maps(subject)]
    masks, labels = _masks(subject, found), [sample.label or 0 for sample in subject.samples]
    predicted = [values > metrics.otsu_threshold(values) for values in found]
    values = metrics.evaluate([float(each.max()) for each in found], labels, found, masks, predicted)
    if values.get("Dice_mean") is None:
        raise DataError("No test image has a mask with anomalous pixels; add ground_truth masks for this experiment.")
    pairs = [
        (each, torch.zeros(each.shape, dtype=torch.bool) if mask is None else mask)
        for each, mask, label in zip(found, masks, labels, strict=True)
        if mask is not None or not label
    ]
    # Images in [0, 1] have errors in [0, 1]; those here are twice as large, and four times as large squared.
    largest = 2.0 if subject.config.scoring.map == "absolute" else 4.0
    named = {
        "Dice": "Dice_mean",
        "Dice_sd": "Dice_sd",
        "IoU": "IoU_mean",
        "precision": "Precision_mean",
        "recall": "Recall_mean",
    }
    named |= {name: name for name in ("pixel_AUROC", "pixel_AUROC_per_image")}
    named["balanced_accuracy"] = "BalancedAccuracy_mean"
    ece = metrics.expected_calibration_error(*map(list, zip(*pairs, strict=True)), scale=largest)
    return {name: values[theirs] for name, theirs in named.items()} | {"ECE": ece}


def similarity(subject: Subject) -> Values:
    """SSIM of frames and their reconstructions, mean over the frames of an image and then over images."""
    detector, found = subject.trained(), []
    for index in range(len(subject.samples)):
        frames, _ = subject.config.framing.split(subject.image(index))
        made = torch.stack([reconstruction for _, _, reconstruction in detector.errors(frames)])
        found.append(float(ssim(frames, made, data_range=2.0).mean()))
    labels = [sample.label for sample in subject.samples]
    return {
        "SSIM": _mean(found),
        "SSIM_good": _mean([value for value, label in zip(found, labels, strict=True) if not label]),
        "SSIM_anomalous": _mean([value for value, label in zip(found, labels, strict=True) if label]),
    }


def forward(subject: Subject, start: int, omega: float) -> Values:
    """How much of x_0 is in x_t at T' = `start`: over the first frame of every image."""
    config, t = subject.config, torch.tensor([start - 1])
    correlations, squares = [], []
    for index in range(len(subject.samples)):
        x_0 = config.framing.split(subject.image(index))[0][:1]
        eps = config.noise(x_0.shape, t=t, seeds=torch.tensor([config.scoring.seed + index]))
        x_t = add_noise(x_0, eps, t, config.schedule, omega)
        squares.append(float((x_t - x_0).square().mean()))
        correlations.append(float(torch.corrcoef(torch.stack([x_0.flatten(), x_t.flatten()]))[0, 1]))
    alpha_bar = float(config.schedule.alpha_bars[start - 1])
    return {
        "correlation": _mean(correlations),
        "rms": (sum(squares) / len(squares)) ** 0.5,
        "signal": alpha_bar**0.5,
        "noise": omega * (1 - alpha_bar) ** 0.5,
    }


def speed(subject: Subject) -> Values:
    """Seconds from image to score, one image after the other, after the first has warmed everything up."""
    config = subject.config
    detector = Detector.from_config(config, subject.device, subject.channels)
    count = min(TIMED_IMAGES, len(subject.samples))
    images = [subject.image(index) for index in range(count)]
    if config.scoring.dynamic is not None:
        _choose_steps(detector, config.scoring.dynamic, images)
    detector.calibrate(images[:1])
    done, started = 0, time.perf_counter()
    while done < count and (done == 0 or time.perf_counter() - started < TIMED_SECONDS):
        detector.predict((images[done].clamp(-1, 1) + 1) / 2)
        done += 1
    seconds = (time.perf_counter() - started) / done
    calls, asked = _calls(config.scoring), _calls(subject.asked)
    return {
        "seconds": seconds,
        "fps": 1 / seconds,
        "calls": calls,
        "preset_calls": asked,
        "preset_seconds": seconds * asked / calls,
        "million_parameters": sum(p.numel() for p in detector.model.parameters()) / 1e6,
        "pixels": config.framing.size,
    }


def _choose_steps(detector: Detector, dynamic: DynamicSteps, images: Sequence[Tensor]) -> None:
    """Lets an untrained detector choose T', among as many neighbours as it wants; they do not change its speed."""
    assert detector.backbone is not None
    with torch.inference_mode():
        frames = torch.cat([detector.framing.split(image)[0] for image in images]).to(detector.device)
        features = dynamic.embed(detector.backbone, frames)
    least = dynamic.neighbours + dynamic.exclude_self
    detector.selector = StepSelector.fit(dynamic, [features] * -(-least // len(features)))
    detector.scoring = detector.scoring  # takes the selector in


def _calls(scoring: Scoring) -> int:
    """Network calls for one frame."""
    starts = [scoring.dynamic.t_max] if scoring.dynamic else scoring.starts
    return scoring.samples * sum(scoring.model_calls(start) for start in starts)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


class Measure(NamedTuple):
    """function: of a `Subject` and the cell's settings. trained: whether it needs a trained detector. of_machine: whether it holds for this machine alone."""

    function: Callable[..., Values]
    trained: bool
    of_machine: bool = False


MEASURES: dict[str, Measure] = {
    "detection": Measure(detection, trained=True),
    "segmentation": Measure(segmentation, trained=True),
    "similarity": Measure(similarity, trained=True),
    "forward": Measure(forward, trained=False),
    "speed": Measure(speed, trained=False, of_machine=True),
}
