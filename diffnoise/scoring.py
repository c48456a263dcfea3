"""From frames to anomaly maps: noise out to T', denoise back, compare."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from . import anomaly, ops
from .capture import Captured, bucket
from .execution import Execution
from .forward import add_noise
from .models import Denoiser, denoise, prepare
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


Sample = tuple[Tensor, Tensor]  # reconstructions [B, C, S, S] and, for KL maps, KL [B, 1, S, S]


@dataclass(frozen=True)
class FrameResult:
    maps: Tensor  # [1, S, S], of all scales and filtered; or the errors of every scale, [number of scales, S, S]
    reconstruction: Tensor  # [C, S, S], averaged over scales and samples


class FrameScorer:
    """Scores frames; `execution` says whether alone or together.

    Alone, a frame's result never depends on the frames around it or on the number of threads. On the CPU every sample of every noise scale
    is then computed by one thread of its own (the libraries below choose other kernels, with other last bits, for other
    batch sizes and thread counts), and as many at a time as torch has threads.
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
        self._network: Denoiser = model
        self._prepared: list[tuple[int, int]] | None = None
        self._captured: dict[tuple[int, bool], Captured] = {}
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
        self._itself, self._taps = anomaly.mean_taps(1).to(device), _taps(scoring).to(device)
        self._x_0_table = schedule.x_0_table(prediction).to(device)

    def __call__(self, jobs: Iterable[FrameJob], scales: Tensor | None = None) -> Iterator[FrameResult]:
        """Results in the order of the jobs, on the CPU; the map of all `scales` (as in `ops.anomaly_map`), or the errors of every scale."""
        self._prepare()
        scales = None if scales is None else scales.to(self._device)
        if self._execution.batch is not None:
            jobs = iter(jobs)
            while chunk := list(itertools.islice(jobs, self._execution.batch)):
                yield from self._together(chunk, scales)
        else:
            frames = (self._alone(job, scales) for job in jobs)
            if self._device.type == "cpu":
                yield from _in_threads(frames)
            else:
                yield from (combine([part() for part in parts]) for parts, combine in frames)

    def _prepare(self) -> None:
        """Makes the network ready for inference; anew where the model's weights have changed since."""
        model = self._model
        weights = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
        state = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
        if state != self._prepared:
            self._network = prepare(self._model, self._execution.dtype, self._schedule.steps)
            self._prepared, self._captured = state, {}

    def filtered(self, errors: Tensor, scales: Tensor | None = None) -> Tensor:
        """The maps [n, 1, S, S] of errors [n, scales, S, S], on the CPU; with `scales` the same bits as in a `FrameResult`."""
        scales = None if scales is None else scales.to(self._device)
        return ops.anomaly_map(errors.to(self._device), self._taps, scales=scales).cpu()

    def _alone(
        self, job: FrameJob, scales: Tensor | None
    ) -> tuple[list[Callable[[], Sample]], Callable[[Sequence[Sample]], FrameResult]]:
        """A frame's samples, scale after scale, of which none waits for another, and what makes its result of them."""
        x_0, seeds, origins = (tensor.to(self._device) for tensor in _stacked([job]))
        parts = [
            partial(self._sample, x_0, start, seeds + sample, origins)
            for start in self._scoring.starts
            for sample in range(self._scoring.samples)
        ]
        return parts, lambda samples: _results(*self._combine(x_0, samples, scales))[0]

    def _together(self, jobs: Sequence[FrameJob], scales: Tensor | None) -> list[FrameResult]:
        arguments = _stacked(jobs)
        if self._execution.capture and self._device.type == "cuda":
            return _results(*self._replay(*arguments, *(() if scales is None else (scales,))))
        return _results(*self._compute(*(tensor.to(self._device) for tensor in arguments), scales))

    @torch.inference_mode()
    def _replay(self, x_0: Tensor, seeds: Tensor, origins: Tensor, *scales: Tensor) -> tuple[Tensor, ...]:
        """`_compute` as a CUDA graph: nothing between upload and results makes the host wait."""
        count = len(x_0)
        size = bucket(count, self._execution.batch or count)
        filled = torch.arange(size).clamp_max(count - 1)
        arguments = [*(tensor[filled].pin_memory() for tensor in (x_0, seeds, origins)), *scales]
        key = size, bool(scales)
        if key not in self._captured:
            try:
                self._captured[key] = Captured(self._compute, *(tensor.to(self._device) for tensor in arguments))
            except RuntimeError as error:
                raise RuntimeError(
                    f"The way from frame to map cannot be captured as a CUDA graph with this model ({error}). "
                    "Use Execution(..., capture=False), or a model that never waits for the device."
                ) from error
        return tuple(result[:count] for result in self._captured[key](*arguments))

    @torch.inference_mode()
    def _compute(
        self, x_0: Tensor, seeds: Tensor, origins: Tensor, scales: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`_combine` of all samples of the frames [B, C, S, S], which go through the network together."""
        count = self._scoring.samples
        numbers = torch.arange(count, device=x_0.device).repeat(len(x_0))
        x, seeds, origins = (tensor.repeat_interleave(count, 0) for tensor in (x_0, seeds, origins))
        samples: list[Sample] = []
        for start in self._scoring.starts:
            made = (
                values.unflatten(0, (-1, count)).unbind(1)
                for values in self._sample(x, start, seeds + numbers, origins)
            )
            samples += zip(*made, strict=True)
        return self._combine(x_0, samples, scales)

    @torch.inference_mode()
    def _combine(self, x_0: Tensor, samples: Sequence[Sample], scales: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps [B, 1 or number of scales, S, S] and reconstructions [B, C, S, S] of frames from their samples, scale after scale."""
        scoring = self._scoring
        with record_function("diffnoise.tail"):
            compared, reconstructions = [], []  # with x_0, or divergences as they are
            for first in range(0, len(samples), scoring.samples):
                parts = samples[first : first + scoring.samples]
                reconstruction = sum(reconstructed for reconstructed, _ in parts) / scoring.samples
                compared.append(sum(kl for _, kl in parts) / scoring.samples if scoring.map == "kl" else reconstruction)
                reconstructions.append(reconstruction)
            target, absolute = None if scoring.map == "kl" else x_0, scoring.map == "absolute"
            if scales is None:
                maps = torch.cat(
                    [ops.anomaly_map(image, self._itself, target, absolute=absolute) for image in compared], 1
                )
            else:
                maps = ops.anomaly_map(torch.cat(compared, 1), self._taps, target, scales, absolute)
            return maps, torch.stack(reconstructions).mean(0)

    @torch.inference_mode()
    def _sample(self, x_0: Tensor, start: int, seeds: Tensor, origins: Tensor) -> Sample:
        scoring = self._scoring
        t = torch.full_like(seeds, start - 1)
        with record_function("diffnoise.noise"):
            eps = self._noise(x_0.shape, t=t, seeds=seeds, origins=origins)
            x_t = add_noise(x_0, eps, t, self._schedule, scoring.omega)
        learned = scoring.learned_variance
        if scoring.map == "kl":
            prediction, variance, _ = denoise(self._network, x_t, t, learned)
            reconstruction = ops.reverse_step(x_t, prediction, t, self._x_0_table, clip=scoring.clip)
            return reconstruction, ops.kl_map(
                x_0, x_t, prediction, t, self._tables[start], variance=variance, clip=scoring.clip
            )
        reconstruction = reverse_process(
            self._network,
            x_t,
            self._timesteps[start],
            self._tables[start],
            seeds=seeds,
            origins=origins,
            noise=self._noise if scoring.reverse_noise == "same" else None,
            learned_variance=learned,
            clip=scoring.clip,
        )
        return reconstruction, x_0.new_zeros(len(x_0))


def _taps(scoring: Scoring) -> Tensor:
    if scoring.filter == "gaussian":
        return anomaly.gaussian_taps(scoring.filter_sigma)
    return anomaly.mean_taps(scoring.filter_size if scoring.filter == "mean" else 1)


def _stacked(jobs: Sequence[FrameJob]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames [B, C, S, S], seeds [B] and origins [B, 2]."""
    frames = torch.stack([job.frame for job in jobs])
    return frames, torch.tensor([job.seed for job in jobs]), torch.tensor([job.origin for job in jobs])


def _results(maps: Tensor, reconstructions: Tensor) -> list[FrameResult]:
    return [FrameResult(*result) for result in zip(maps.cpu(), reconstructions.cpu(), strict=True)]


Part = TypeVar("Part")
Result = TypeVar("Result")
Work = tuple[list[Callable[[], Part]], Callable[[Sequence[Part]], Result]]


def _in_threads(items: Iterable[Work[Part, Result]]) -> Iterator[Result]:
    """combine([part() for part in parts]) for each (parts, combine), in order, in the worker threads, few items in flight."""
    threads = torch.get_num_threads()
    pool = _workers(threads)
    pending: deque[list[Future[Result | None]]] = deque()

    def first() -> Result:
        [result] = [value for future in pending[0] if (value := future.result()) is not None]
        pending.popleft()
        return result

    try:
        for item in items:
            pending.append(_submit(pool, *item))
            if len(pending) > 2 * threads:
                yield first()
        while pending:
            yield first()
    finally:
        unfinished = [future for futures in pending for future in futures if not future.cancel()]
        wait(unfinished)


def _submit(
    pool: ThreadPoolExecutor, parts: list[Callable[[], Part]], combine: Callable[[Sequence[Part]], Result]
) -> list[Future[Result | None]]:
    """A future for each part: that of the part that ends last holds the result, the others None."""
    values: dict[int, Part] = {}
    ended = itertools.count(1)  # its next() is atomic

    def run(index: int) -> Result | None:
        values[index] = parts[index]()
        return combine([values[i] for i in range(len(parts))]) if next(ended) == len(parts) else None

    return [pool.submit(run, index) for index in range(len(parts))]


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that each run torch single-threaded; kept, since new ones would first have to warm up at every image."""
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first question fixes its number: ask before the caller's is restored
        started.wait()

    pool = ThreadPoolExecutor(threads, initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    # set_num_threads acts on the calling thread, and on those that have not started yet: restore it for the caller.
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork
