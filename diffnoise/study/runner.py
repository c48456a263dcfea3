"""Runs experiments: shares trainings and denoisings between cells, and remembers what was measured."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..bench import machine
from ..config import Config
from ..data import DataError, Sample, colour_channels, find_samples
from ..detector import Detector
from ..methods import preset
from ..noise import NOISE_VERSION
from ..saved import FILE_NAME, load
from . import measures
from .experiments import T_MAX, Cell, Changes, Experiment
from .identity import fingerprint, identity
from .ledger import Ledger
from .measures import MEASURES, Errors, Subject

TRAININGS = "trainings"
MEASUREMENTS = "measurements.jsonl"
# What is done to the errors after a denoising: other values of these need none of their own.
AFTER_DENOISING = ("filter", "filter_size", "filter_sigma", "top_k", "false_alarm_rate")


@dataclass(frozen=True)
class Study:
    """What experiments run on.

    data: category folder in MVTec layout or manifest. output: where trainings and measurements go. preset: name of the configuration, and
    changes: what differs from it. limit: number of test images, spread evenly over them; None for all. reverse_steps: most network calls for
    an image and noise scale. device: as for `Detector`. Raises `DataError` for unusable data and `ValueError` for unusable settings.
    """

    data: Path
    output: Path
    preset: str = "small"
    changes: Sequence[Changes] = ()
    limit: int | None = None
    reverse_steps: int = 10
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "reverse_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")

    def check(self) -> None:
        """Raise `DataError` for unusable data and `ValueError` for an unusable configuration, before any work."""
        _ = self.good, self.samples, self.config

    @cached_property
    def good(self) -> list[Sample]:
        """The training images."""
        return find_samples(self.data, "train")

    @cached_property
    def samples(self) -> list[Sample]:
        """The test images that are measured."""
        found = find_samples(self.data, "test")
        if any(sample.label is None for sample in found):
            raise DataError(
                f"{self.data} has test images without labels; a study needs test/good and test/<defect>, or a manifest with label_index."
            )
        count = min(self.limit or len(found), len(found))
        return [found[i * len(found) // count] for i in range(count)]

    @cached_property
    def channels(self) -> int:
        return max(colour_channels(sample.path) for sample in self.good)

    @cached_property
    def train_images(self) -> str:
        return fingerprint(self.good)

    @cached_property
    def test_images(self) -> str:
        return fingerprint(self.samples)

    @cached_property
    def machine(self) -> dict[str, Any]:
        return machine.describe()

    @property
    def versions(self) -> dict[str, str]:
        """What the figures depend on."""
        return {
            "diffnoise": __version__,
            "noise": NOISE_VERSION,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu" and torch.cuda.is_available()

    @cached_property
    def config(self) -> Config:
        """The study's configuration: what every cell starts from."""
        return self._base(self.preset, self.changes)

    def _base(self, name: str, changes: Sequence[Changes]) -> Config:
        config = preset(name)
        for change in changes:
            config = config.updated(change)
        if config.codec.kind == "pixels":
            config = config.updated({"model": {"image_channels": self.channels}})
        return config if config.training.t_max else config.updated({"training": {"t_max": T_MAX}})

    def cell_config(self, experiment: Experiment, cell: Cell) -> Config:
        """The configuration of a cell, with as many network calls as it asks for.

        Preset, the experiment's scoring, the study's changes, the cell: later ones win.
        """
        if cell.preset is not None:
            return self._base(cell.preset, ())
        config = self.config.updated({"scoring": experiment.base})
        for change in self.changes:
            config = config.updated({"scoring": change.get("scoring", {})})
        static: dict[str, Any] = {} if "dynamic" in cell.scoring else {"dynamic": None}
        config = config.updated(cell.changes).updated({"scoring": static | cell.scoring})
        scoring, wanted = config.scoring, getattr(config.model, "feature_channels", None)
        if scoring.features == "none" and scoring.dynamic is None and wanted is None:
            config = config.updated({"features": None, "adaptation": None})  # or they would be learnt for nothing
        return config

    def limited(self, config: Config) -> Config:
        """The configuration with no more network calls than the study allows."""
        return replace(config, scoring=replace(config.scoring, steps=min(config.scoring.steps, self.reverse_steps)))


@dataclass(frozen=True)
class Row:
    """The result of one cell: `values`, or `error` or `left_out` saying why there are none: that it failed, or cannot be had here."""

    at: dict[str, Any]
    values: dict[str, float | None]
    seconds: float | None = None
    training: str | None = None  # folder below `trainings`
    error: str = ""
    left_out: str = ""


@dataclass
class Job:
    """A cell that is to be measured, and the names of what it shares with others."""

    experiment: Experiment
    index: int
    cell: Cell
    asked: Config  # before the limit of network calls
    config: Config
    training: str | None
    denoising: str
    key: str


def run(
    study: Study, experiments: Sequence[Experiment], log: Callable[[str], None]
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Measure what is missing of the experiments: rows by experiment, and what is known of each training.

    A cell that fails becomes a row with an error; it is tried again the next time. Raises `DataError` or `ValueError` where no cell could run.
    """
    (study.output / TRAININGS).mkdir(parents=True, exist_ok=True)
    ledger = Ledger(study.output / MEASUREMENTS)
    training = study.config.training
    limits = ((training.max_minutes, "minutes"), (training.max_steps, "steps"))
    until = " or ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)
    log(
        f"{len(study.good)} good images, {len(study.samples)} test images, {study.channels} channel(s); each training at most {until}"
    )
    rows: dict[str, list[Row | None]] = {each.name: [None] * len(each.cells) for each in experiments}
    jobs: list[Job] = []
    for experiment in experiments:
        for index, cell in enumerate(experiment.cells):
            if study.config.framing.size < cell.least_size:
                reason = f"needs frames of at least {cell.least_size} pixels, not {study.config.framing.size}; set size in the section framing"
                rows[experiment.name][index] = Row(cell.at, {}, left_out=reason)
                continue
            try:
                jobs.append(_job(study, experiment, index, cell))
            except (ValueError, RuntimeError, ImportError, TypeError) as error:
                log(f"{experiment.name}, {_place(cell)}: {error}")
                rows[experiment.name][index] = Row(cell.at, {}, error=str(error))
    pending = [job for job in jobs if job.key not in ledger]
    new = {job.training for job in pending if job.training and job.training not in ledger}
    log(f"{len(jobs) - len(pending)} of {len(jobs)} cells are measured; {len(new)} trainings to do for the others")
    workshop = _Workshop(study, ledger, log)
    for done, job in enumerate(_grouped(pending), start=1):
        if job.key in ledger:  # another cell of this run was the same
            continue
        log(f"{done} of {len(pending)}: {job.experiment.name}, {_place(job.cell)}")
        try:
            ledger.add(workshop.measure(job))
        except Exception as error:  # whatever it is, the other cells go on
            reason = str(error) if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {error}"
            log(f"failed: {reason}")
            rows[job.experiment.name][job.index] = Row(job.cell.at, {}, training=job.training, error=reason)
    for job in jobs:
        if job.key in ledger:
            found = ledger[job.key]
            rows[job.experiment.name][job.index] = Row(job.cell.at, found["values"], found["seconds"], job.training)
    used = dict.fromkeys(job.training for job in jobs if job.training)
    trainings = {name: ledger[name]["training"] for name in used if name in ledger}
    return {name: [row for row in each if row] for name, each in rows.items()}, trainings


def _job(study: Study, experiment: Experiment, index: int, cell: Cell) -> Job:
    asked = study.cell_config(experiment, cell)
    config = study.limited(asked)
    measure = MEASURES[cell.measure]
    sections = {name: value for name, value in vars(config).items() if name != "scoring"}
    learnt = identity(__version__, NOISE_VERSION, sections, config.scoring.dynamic, study.train_images)
    scoring = asdict(config.scoring)
    way = {name: value for name, value in scoring.items() if name not in AFTER_DENOISING}
    where = [study.machine, torch.get_num_threads(), study.device, asked.scoring] if measure.of_machine else None
    return Job(
        experiment,
        index,
        cell,
        asked,
        config,
        f"{config.noise.kind}-{config.training.loss}-{learnt[:8]}" if measure.trained else None,
        identity(learnt, way, study.test_images),
        identity(learnt, scoring, cell.measure, cell.settings, study.test_images, where),
    )


def _grouped(jobs: Sequence[Job]) -> list[Job]:
    """Cells of one training together, and within it those of one denoising, otherwise in order."""
    trainings = {name: place for place, name in reversed(list(enumerate(job.training for job in jobs)))}
    denoisings = {name: place for place, name in reversed(list(enumerate(job.denoising for job in jobs)))}
    return sorted(jobs, key=lambda job: (trainings[job.training], denoisings[job.denoising]))


class _Workshop:
    """Measures one job after the other; keeps the last detector and the last errors for the next one."""

    def __init__(self, study: Study, ledger: Ledger, log: Callable[[str], None]) -> None:
        self._study, self._ledger, self._log = study, ledger, log
        self._detector: tuple[str, Detector] | None = None
        self._failed: dict[str, Exception] = {}
        self._errors: tuple[str, list[Errors]] | None = None

    def measure(self, job: Job) -> dict[str, Any]:
        """The line of the ledger."""
        measure, detector = MEASURES[job.cell.measure], None
        if job.training is not None:
            detector = self._trained(job.training, job.config)
            if detector.scoring != job.config.scoring:
                detector.scoring = job.config.scoring
        started = time.perf_counter()
        study = self._study
        subject = Subject(
            job.config,
            job.asked.scoring,
            study.samples,
            study.channels,
            study.device,
            detector,
            lambda: self._denoised(job, detector),
        )
        values = measure.function(subject, **job.cell.settings)
        return {
            "key": job.key,
            "experiment": job.experiment.name,
            "at": job.cell.at,
            "values": {
                name: value if value is None or math.isfinite(value) else None for name, value in values.items()
            },
            "seconds": round(time.perf_counter() - started, 3),
            "training": job.training,
        }

    def _trained(self, name: str, config: Config) -> Detector:
        """The detector of that name: from the last job, from the disk, or trained (on, if a kill stopped it)."""
        if name in self._failed:
            raise self._failed[name]
        if self._detector is None or self._detector[0] != name:
            study = self._study
            folder = study.output / TRAININGS / name
            if (folder / FILE_NAME).exists():
                detector = load(folder, device=study.device)
            else:
                self._log(f"training {name}")
                try:
                    detector = Detector.from_config(config, study.device, study.channels)
                    detector.fit(study.data, config.training, folder=folder, resume=True, progress=True)
                except Exception as error:
                    self._failed[name] = error
                    raise
            self._detector = name, detector
            if name not in self._ledger:
                self._ledger.add({"key": name, "training": detector.provenance})
        return self._detector[1]

    def _denoised(self, job: Job, detector: Detector | None) -> list[Errors]:
        if self._errors is None or self._errors[0] != job.denoising:
            assert detector is not None
            self._errors = job.denoising, measures.denoise(detector, self._study.samples)
        return self._errors[1]


def _place(cell: Cell) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell.at.items())
