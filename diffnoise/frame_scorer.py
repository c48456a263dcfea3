"""From frames to anomaly maps: noise out to T', denoise back, compare."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from . import anomaly, ops
from .capture import Captured, bucket
from .codec import Coder
from .dynamic import StepSelector
from .execution import Execution
from .features import Backbone, cosine_distance, squared_distance, stacked
from .forward import add_noise
from .models import ClassGuided, Denoiser, Networks, denoise
from .noise import Noise
from .reverse import reverse_process
from .schedule import Prediction, Schedule
from .scoring import Scoring
from .workers import in_threads


@dataclass(frozen=True)
class Parts:
    """What stands around the denoiser: the codec between frames and what it denoises, the feature extractor, the choice of T' for each frame."""

    codec: Coder
    backbone: Backbone | None = None
    selector: StepSelector | None = None
    label: int | None = None  # of the class, for models that know several


@dataclass(frozen=True)
class FrameJob:
    """One frame of an image: pixels [C, S, S] in [-1, 1] and the (y, x) of its first pixel, which addresses its noise."""

    frame: Tensor
    origin: tuple[int, int]
    seed: int


@dataclass(frozen=True)
class FrameResult:
    maps: Tensor  # [1, S, S], of all evidence and filtered; or every single error, [number of errors, S, S]
    reconstruction: Tensor  # [C, S, S], averaged over scales and samples


class Sample(NamedTuple):
    """One way out and back of B frames, in latents (with `Pixels`: in pixels)."""

    z_0: Tensor  # [B, c, s, s]
    reconstruction: Tensor  # [B, c, s, s]
    divergence: Tensor | None  # for KL maps, [B, 1, s, s]
    features: Tensor | None  # the model's feature head, [B, F, h, w]


class FrameScorer:
    """Scores frames; `execution` says whether alone or together.

    Alone, a frame's result never depends on the frames around it or on the number of threads. On the CPU every sample of every noise scale
    is then computed by one thread of its own (the libraries below choose other kernels, with other last bits, for other
    batch sizes and thread counts), and as many at a time as torch has threads.
    """

    def __init__(
        self,
        networks: Networks,
        noise: Noise,
        schedule: Schedule,
        prediction: Prediction,
        scoring: Scoring,
        device: torch.device,
        execution: Execution,
        parts: Parts,
    ) -> None:
        if max(scoring.scales) > schedule.steps:
            raise ValueError(f"starts must not exceed the schedule's {schedule.steps} steps, but is {scoring.scales}.")
        if scoring.features != "none" and parts.backbone is None:
            raise ValueError(f'features "{scoring.features}" needs a feature extractor; give the detector one.')
        if scoring.dynamic is not None and parts.backbone is None:
            raise ValueError("T' is chosen by features; give the detector a feature extractor.")
        self._networks, self._noise, self._scoring, self._device = networks, noise, scoring, device
        self._schedule = Schedule(schedule.betas.to(device))
        self._prediction, self._parts, self._execution = prediction, parts, execution
        self._network: Denoiser | None = None
        self._denoiser: Denoiser
        self._captured: dict[tuple[int, bool, int | None], Captured] = {}
        self._ways: dict[int, tuple[list[int], Tensor]] = {}
        self._itself, self._taps = anomaly.mean_taps(1).to(device), _taps(scoring).to(device)
        self._x_0_table = schedule.x_0_table(prediction).to(device)

    def _way(self, start: int) -> tuple[list[int], Tensor]:
        """The indices from T' - 1 down to 0 and the table of the steps between them."""
        if start in self._ways:
            return self._ways[start]
        scoring, schedule = self._scoring, self._schedule
        timesteps = schedule.timesteps(start, scoring.model_calls(start))
        if scoring.map == "kl":
            table = schedule.ddpm_table(scoring.variance, self._prediction)
        elif scoring.sampler == "ddpm":
            table = schedule.ddpm_table(scoring.variance, self._prediction, timesteps)
        else:
            table = schedule.ddim_table(timesteps, scoring.eta, self._prediction)
        self._ways[start] = timesteps, table.to(self._device)
        return self._ways[start]

    def __call__(self, jobs: Iterable[FrameJob], units: Tensor | None = None) -> Iterator[FrameResult]:
        """Results in the order of the jobs, on the CPU; with the `units` [n, 2] (offset and unit of every error) the map, without them the errors."""
        self._prepare()
        scales = self._scales(units)
        if self._execution.batch is not None:
            jobs = iter(jobs)
            while chunk := list(itertools.islice(jobs, self._execution.batch)):
                yield from self._together(chunk, scales)
        else:
            frames = (self._alone(job, scales) for job in jobs)
            if self._device.type == "cpu":
                yield from in_threads(frames)
            else:
                yield from (combine([part() for part in parts]) for parts, combine in frames)

    def _prepare(self) -> None:
        network = self._networks(self._execution.dtype)
        if network is not self._network:
            self._network, self._captured = network, {}
            label, weight = self._parts.label, self._scoring.class_guidance
            self._denoiser = network if label is None else ClassGuided(network, label, weight)

    def _scales(self, units: Tensor | None) -> Tensor | None:
        """`units` with the weights in them, as `ops.anomaly_map` takes the mean over errors."""
        if units is None:
            return None
        offset, unit = units.double().unbind(1)
        return torch.stack(
            [offset, unit / (len(units) * torch.tensor(self._scoring.weights, dtype=torch.float64))], 1
        ).to(self._device)

    def filtered(self, errors: Tensor, units: Tensor | None = None) -> Tensor:
        """The maps [n, 1, S, S] of errors [n, errors, S, S], on the CPU; with `units` the same bits as in a `FrameResult`."""
        return ops.anomaly_map(errors.to(self._device), self._taps, scales=self._scales(units)).cpu()

    @torch.inference_mode()
    def reconstructions(self, frames: Tensor, start: int, seed: int = 0) -> Tensor:
        """Frames [B, C, S, S] that went out to `start` and back, as the scoring does it."""
        self._prepare()
        frames = frames.to(self._device)
        seeds = torch.full((len(frames),), seed, device=self._device)
        sample = self._sample(self._parts.codec.encode(frames), start, seeds, seeds.new_zeros(len(frames), 2))
        return self._parts.codec.decode(sample.reconstruction)

    def _alone(
        self, job: FrameJob, scales: Tensor | None
    ) -> tuple[list[Callable[[], Sample]], Callable[[Sequence[Sample]], FrameResult]]:
        """A frame's samples, scale after scale, of which none waits for another, and what makes its result of them."""
        x_0, seeds, origins = (tensor.to(self._device) for tensor in _stacked([job]))
        shared: list[tuple[Tensor, int]] = []  # by all samples: z_0 and the T' that is chosen
        lock = threading.Lock()

        @torch.inference_mode()
        def sample(start: int | None, number: int) -> Sample:
            with lock:
                if not shared:
                    chosen = 0 if self._scoring.dynamic is None else self._chosen(x_0)[0]
                    shared.append((self._parts.codec.encode(x_0), chosen))
            z_0, chosen = shared[0]
            return self._sample(z_0, chosen if start is None else start, seeds + number, origins)

        parts = [
            partial(sample, start, number) for start in self._scoring.passes for number in range(self._scoring.samples)
        ]
        return parts, lambda samples: _results(*self._combine(x_0, samples, scales))[0]

    def _together(self, jobs: Sequence[FrameJob], scales: Tensor | None) -> list[FrameResult]:
        frames, seeds, origins = _stacked(jobs)
        if self._scoring.dynamic is None:
            return self._batch(frames, seeds, origins, scales)
        chosen: dict[int, list[int]] = defaultdict(list)
        for index, start in enumerate(self._chosen(frames.to(self._device))):
            chosen[start].append(index)
        results = {}
        for start, indices in chosen.items():
            batch = self._batch(frames[indices], seeds[indices], origins[indices], scales, start)
            results |= dict(zip(indices, batch, strict=True))
        return [results[index] for index in range(len(jobs))]

    @torch.inference_mode()
    def _chosen(self, x_0: Tensor) -> list[int]:
        selector, backbone = self._parts.selector, self._parts.backbone
        if selector is None or backbone is None:
            raise RuntimeError("What T' is chosen by is learnt from good images: call fit first.")
        return selector.starts(selector.settings.embed(backbone, x_0)).tolist()

    def _batch(
        self, frames: Tensor, seeds: Tensor, origins: Tensor, scales: Tensor | None, chosen: int | None = None
    ) -> list[FrameResult]:
        arguments = frames, seeds, origins
        if self._execution.capture and self._device.type == "cuda":
            return _results(*self._replay(*arguments, *(() if scales is None else (scales,)), chosen=chosen))
        return _results(*self._compute(*(tensor.to(self._device) for tensor in arguments), scales, chosen=chosen))

    @torch.inference_mode()
    def _replay(
        self, x_0: Tensor, seeds: Tensor, origins: Tensor, *scales: Tensor, chosen: int | None
    ) -> tuple[Tensor, ...]:
        """`_compute` as a CUDA graph: nothing between upload and results makes the host wait."""
        count = len(x_0)
        size = bucket(count, self._execution.batch or count)
        filled = torch.arange(size).clamp_max(count - 1)
        arguments = [*(tensor[filled].pin_memory() for tensor in (x_0, seeds, origins)), *scales]
        key = size, bool(scales), chosen
        if key not in self._captured:
            try:
                self._captured[key] = Captured(
                    partial(self._compute, chosen=chosen), *(tensor.to(self._device) for tensor in arguments)
                )
            except RuntimeError as error:
                raise RuntimeError(
                    f"The way from frame to map cannot be captured as a CUDA graph with this model ({error}). "
                    "Use Execution(..., capture=False), or a model that never waits for the device."
                ) from error
        return tuple(result[:count] for result in self._captured[key](*arguments))

    @torch.inference_mode()
    def _compute(
        self, x_0: Tensor, seeds: Tensor, origins: Tensor, scales: Tensor | None = None, *, chosen: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """`_combine` of all samples of the frames [B, C, S, S], which go through the network together."""
        count = self._scoring.samples
        numbers = torch.arange(count, device=x_0.device).repeat(len(x_0))
        z_0 = self._parts.codec.encode(x_0).repeat_interleave(count, 0)
        seeds, origins = (tensor.repeat_interleave(count, 0) for tensor in (seeds, origins))
        samples: list[Sample] = []
        for start in self._scoring.passes:
            made = self._sample(z_0, chosen or start or 0, seeds + numbers, origins)
            for number in range(count):
                samples.append(Sample(*(None if values is None else values[number::count] for values in made)))
        return self._combine(x_0, samples, scales)

    @torch.inference_mode()
    def _combine(self, x_0: Tensor, samples: Sequence[Sample], scales: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps [B, 1 or number of errors, S, S] and reconstructions [B, C, S, S] of frames from their samples, scale after scale."""
        scoring, codec = self._scoring, self._parts.codec
        with record_function("diffnoise.tail"):
            count = scoring.samples
            passes = [samples[first : first + count] for first in range(0, len(samples), count)]
            means = [sum(sample.reconstruction for sample in each) / count for each in passes]
            reconstruction = codec.decode(torch.stack(means).mean(0))
            if scoring.map == "kl":
                target, compared = None, [sum(sample.divergence for sample in each) / count for each in passes]
            else:
                target, compared = samples[0].z_0, means
            absolute = scoring.map == "absolute"
            if scales is not None and scoring.features == "none" and codec.factor == 1:
                return ops.anomaly_map(torch.cat(compared, 1), self._taps, target, scales, absolute), reconstruction
            errors = [ops.anomaly_map(image, self._itself, target, absolute=absolute) for image in compared]
            if codec.factor > 1:
                errors = [_resized(error, x_0) for error in errors]
            if scoring.features != "none":
                errors += self._feature_errors(x_0, passes, means)
            maps = torch.cat(errors, 1)
            return maps if scales is None else ops.anomaly_map(maps, self._taps, scales=scales), reconstruction

    def _feature_errors(self, x_0: Tensor, passes: list[Sequence[Sample]], means: list[Tensor]) -> list[Tensor]:
        """For every way out and back how far its features are from the frame's, [B, 1, S, S]."""
        backbone = self._parts.backbone
        assert backbone is not None
        own, size = backbone(x_0), tuple(x_0.shape[-2:])
        if self._scoring.features == "reconstruction":
            return [
                cosine_distance(own, backbone(self._parts.codec.decode(mean)), size, backbone.settings.average)
                for mean in means
            ]
        predicted = [sum(sample.features for sample in each) / len(each) for each in passes]
        return [squared_distance(head, stacked(own, head.shape[-1]), size) for head in predicted]

    @torch.inference_mode()
    def _sample(self, z_0: Tensor, start: int, seeds: Tensor, origins: Tensor) -> Sample:
        scoring = self._scoring
        origins = origins // self._parts.codec.factor
        if scoring.map == "kl":
            z_t, t = self._noised(z_0, start, seeds, origins)
            prediction, variance, features = denoise(self._denoiser, z_t, t, scoring.learned_variance)
            reconstruction = ops.reverse_step(z_t, prediction, t, self._x_0_table, clip=scoring.clip)
            divergence = ops.kl_map(z_0, z_t, prediction, t, self._way(start)[1], variance=variance, clip=scoring.clip)
            return Sample(z_0, reconstruction, divergence, features)
        target = z_0 if scoring.guidance else None
        if scoring.target == "coarser":
            target = self._denoised(z_0, scoring.starts[0], seeds, origins, None)
        return Sample(z_0, self._denoised(z_0, start, seeds, origins, target), None, None)

    def _noised(self, z_0: Tensor, start: int, seeds: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.full_like(seeds, start - 1)
        with record_function("diffnoise.noise"):
            eps = self._noise(z_0.shape, t=t, seeds=seeds, origins=origins)
            return add_noise(z_0, eps, t, self._schedule, self._scoring.omega), t

    def _denoised(self, z_0: Tensor, start: int, seeds: Tensor, origins: Tensor, target: Tensor | None) -> Tensor:
        scoring = self._scoring
        z_t, _ = self._noised(z_0, start, seeds, origins)
        timesteps, table = self._way(start)
        return reverse_process(
            self._denoiser,
            z_t,
            timesteps,
            table,
            seeds=seeds,
            origins=origins,
            noise=self._noise if scoring.reverse_noise == "same" else None,
            learned_variance=scoring.learned_variance,
            clip=scoring.clip,
            target=target,
            guidance=0.0 if target is None else scoring.guidance,
        )


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=True)


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
