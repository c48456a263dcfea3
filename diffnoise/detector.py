"""The detector: a denoiser, its noise and schedule, and what was learnt from good images."""

from __future__ import annotations

import copy
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import __version__
from .adaptation import Adaptation, adapt
from .anomaly import image_score, threshold_from_good
from .batches import digest
from .checkpoint import CheckpointError
from .codec import Codec, Coder, Pixels
from .config import Config
from .data import DataError, Framing, Placement, find_samples, read_image, to_images
from .dynamic import StepSelector
from .execution import Execution
from .features import Backbone, Features, stacked
from .frame_scorer import FrameJob, FrameResult, FrameScorer, Parts
from .metrics import otsu_threshold
from .models import ModelConfig, Networks, UNetConfig, build, config_of
from .noise import NOISE_VERSION, Noise, Simplex
from .results import Calibration, ImageResult, PredictionBatch
from .schedule import Prediction, Schedule
from .scoring import Normalization, Scoring
from .training import CHECKPOINT_NAME, Trainer, Training

Source = str | os.PathLike[str] | Tensor
Images = Tensor | np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Detector:
    """Scores images by how far a denoiser that has seen only good images moves them.

    model: a configuration such as `UNetConfig`, or any module that maps (x_t, t) to a tensor or to an object with `.sample` (give `channels`, its number
    of image channels, unless its config tells). codec: where diffusion takes place, the pixels by default; the model then denoises its latents, of
    images with `channels` channels (default 3). features: the extractor for scorings that compare features or choose T' by them; adaptation: how
    `fit` adapts it. training: how `fit` trains unless told otherwise. execution: how it runs, alone or in batches and in which precision. Everything else has
    defaults that train in minutes on a CPU.

    `fit` trains and calibrates, `predict` scores, `save` and `diffnoise.load` keep and restore.
    """

    def __init__(
        self,
        model: nn.Module | ModelConfig | None = None,
        noise: Noise | None = None,
        schedule: Schedule | None = None,
        *,
        framing: Framing | None = None,
        scoring: Scoring | None = None,
        prediction: Prediction = "epsilon",
        channels: int | None = None,
        codec: Codec | Coder | None = None,
        features: Features | Backbone | None = None,
        adaptation: Adaptation | None = None,
        training: Training | None = None,
        device: str | torch.device | None = None,
        execution: Execution | None = None,
    ) -> None:
        self.device = _device(device)
        self.training = training or Training(max_minutes=15)
        model = UNetConfig() if model is None else model
        self.model: nn.Module = build(model) if isinstance(model, ModelConfig) else model
        # The layout decides the kernels and so the last bits: the same one before and after training, saving and loading.
        self.model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.noise = noise or Simplex()
        self.schedule = schedule or Schedule.linear(1e-4, 1e-2)
        self.framing = framing or Framing(128)
        self.prediction = prediction
        self.channels, self.codec = _codec(codec or Codec(), self.model, channels)
        self.backbone = Backbone(features) if isinstance(features, Features) else features
        self.adaptation = adaptation
        self.selector: StepSelector | None = None
        self.categories: tuple[str, ...] = ()
        self.category: str | None = None
        self._calibrations: dict[str | None, Calibration] = {}
        self.provenance: dict[str, Any] = {}
        for part in (self.codec, self.backbone):
            if isinstance(part, nn.Module):
                part.to(self.device)
        self._networks = Networks(self.model, self.schedule.steps)
        self._execution = execution or Execution()
        self.scoring = scoring or Scoring(clip=1.0 if isinstance(self.codec, Pixels) else None)
        self._check_features()
        if (config := config_of(self.model)) is not None:
            self._check(config)

    def _check_features(self) -> None:
        """Whether the extractor has what will be asked of it after the training."""
        if self.adaptation is not None and self.backbone is None:
            raise ValueError("adaptation adapts a feature extractor; give the detector features.")
        deepest = self.backbone.settings.layers[-1] if self.backbone is not None else 0
        for name, settings in (("adaptation", self.adaptation), ("dynamic", self.scoring.dynamic)):
            if settings is not None and max(settings.layers) > deepest:
                raise ValueError(
                    f"The layers {settings.layers} of {name} reach beyond the extractor's {deepest}; put layer {max(settings.layers)} "
                    "into those of features, or take fewer."
                )

    def _check(self, config: ModelConfig) -> None:
        """Whether the network fits what stands around it."""
        size, factor = self.framing.size, self.codec.factor
        multiple = factor * config.size_multiple
        if size % multiple:
            raise ValueError(f"The frame size must be a multiple of {multiple} for this model, but is {size}.")
        config.check_size(size // factor, size // factor)
        wanted = getattr(config, "feature_channels", None)
        if wanted is not None and (self.backbone is None or sum(self.backbone.channels) != wanted):
            raise ValueError(
                f"The model's feature head predicts {wanted} channels; give the detector features of so many in all, "
                f"not {'none' if self.backbone is None else sum(self.backbone.channels)}."
            )

    @property
    def scoring(self) -> Scoring:
        """How images are scored. Setting it drops the calibration, which belongs to the old way."""
        return self._scoring

    @scoring.setter
    def scoring(self, scoring: Scoring) -> None:
        t_max = self.provenance.get("training", {}).get("t_max")
        if t_max is not None and max(scoring.scales) > t_max:
            raise ValueError(
                f"This detector was trained for noise scales up to {t_max}, so starts {scoring.scales} is out of its reach."
            )
        if scoring.dynamic and self.selector and scoring.dynamic != self.selector.settings:
            raise ValueError(
                "The settings of dynamic belong to what was learnt from good images: fit again with these."
            )
        config = config_of(self.model)
        if scoring.features == "head" and config is not None and getattr(config, "feature_channels", None) is None:
            raise ValueError(
                'The features of the model\'s "head" need a UNet with feature_channels, as many as the features have in all.'
            )
        if scoring.class_guidance and config is not None and config.num_classes is None:
            raise ValueError("class_guidance needs a model with num_classes, trained on several categories.")
        if scoring.clip is not None and not isinstance(self.codec, Pixels):
            raise ValueError("Latents have no limits that predictions could be cut to: set the scoring's clip to None.")
        if scoring.learned_variance and config is not None and not config.learn_variance:
            raise ValueError('The variance "learned_range" needs a model with learn_variance=True.')
        self._scorer = self._new_scorer(scoring, self._execution)
        self._scoring = scoring
        self._calibrations = {}

    @property
    def execution(self) -> Execution:
        """How frames run through the network. Setting it keeps the calibration, since scores change by rounding only."""
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        if not isinstance(execution, Execution):
            raise ValueError(f'execution must be an Execution, such as dn.Execution("bfloat16"), not {execution!r}.')
        self._scorer = self._new_scorer(self._scoring, execution)
        self._execution = execution

    def _new_scorer(self, scoring: Scoring, execution: Execution) -> FrameScorer:
        label = None if self.category is None else self.categories.index(self.category)
        parts = Parts(self.codec, self.backbone, self.selector, label)
        return FrameScorer(
            self._networks, self.noise, self.schedule, self.prediction, scoring, self.device, execution, parts
        )

    def _renew_scorer(self) -> None:
        self._scorer = self._new_scorer(self._scoring, self._execution)

    @property
    def calibration(self) -> Calibration | None:
        """What was learnt from good images, of the category at hand where there are several; None before."""
        return self._calibrations.get(self.category)

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        self._calibrations.pop(self.category, None)
        if calibration is not None:
            self._calibrations[self.category] = calibration

    @property
    def guidance_weights(self) -> dict[int, float]:
        """For every noise scale T' the share of the target in the first predicted x_0; see `Scoring.guidance_weights`."""
        return self.scoring.guidance_weights(self.schedule)

    def of(self, category: str) -> Detector:
        """This detector for images of one of its `categories`, with the class label and the thresholds of that one; the model is shared."""
        if category not in self.categories:
            known = ", ".join(self.categories) or "none: it was trained on one"
            raise ValueError(f"This detector does not know the category {category!r}; its categories are {known}.")
        detector = copy.copy(self)
        detector.category = category
        detector._renew_scorer()
        return detector

    @staticmethod
    def from_config(config: Config, device: str | torch.device | None = None, channels: int | None = None) -> Detector:
        """A new detector with the configuration's model, its weights drawn from the training's seed.

        channels: of the images, as in `Detector`; where diffusion takes place in pixels the model takes so many.
        """
        if config.codec.kind == "pixels" and channels is not None:
            config = config.updated({"model": {"image_channels": channels}})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            model = build(config.model)
        return Detector(
            model,
            config.noise,
            config.schedule,
            framing=config.framing,
            scoring=config.scoring,
            prediction=config.prediction,
            channels=channels,
            codec=config.codec,
            features=config.features,
            adaptation=config.adaptation,
            training=config.training,
            device=device,
        )

    @staticmethod
    def from_preset(name: str, device: str | torch.device | None = None, channels: int | None = None) -> Detector:
        """A new detector with the settings of `diffnoise.methods.PRESETS[name]`, its training's among them.

        channels: of the images, 1 for grey (default where diffusion takes place in pixels), 3 for colour. Raises `ValueError` for an unknown name.
        """
        from .methods import preset

        return Detector.from_config(preset(name), device, channels)

    # Training

    def fit(
        self,
        data: Source | Mapping[str, Source],
        training: Training | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Detector:
        """Train on good images, then calibrate on those kept out.

        data: a category folder or another source of `data.find_samples`, or images as in `predict`; or several of
        these by category, for a model with num_classes, which then tells them apart (see `of`). training: by default the detector's own,
        which `dataclasses.replace(detector.training, max_minutes=60)` changes. folder: where the checkpoint, the log and the finished detector go; `resume` continues from there.
        Raises `DataError` for unusable data, `CheckpointError` if a checkpoint does not fit, `RuntimeError` if the loss diverges.
        """
        if self.category is not None:
            raise ValueError(f"This is a view of one category, {self.category}; fit the detector that it came from.")
        training = training or self.training
        if training.t_max is None:
            training = replace(training, t_max=max(self.scoring.scales))
        folder = Path(folder) if folder is not None else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if not resume and (folder / CHECKPOINT_NAME).exists():
                raise CheckpointError(
                    f"{folder} already holds a training; resume it (--resume), or train into another folder."
                )
        sources: Mapping[str | None, Source] = data if isinstance(data, Mapping) else {None: data}  # type: ignore[assignment]
        categories = () if None in sources else tuple(map(str, sources))
        classes = getattr(config_of(self.model), "num_classes", None) or 0
        if len(categories) > classes:
            raise ValueError(
                f"{len(categories)} categories need a model with num_classes of at least as many, not {classes}."
            )
        if self.scoring.class_guidance and not categories:
            raise ValueError("class_guidance needs several categories to train on.")
        frames: list[Tensor] = []
        labels: list[int] = []
        learnt = 0  # images
        kept_out: dict[str | None, list[Tensor]] = {}
        for number, (category, source) in enumerate(sources.items()):
            learn, kept_out[category] = _split(self._good_images(source), training)
            learnt += len(learn)
            frames += self._frames(learn)
            labels += [number] * (len(frames) - len(labels))
        dynamic = self.scoring.dynamic
        if dynamic is not None and self.framing.mode != "tile" and len(frames) < dynamic.least_frames:
            raise DataError(
                f"{dynamic.neighbours} neighbours need at least {dynamic.least_frames} good images to learn from, not {len(frames)}; give more, "
                "or set fewer neighbours."
            )
        self.categories, self._calibrations = categories, {}
        trainer = Trainer(
            self.model,
            self.noise,
            self.schedule,
            self.prediction,
            training,
            frames,
            self.framing.size,
            folder,
            self.device,
            labels=torch.tensor(labels) if self.categories else None,
            encode=None if isinstance(self.codec, Pixels) else self.codec.encode,
            targets=self._feature_targets(),
            surroundings={"codec": _identity(self.codec), "features": _identity(self.backbone)},
        )
        if resume and trainer.checkpoint_path is not None and trainer.checkpoint_path.exists():
            trainer.resume()
        trainer.run(progress)
        self.model.load_state_dict(trainer.averaged().state_dict())
        self.model.eval()
        self.provenance = {
            "training": training.to_dict(),
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "train_images": learnt,
            "versions": {
                "diffnoise": __version__,
                "noise": NOISE_VERSION,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        self._learn_features(frames)
        for category, images in kept_out.items():
            each = self if category is None else self.of(category)
            each.calibrate(images, progress)
            self._calibrations[category] = each.calibrated()
        if folder is not None:
            self.save(folder)
        return self

    def _feature_targets(self) -> Callable[[Tensor], Tensor] | None:
        """What a model with a feature head learns of clean frames."""
        config, backbone = config_of(self.model), self.backbone
        if not isinstance(config, UNetConfig) or config.feature_channels is None or backbone is None:
            return None
        size = self.framing.size // self.codec.factor // config.feature_stride
        return lambda frames: stacked(backbone(frames), size)

    def _learn_features(self, frames: Sequence[Tensor]) -> None:
        """Adapts the extractor to the reconstructions, and keeps what the choice of T' compares with."""
        if self.backbone is None:
            return
        if any(frame.shape[-1] != self.framing.size or frame.shape[-2] != self.framing.size for frame in frames):
            frames = [part for frame in frames for part in self.framing.split(frame)[0]]
        dynamic = self.scoring.dynamic
        if self.adaptation is not None and self.adaptation.epochs:
            most = dynamic.t_max if dynamic else max(self.scoring.starts)

            def reconstruct(images: Tensor, share: float) -> Tensor:
                return self._scorer.reconstructions(images, max(1, round(share * most)), self.scoring.seed)

            self.backbone, losses = adapt(self.backbone, frames, reconstruct, self.adaptation)
            self.provenance["adaptation_losses"] = losses
        if dynamic is not None:
            with torch.inference_mode():
                parts = (torch.stack(list(frames[i : i + 16])).to(self.device) for i in range(0, len(frames), 16))
                embedded = [dynamic.embed(self.backbone, part).clone() for part in parts]
            self.selector = StepSelector.fit(dynamic, embedded)
        self._renew_scorer()

    def calibrate(self, good: Sequence[Tensor], progress: bool = False) -> None:
        """Set map units and thresholds from good images [C, H, W] in [-1, 1] that the model was not trained on."""
        if len(good) == 0:
            raise DataError("Thresholds need good images, but there are none.")
        if self.categories and self.category is None:
            raise ValueError(
                f"Thresholds belong to a category here: calibrate of(...) one of {', '.join(self.categories)}."
            )
        self.calibration = None
        found = tqdm(self.errors(good), "threshold", len(good), unit="image", disable=not progress, dynamic_ncols=True)
        raw = [(errors, placement) for errors, placement, _ in found]

        def maps_of(chosen: slice, scales: Tensor | None = None) -> list[Tensor]:
            return [self.framing.merge(self._scorer.filtered(e[:, chosen], scales), placement) for e, placement in raw]

        constants = [
            _units(np.concatenate([m.numpy().ravel() for m in maps_of(slice(i, i + 1))]), self.scoring.normalization)
            for i in range(len(self.scoring.weights))
        ]
        maps = maps_of(slice(None), torch.tensor(constants, dtype=torch.float64))
        rate = self.scoring.false_alarm_rate
        image_threshold = threshold_from_good([self._image_score(m) for m in maps], rate)
        largest = [float(m.max()) for m in maps]
        pixel_threshold = threshold_from_good(largest, rate)
        self.calibration = Calibration(tuple(constants), image_threshold, pixel_threshold, 2 * max(largest), len(good))

    def errors(self, images: Iterable[Tensor]) -> Iterator[tuple[Tensor, Placement, Tensor]]:
        """The errors of images [C, H, W] in [-1, 1] before units and filter, in order; needs no thresholds.

        Yields the errors of every frame and noise scale [frames, scales, S, S], where the frames lie, and the reconstruction [C, H, W].
        `framing.merge` joins one scale's errors to a map. Raises `ValueError` where the model's output is not finite.
        """
        for _, placement, errors, reconstruction in self._run((None, image) for image in images):
            if not _finite(errors, reconstruction):
                raise ValueError(f"There are no errors: {_NOT_FINITE}")
            yield errors, placement, reconstruction

    def _good_images(self, source: Source) -> list[Tensor]:
        if isinstance(source, (str, os.PathLike)):
            return [read_image(sample.path, self.channels) for sample in find_samples(source, "train")]
        return list(to_images(source, self.channels))

    def _frames(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Frames; of images that are cut into tiles the images themselves, from which a training cuts its own."""
        frames: list[Tensor] = []
        for image in images:
            whole = self.framing.mode == "tile" and min(image.shape[1:]) >= self.framing.size
            frames += [image] if whole else list(self.framing.split(image)[0])
        return frames

    # Scoring

    def predict(self, images: Images) -> PredictionBatch:
        """Score images of one size.

        images: a tensor [B, C, H, W] or [C, H, W], or an array [B, H, W, C], [H, W, C] or [H, W]; uint8, uint16, or floating in [0, 1]; or the path
        of an image file, or several. Raises `DataError` for unusable images, `ValueError` where the model's output is not finite.
        For files of different sizes, or where one bad file must not stop the run, use `predict_files`.
        """
        calibration = self.calibrated()
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if isinstance(images, (Tensor, np.ndarray)):
            loaded = to_images(images, self.channels)
        else:
            loaded = [read_image(path, self.channels) for path in images]
            if len({image.shape for image in loaded}) > 1:
                raise DataError(
                    "These images differ in size; score them with predict_files, which gives a result for each."
                )
        height, width = loaded[0].shape[1:] if len(loaded) else (self.framing.size, self.framing.size)
        maps, reconstructions = (
            torch.zeros(len(loaded), 1, height, width),
            torch.zeros(len(loaded), self.channels, height, width),
        )
        masks = torch.zeros_like(maps, dtype=torch.bool)
        results = self._run(((None, image) for image in loaded), calibration)
        for i, (_, placement, frames, reconstruction) in enumerate(results):
            maps[i], reconstructions[i] = self.framing.merge(frames, placement), reconstruction
            if not _finite(maps[i], reconstruction):
                raise ValueError(f"Image {i}: {_NOT_FINITE}")
            masks[i] = self._mask(maps[i])
        scores = torch.tensor([self._image_score(m) for m in maps])
        return PredictionBatch(scores, scores > calibration.image_threshold, maps, masks, reconstructions)

    def predict_files(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[ImageResult]:
        """Score image files of any sizes, one result each in the given order; a file that fails gives a result with `error` set."""
        calibration = self.calibrated()

        def load() -> Iterator[tuple[tuple[Path, Tensor | None, str], Tensor | None]]:
            for path in map(Path, paths):
                try:
                    image, error = read_image(path, self.channels), ""
                except (DataError, OSError) as problem:
                    image, error = None, str(problem)
                yield (path, image, error), image

        for (path, image, error), placement, frames, reconstruction in self._run(load(), calibration):
            if error:
                yield ImageResult(path, error)
                continue
            anomaly_map = self.framing.merge(frames, placement)
            if not _finite(anomaly_map, reconstruction):
                yield ImageResult(path, f"{path}: {_NOT_FINITE}")
                continue
            score = self._image_score(anomaly_map)
            label = int(score > calibration.image_threshold)
            yield ImageResult(path, "", score, label, image, anomaly_map, self._mask(anomaly_map), reconstruction)

    def _run(
        self, images: Iterable[tuple[Any, Tensor | None]], calibration: Calibration | None = None
    ) -> Iterator[tuple[Any, Placement, Tensor, Tensor]]:
        """(key, placement, maps of the frames [n, 1, S, S], reconstruction [C, H, W]) for each (key, image), in order.

        Without a calibration, which has the units of the noise scales, errors of every scale [n, scales, S, S] instead of maps.
        Empty tensors for no image.
        """
        units = None if calibration is None else torch.tensor(calibration.scales, dtype=torch.float64)
        waiting: deque[tuple[Any, Placement | None]] = deque()
        nothing = Placement((0, 0), (0, 0), torch.empty(0, 2)), torch.empty(0), torch.empty(0)

        def jobs() -> Iterator[FrameJob]:
            for key, image in images:
                if image is None:
                    waiting.append((key, None))
                    continue
                frames, placement = self.framing.split(image)
                waiting.append((key, placement))
                for frame, (y, x) in zip(frames, placement.origins.tolist(), strict=True):
                    yield FrameJob(frame, (y, x) if self.noise.stationary else (0, 0), self.scoring.seed)

        collected: list[FrameResult] = []
        for result in self._scorer(jobs(), units):
            while waiting[0][1] is None:
                yield waiting.popleft()[0], *nothing
            collected.append(result)
            key, placement = waiting[0]
            assert placement is not None
            if len(collected) == len(placement.origins):
                waiting.popleft()
                maps = torch.stack([frame.maps for frame in collected])
                pixels = torch.stack([frame.reconstruction for frame in collected], 1).unsqueeze(2)  # [C, n, 1, S, S]
                collected = []
                merge = self.framing.merge
                yield key, placement, maps, torch.cat([merge(channel, placement) for channel in pixels])
        for key, _ in waiting:
            yield key, *nothing

    def _image_score(self, anomaly_map: Tensor) -> float:
        return float(image_score(anomaly_map.unsqueeze(0), min(self.scoring.top_k, anomaly_map.numel())))

    def _mask(self, anomaly_map: Tensor) -> Tensor:
        mask = self.scoring.mask
        if mask == "otsu":
            return anomaly_map > otsu_threshold(anomaly_map)
        return anomaly_map > (self.calibrated().pixel_threshold if mask == "calibrated" else mask)

    def calibrated(self) -> Calibration:
        """`calibration`; raises `RuntimeError` that says what to do where there is none."""
        if self.calibration is None and self.categories and self.category is None:
            raise RuntimeError(
                f"This detector has thresholds for each category; choose one with of(...) or --category: {', '.join(self.categories)}."
            )
        if self.calibration is None:
            raise RuntimeError(
                "The detector has no thresholds yet: call fit, or calibrate with good images after changing the scoring."
            )
        return self.calibration

    # Keeping

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `detector.safetensors` into the folder, atomically: weights, settings and calibration in one file, no code."""
        from .saved import save

        return save(self, folder)


_NOT_FINITE = "the model's output is not finite, so there is no score; train again with a lower learning rate or use another checkpoint."


def _units(pixels: np.ndarray, normalization: Normalization) -> tuple[float, float]:
    """Offset and unit of one kind of error from its pixels on good images."""
    if normalization == "none":
        return 0.0, 1.0
    pixels = pixels.astype(np.float64)
    offset = pixels.mean() if normalization == "deviation" else pixels.min()
    unit = pixels.std() if normalization == "deviation" else np.ptp(pixels)
    return float(offset), max(float(unit), 1e-12)


def _identity(part: Coder | Backbone | None) -> str | None:
    """What tells codecs and extractors apart: their settings and weights."""
    if not isinstance(part, nn.Module):
        return None if part is None else type(part).__name__
    weights = digest([tensor.cpu().reshape(-1) for tensor in part.state_dict().values()])
    return f"{getattr(part, 'settings', type(part).__name__)} {weights}"


def _split(images: list[Tensor], training: Training) -> tuple[list[Tensor], list[Tensor]]:
    """Images to learn from, and those kept out for the thresholds."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(training.seed)).tolist()
    kept_out = max(1, round(training.calibration_share * len(images)))
    if len(images) - kept_out < 1:
        raise DataError(
            f"Training needs at least 2 good images, one of them for the threshold, but there is only {len(images)}."
        )
    return [images[i] for i in order[kept_out:]], [images[i] for i in order[:kept_out]]


def _device(device: str | torch.device | None) -> torch.device:
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device, or this torch was built without CUDA; use the device cpu.")
    return device


def _codec(codec: Codec | Coder, model: nn.Module, channels: int | None) -> tuple[int, Coder]:
    """The number of image channels, and the codec whose latents the model denoises."""
    denoised = _denoised_channels(model)
    if isinstance(codec, Codec):
        channels = channels or (denoised if codec.kind == "pixels" else 3)
        if channels is None:
            raise ValueError("The model does not tell its number of image channels; pass it as channels=.")
        codec = codec.build(channels)
    if denoised not in (None, codec.channels):
        raise ValueError(
            f"The model takes {denoised} channels, but there are {codec.channels} to denoise; set the model's image_channels to {codec.channels}."
        )
    return channels or 3, codec


def _denoised_channels(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    for name in ("image_channels", "in_channels"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def _finite(*tensors: Tensor) -> bool:
    """Clipping hides an infinite output from a KL map, but not from the reconstruction."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
