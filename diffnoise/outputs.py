"""What a scoring run leaves on disk: a CSV row per image, float maps, overlays and one HTML report."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import tifffile
from PIL import Image
from torch import Tensor

from .data import DataError, Sample, read_mask
from .detector import Detector
from .metrics import evaluate
from .noise import NOISE_VERSION
from .report import Row, overlay, write_report
from .results import Calibration, ImageResult

COLUMNS = (
    "image_path",
    "pred_score",
    "pred_label",
    "threshold",
    "gt_label",
    "defect",
    "seed",
    "noise_version",
    "map_path",
    "overlay_path",
    "error",
)


@dataclass
class Scored:
    """One image of a run: its sample and its result, and its mask where there is one."""

    sample: Sample
    result: ImageResult
    mask: Tensor | None  # bool [H, W]


def score_samples(detector: Detector, samples: Iterable[Sample]) -> Iterator[Scored]:
    """Score samples in order; a broken image or mask gives a result with `error` set."""
    waiting: list[Sample] = []

    def paths() -> Iterator[Path]:
        for sample in samples:
            waiting.append(sample)
            yield sample.path

    for result in detector.predict_files(paths()):
        sample, mask = waiting.pop(0), None
        if sample.mask is not None and result.anomaly_map is not None:
            try:
                size = (result.anomaly_map.shape[1], result.anomaly_map.shape[2])
                mask = read_mask(sample.mask, size, sample.class_mask)
            except DataError as error:
                result = ImageResult(result.path, str(error))
        yield Scored(sample, result, mask)


class RunWriter:
    """Writes each result as it comes, so that whatever happens later, what was scored is kept.

    Use as a context manager around `add`; leaving it writes `report.html`, also after an error, with `metrics` if they were set
    and those of the image scores otherwise. folder: `scores.csv`, `maps/`, `overlays/`.
    """

    def __init__(self, folder: str | os.PathLike[str], detector: Detector, title: str, overwrite: bool = False) -> None:
        calibration = detector.calibrated()
        self.folder = Path(folder)
        if not overwrite and (self.folder / "scores.csv").exists():
            raise DataError(
                f"{self.folder} holds an earlier run (scores.csv); write into another folder, or add --overwrite."
            )
        self._calibration: Calibration = calibration
        self._detector, self._title = detector, title
        self.failures = 0
        self.metrics: dict[str, float | None] | None = None
        self._rows: list[Row] = []
        self._scores: list[float] = []
        self._labels: list[int] = []
        self._names: set[str] = set()

    def __enter__(self) -> RunWriter:
        for part in ("maps", "overlays"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / "scores.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._csv = csv.writer(self._file)
        self._csv.writerow(COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.metrics is None:
            self.metrics = evaluate(self._scores, self._labels) if len(set(self._labels)) == 2 else {}
        self._write_report(self.metrics)

    def add(self, scored: Scored) -> None:
        """Write one result: its row, its float32 TIFF map in the image's size, and its overlay."""
        sample, result = scored.sample, scored.result
        row = Row(str(sample.path), gt_label=sample.label, defect=sample.defect, error=result.error)
        map_path = overlay_path = ""
        if (
            result.anomaly_map is None
            or result.image is None
            or result.reconstruction is None
            or result.pred_score is None
        ):
            self.failures += 1
        else:
            name = self._name(sample)
            map_path, overlay_path = f"maps/{name}.tiff", f"overlays/{name}.png"
            values = result.anomaly_map[0].numpy()
            (self.folder / map_path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / overlay_path).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(self.folder / map_path, values)
            picture = overlay(result.image, values, self._calibration.pixel_threshold, 0.0, self._calibration.high)
            Image.fromarray(picture).save(self.folder / overlay_path)
            row.pred_score, row.pred_label = result.pred_score, result.pred_label
            row.image, row.reconstruction, row.overlay = (
                to_pixels(result.image),
                to_pixels(result.reconstruction),
                picture,
            )
            row.mask = None if scored.mask is None else scored.mask.numpy()
            if sample.label is not None:
                self._scores.append(result.pred_score)
                self._labels.append(sample.label)
        self._rows.append(_thumbnails(row))
        score = "" if result.pred_score is None else repr(result.pred_score)
        label = "" if result.pred_label is None else result.pred_label
        truth = "" if sample.label is None else sample.label
        threshold = repr(self._calibration.image_threshold)
        self._csv.writerow(
            [
                sample.path,
                score,
                label,
                threshold,
                truth,
                sample.defect,
                self._detector.scoring.seed,
                NOISE_VERSION,
                map_path,
                overlay_path,
                result.error,
            ]
        )
        self._file.flush()

    def _write_report(self, metrics: dict[str, float | None]) -> None:
        detector, dynamic = self._detector, self._detector.scoring.dynamic is not None
        settings = {
            "noise": f"{_describe(detector.noise.to_config())}, noise version {NOISE_VERSION}",
            "frames": f"{detector.framing.mode}, {detector.framing.size} pixels",
            "noise scales": ", ".join(map(str, detector.scoring.scales))
            + (" (chosen for each frame)" if dynamic else ""),
            "reverse steps": f"{detector.scoring.steps} ({detector.scoring.sampler}, eta {detector.scoring.eta:g})",
            "map": f"{detector.scoring.map}, {detector.scoring.samples} sample(s)",
            "threshold": f"{self._calibration.image_threshold:.4g} from {self._calibration.good_images} good images, "
            f"false-alarm rate {detector.scoring.false_alarm_rate:g}",
        }
        if detector.scoring.guidance:
            weights = (f"{weight:.3g} at {start}" for start, weight in detector.guidance_weights.items())
            settings["share of the target in x_0"] = ", ".join(weights)
        write_report(
            self.folder / "report.html",
            self._rows,
            title=self._title,
            threshold=self._calibration.image_threshold,
            metrics=metrics,
            settings=settings,
        )

    def _name(self, sample: Sample) -> str:
        """A path below the output folders, defect/stem as MVTec's evaluation wants it, never outside them and never used twice."""
        stem = sample.path.stem
        base = f"{sample.split}/{sample.defect}/{stem}" if sample.split and sample.defect else stem
        base = "/".join(part for part in base.split("/") if part not in ("", ".", ".."))
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name


def to_pixels(image: Tensor) -> np.ndarray:
    """[C, H, W] in [-1, 1] -> uint8 [H, W, 3] (or [H, W] unless C is 3: the mean over channels)."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to("cpu").numpy().astype(np.uint8)
    return pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(axis=0).round().astype(np.uint8)


def _thumbnails(row: Row) -> Row:
    """The row with its pictures made small, so that a long run stays small in memory."""
    for name in ("image", "reconstruction", "overlay", "mask"):
        picture = getattr(row, name)
        if picture is not None and max(picture.shape[:2]) > 256:
            small = Image.fromarray(picture)
            small.thumbnail((256, 256), Image.Resampling.BOX if picture.dtype != bool else Image.Resampling.NEAREST)
            setattr(row, name, np.asarray(small))
    return row


def _describe(config: dict[str, object]) -> str:
    kind = config["kind"]
    rest = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in config.items()
        if key != "kind"
    )
    return f"{kind} ({rest})" if rest else str(kind)
