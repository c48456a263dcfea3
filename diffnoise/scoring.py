"""From frames to anomaly maps: noise out to T', denoise back, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch.profiler import record_function

from . import anomaly, ops
from .capture import Captured, bucket
from .execution import Execution
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
    maps: Tensor  # [number of scales, S, S], filtered, averaged over samples
    reconstruction: Tensor  # [C, S, S], averaged over scales and samples


class FrameScorer:
    """Scores frames; `execution` says whether alone or together.

    Alone, a frame's result never depends on the frames around it or on the number of threads. On the CPU it is then computed by one
    thread (the libraries below choose other kernels, with other last bits, for other batch sizes and thread counts), and as
    many frames at a time as torch has threads.
    """

    def __init__(
        self,
        model: Denoiser,
        noise: Noise,
        schedule: Schedule,
        prediction: Prediction,
        scoring: Scoring,
        device: torch.device,
        execution: Execution,
    ) -> None:
        if max(scoring.starts) > schedule.steps:
            raise ValueError(f"starts must not exceed the schedule's {schedule.steps} steps, but is {scoring.starts}.")
        self._model, self._noise, self._scoring, self._device = model, noise, scoring, device
        self._schedule = Schedule(schedule.betas.to(device))
        self._execution = execution
        self._captured: dict[int, Captured] = {}
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
        self._x_0_table = schedule.x_0_table(prediction).to(device)

    def __call__(self, jobs: Iterable[FrameJob]) -> Iterator[FrameResult]:
        """Results in the order of the jobs, [S, S] maps on the CPU."""
        if self._execution.batch is not None:
            jobs = iter(jobs)
            while chunk := list(islice(jobs, self._execution.batch)):
                yield from self._score(chunk)
        elif self._device.type == "cpu":
            yield from _map_in_threads(lambda job: self._score([job])[0], jobs)
        else:
            yield from (self._score([job])[0] for job in jobs)

    @torch.inference_mode()
    def _score(self, jobs: Sequence[FrameJob]) -> list[FrameResult]:
        frames = torch.stack([job.frame for job in jobs])
        seeds = torch.tensor([job.seed for job in jobs])
        origins = torch.tensor([job.origin for job in jobs])
        if self._execution.batch is not None and self._execution.capture and self._device.type == "cuda":
            maps, reconstructions = self._replay(frames, seeds, origins)
        else:
            maps, reconstructions = self._compute(*(x.to(self._device) for x in (frames, seeds, origins)))
        return [FrameResult(*result) for result in zip(maps.cpu(), reconstructions.cpu(), strict=True)]

    def _replay(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """`_compute` as a CUDA graph: nothing between upload and results makes the host wait."""
        count = len(arguments[0])
        size = bucket(count, self._execution.batch or count)
        filled = torch.arange(size).clamp_max(count - 1)
        uploaded = [x[filled].pin_memory() for x in arguments]
        if size not in self._captured:
            self._captured[size] = Captured(self._compute, *(x.to(self._device) for x in uploaded))
        return tuple(result[:count] for result in self._captured[size](*uploaded))

    def _compute(self, x_0: Tensor, seeds: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, scales, S, S] and reconstructions [B, C, S, S], averaged over scales and samples, of frames [B, C, S, S]."""
        maps, reconstructions = [], []
        for start in self._scoring.starts:
            reconstruction, kl = self._samples(x_0, start, seeds, origins)
            with record_function("diffnoise.tail"):
                if kl is None:
                    error = anomaly.squared_error if self._scoring.map == "squared" else anomaly.absolute_error
                    kl = error(x_0, reconstruction)
                maps.append(self._filter(kl)[:, 0])
            reconstructions.append(reconstruction)
        return torch.stack(maps, 1), torch.stack(reconstructions).mean(0)

    def _samples(self, x_0: Tensor, start: int, seeds: Tensor, origins: Tensor) -> tuple[Tensor, Tensor | None]:
        """Reconstructions [B, C, S, S] and, for KL maps, KL [B, 1, S, S] at one noise scale, averaged over samples."""
        samples = self._scoring.samples
        together = samples if self._execution.batch is not None else 1
        parts = []
        for first in range(0, samples, together):
            numbers = torch.arange(first, first + together, device=x_0.device).repeat(len(x_0))
            x, seed, origin = (tensor.repeat_interleave(together, 0) for tensor in (x_0, seeds, origins))
            parts.append(self._one_sample(x, start, seed + numbers, origin))

        def mean(values: list[Tensor]) -> Tensor:
            return sum(value.unflatten(0, (-1, together)).sum(1) for value in values) / samples  # type: ignore[return-value]

        reconstruction = mean([reconstructed for reconstructed, _ in parts])
        return reconstruction, mean([kl for _, kl in parts if kl is not None]) if self._scoring.map == "kl" else None

    def _one_sample(self, x_0: Tensor, start: int, seeds: Tensor, origins: Tensor) -> tuple[Tensor, Tensor | None]:
        """Reconstructions [B, C, S, S] and, for KL maps, KL [B, 1, S, S]."""
        scoring = self._scoring
        t = torch.full_like(seeds, start - 1)
        with record_function("diffnoise.noise"):
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
        return reconstruction, None

    def _filter(self, maps: Tensor) -> Tensor:
        scoring = self._scoring
        if scoring.filter == "mean":
            return anomaly.mean_filter(maps, scoring.filter_size)
        if scoring.filter == "gaussian":
            return anomaly.gaussian_filter(maps, scoring.filter_sigma)
        return maps


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
