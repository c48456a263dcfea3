"""From frames to anomaly maps: noise out to T', denoise back, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from . import anomaly, ops
from .forward import add_noise
from .models import Denoiser, denoise
from .noise import Noise
from .reverse import reverse_process
from .schedule import Prediction, Schedule, Variance

MapKind = Literal["squared", "absolute", "kl"]
Sampler = Literal["ddim", "ddpm"]
FilterKind = Literal["mean", "gaussian", "none"]


@dataclass(frozen=True)
class Scoring:
    """How a frame is scored; every number is recorded with the detector.

    starts: the noise scales T'; the image is noised at index T'-1 and denoised to 0, the maps of all scales are averaged in units of their
    deviation on good images. steps: model calls per scale, evenly spaced (1: x_0 is predicted at once; as many as T': every
    step). sampler, eta, variance: DDIM with its eta, or DDPM with "fixed_small", "fixed_large" or "learned_range". omega: factor of the
    forward noise. reverse_noise: "gaussian", or "same" as the forward noise. map: squared or absolute error, or "kl", which needs
    one model call per scale. filter: "mean" over filter_size pixels, "gaussian" with filter_sigma, or "none". top_k: the image score is the mean of so
    many largest pixels. samples: reconstructions (KL maps for "kl") with different seeds that are averaged before they are compared. false_alarm_rate: share of good images that
    the threshold may call anomalous.
    """

    starts: tuple[int, ...] = (100, 200, 300, 400)
    steps: int = 1
    sampler: Sampler = "ddim"
    eta: float = 0.0
    variance: Variance = "fixed_small"
    omega: float = 1.0
    clip: float | None = 1.0
    reverse_noise: Literal["gaussian", "same"] = "gaussian"
    map: MapKind = "squared"
    filter: FilterKind = "mean"
    filter_size: int = 5
    filter_sigma: float = 4.0
    top_k: int = 1
    samples: int = 2
    false_alarm_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(self.starts))
        for name, kinds in (("sampler", Sampler), ("variance", Variance), ("map", MapKind), ("filter", FilterKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, not {getattr(self, name)!r}.")
        if self.reverse_noise not in ("gaussian", "same"):
            raise ValueError(f'reverse_noise must be "gaussian" or "same", not {self.reverse_noise!r}.')
        if not self.starts or min(self.starts) < 1:
            raise ValueError(f"starts must hold at least one positive number of steps, not {self.starts}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, not {self.seed}.")
        for name in ("steps", "top_k", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must lie between 0 and 1, not {self.false_alarm_rate}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None for no clipping, not {self.clip}.")
        if not self.eta >= 0 or not self.omega >= 0:
            raise ValueError(f"eta and omega must not be negative, not {self.eta} and {self.omega}.")
        if self.filter == "mean" and (self.filter_size < 1 or self.filter_size % 2 == 0):
            raise ValueError(f"filter_size must be odd and positive, not {self.filter_size}.")
        if self.filter == "gaussian" and not self.filter_sigma > 0:
            raise ValueError(f"filter_sigma must be positive, not {self.filter_sigma}.")

    @property
    def learned_variance(self) -> bool:
        """Whether the model's variance output is used: by DDPM steps and KL maps; DDIM has a variance of its own."""
        return self.variance == "learned_range" and (self.map == "kl" or self.sampler == "ddpm")


@dataclass(frozen=True)
class FrameJob:
    """One frame of an image: pixels [C, S, S] in [-1, 1] and the (y, x) of its first pixel, which addresses its noise."""

    frame: Tensor
    origin: tuple[int, int]
    seed: int


@dataclass(frozen=True)
class FrameResult:
    maps: Tensor  # [1, S, S], of all scales and filtered; or the errors of every scale, [number of scales, S, S]
    reconstruction: Tensor  # [C, S, S], averaged over scales and samples


class FrameScorer:
    """Scores frames one by one; a frame's result never depends on the frames around it or on the number of threads.

    On the CPU every frame is computed by one thread of its own (the libraries below choose other kernels, with other last
    bits, for other batch sizes and thread counts), and as many frames at a time as torch has threads.
    """

    def __init__(
        self,
        model: Denoiser,
        noise: Noise,
        schedule: Schedule,
        prediction: Prediction,
        scoring: Scoring,
        device: torch.device,
    ) -> None:
        if max(scoring.starts) > schedule.steps:
            raise ValueError(f"starts must not exceed the schedule's {schedule.steps} steps, but is {scoring.starts}.")
        self._model, self._noise, self._schedule, self._scoring, self._device = model, noise, schedule, scoring, device
        self._timesteps: dict[int, list[int]] = {}
        self._tables: dict[int, Tensor] = {}
        for start in scoring.starts:
            steps = schedule.timesteps(start, min(scoring.steps, start))
            self._timesteps[start] = steps
            if scoring.map == "kl":
                table = schedule.ddpm_table(scoring.variance, prediction)
            elif scoring.sampler == "ddpm":
                table = schedule.ddpm_table(scoring.variance, prediction, steps)
            else:
                table = schedule.ddim_table(steps, scoring.eta, prediction)
            self._tables[start] = table.to(device)
        self._taps = _taps(scoring).to(device)
        self._x_0_table = schedule.x_0_table(prediction).to(device)

    def __call__(self, jobs: Iterable[FrameJob], scales: Tensor | None = None) -> Iterator[FrameResult]:
        """Results in the order of the jobs, on the CPU; the map of all `scales` (as in `ops.anomaly_map`), or the errors of every scale."""
        score = partial(self._score, scales=None if scales is None else scales.to(self._device))
        if self._device.type == "cpu":
            yield from _map_in_threads(score, jobs)
        else:
            yield from map(score, jobs)

    def filtered(self, errors: Tensor, scales: Tensor | None = None) -> Tensor:
        """The maps [n, 1, S, S] of errors [n, scales, S, S], on the CPU; with `scales` the same bits as in a `FrameResult`."""
        scales = None if scales is None else scales.to(self._device)
        return ops.anomaly_map(errors.to(self._device), self._taps, scales=scales).cpu()

    @torch.inference_mode()
    def _score(self, job: FrameJob, scales: Tensor | None) -> FrameResult:
        scoring = self._scoring
        x_0 = job.frame.to(self._device).unsqueeze(0)
        origins = torch.tensor([job.origin], device=self._device)
        compared, reconstructions = [], []  # with x_0, or divergences as they are
        for start in scoring.starts:
            samples = [
                self._one_sample(x_0, start, torch.tensor([job.seed + sample], device=self._device), origins)
                for sample in range(scoring.samples)
            ]
            reconstruction = sum(reconstructed for reconstructed, _ in samples) / scoring.samples
            compared.append(sum(kl for _, kl in samples) / scoring.samples if scoring.map == "kl" else reconstruction)
            reconstructions.append(reconstruction[0])
        target, absolute = None if scoring.map == "kl" else x_0, scoring.map == "absolute"
        if scales is None:
            itself = anomaly.mean_taps(1).to(self._device)
            maps = torch.cat([ops.anomaly_map(image, itself, target, absolute=absolute) for image in compared], 1)
        else:
            maps = ops.anomaly_map(torch.cat(compared, 1), self._taps, target, scales, absolute)
        return FrameResult(maps[0].cpu(), torch.stack(reconstructions).mean(0).cpu())

    def _one_sample(self, x_0: Tensor, start: int, seeds: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
        """A reconstruction [1, C, S, S] and, for KL maps, the KL [1, 1, S, S] (zeros otherwise)."""
        scoring = self._scoring
        t = torch.full_like(seeds, start - 1)
        eps = self._noise(x_0.shape, t=t, seeds=seeds, origins=origins)
        x_t = add_noise(x_0, eps, t, self._schedule, scoring.omega)
        learned = scoring.learned_variance
        if scoring.map == "kl":
            prediction, variance = denoise(self._model, x_t, t, learned)
            reconstruction = ops.reverse_step(x_t, prediction, t, self._x_0_table, clip=scoring.clip)
            return reconstruction, ops.kl_map(
                x_0, x_t, prediction, t, self._tables[start], variance=variance, clip=scoring.clip
            )
        reconstruction = reverse_process(
            self._model,
            x_t,
            self._timesteps[start],
            self._tables[start],
            seeds=seeds,
            origins=origins,
            noise=self._noise if scoring.reverse_noise == "same" else None,
            learned_variance=learned,
            clip=scoring.clip,
        )
        return reconstruction, torch.zeros(())


def _taps(scoring: Scoring) -> Tensor:
    if scoring.filter == "gaussian":
        return anomaly.gaussian_taps(scoring.filter_sigma)
    return anomaly.mean_taps(scoring.filter_size if scoring.filter == "mean" else 1)


Item = TypeVar("Item")
Result = TypeVar("Result")


def _map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """map() over worker threads that each run torch single-threaded, results in order, few items in flight."""
    threads = torch.get_num_threads()
    # set_num_threads acts on the calling thread, and on those that have not started yet: restore it for the caller.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            pending = []
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * threads:
                    yield pending.pop(0).result()
            for future in pending:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
