"""The detector: a denoiser, its noise and schedule, and what was learnt from good images."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import __version__
from .anomaly import image_score, threshold_from_good
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import Config
from .data import DataError, Framing, Placement, find_samples, read_image
from .execution import Execution
from .models import UNet, UNetConfig
from .noise import NOISE_VERSION, Noise, Simplex, from_config
from .schedule import Prediction, Schedule
from .scoring import FrameJob, FrameResult, FrameScorer, Scoring
from .training import CHECKPOINT_NAME, Trainer, Training

FILE_NAME = "detector.safetensors"
Images = Tensor | np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class PredictionBatch(NamedTuple):
    """Results for B images of one size, with anomalib's names first."""

    pred_score: Tensor  # float32 [B]
    pred_label: Tensor  # bool [B]
    anomaly_map: Tensor  # float32 [B, 1, H, W]
    pred_mask: Tensor  # bool [B, 1, H, W]
    reconstruction: Tensor  # float32 [B, C, H, W] in [-1, 1]


@dataclass(frozen=True)
class ImageResult:
    """The result for one image file; either `error` says why there is none, or all the rest is there."""

    path: Path
    error: str = ""
    pred_score: float | None = None
    pred_label: int | None = None
    image: Tensor | None = None  # [C, H, W] in [-1, 1]
    anomaly_map: Tensor | None = None  # [1, H, W]
    pred_mask: Tensor | None = None  # bool [1, H, W]
    reconstruction: Tensor | None = None  # [C, H, W]


@dataclass(frozen=True)
class Calibration:
    """What good images that were kept out of the training say about the maps.

    scales: mean and standard deviation of the map's pixels for each noise scale; maps are reported in these units. image_threshold:
    the conformal threshold of the image score; pixel_threshold: the same for the largest pixel, so that a good image has any pixel
    above it only as often. high: end of the colour scale. good_images: how many there were.
    """

    scales: tuple[tuple[float, float], ...]
    image_threshold: float
    pixel_threshold: float
    high: float
    good_images: int


class Detector:
    """Scores images by how far a denoiser that has seen only good images moves them.

    model: a `UNetConfig`, or any module that maps (x_t, t) to a tensor or to an object with `.sample` (give `channels`, its number
    of image channels, unless its config tells). execution: how it runs, alone or in batches and in which precision. Everything else has
    defaults that train in minutes on a CPU.

    `fit` trains and calibrates, `predict` scores, `save` and `diffnoise.load` keep and restore.
    """

    def __init__(
        self,
        model: nn.Module | UNetConfig | None = None,
        noise: Noise | None = None,
        schedule: Schedule | None = None,
        *,
        framing: Framing | None = None,
        scoring: Scoring | None = None,
        prediction: Prediction = "epsilon",
        channels: int | None = None,
        device: str | torch.device | None = None,
        execution: Execution | None = None,
    ) -> None:
        self.device = _device(device)
        model = UNetConfig() if model is None else model
        self.model: nn.Module = UNet(model) if isinstance(model, UNetConfig) else model
        # The layout decides the kernels and so the last bits: the same one before and after training, saving and loading.
        self.model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.noise = noise or Simplex()
        self.schedule = schedule or Schedule.linear(1e-4, 1e-2)
        self.framing = framing or Framing(128)
        self.prediction = prediction
        self.channels = channels or _image_channels(self.model)
        self.calibration: Calibration | None = None
        self.provenance: dict[str, Any] = {}
        self._execution = execution or Execution()
        self.scoring = scoring or Scoring()
        multiple = self.model.config.size_multiple if isinstance(self.model, UNet) else 1
        if self.framing.size % multiple:
            raise ValueError(
                f"The frame size must be a multiple of {multiple} for this model, but is {self.framing.size}."
            )

    @property
    def scoring(self) -> Scoring:
        """How images are scored. Setting it drops the calibration, which belongs to the old way."""
        return self._scoring

    @scoring.setter
    def scoring(self, scoring: Scoring) -> None:
        t_max = self.provenance.get("training", {}).get("t_max")
        if t_max is not None and max(scoring.starts) > t_max:
            raise ValueError(
                f"This detector was trained for noise scales up to {t_max}, so starts {scoring.starts} is out of its reach."
            )
        if scoring.learned_variance and isinstance(self.model, UNet) and not self.model.config.learn_variance:
            raise ValueError('The variance "learned_range" needs a model with learn_variance=True.')
        self._scorer = self._new_scorer(scoring, self._execution)
        self._scoring = scoring
        self.calibration = None

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
        return FrameScorer(self.model, self.noise, self.schedule, self.prediction, scoring, self.device, execution)

    @staticmethod
    def from_config(config: Config, device: str | torch.device | None = None) -> Detector:
        """A new detector with the configuration's model, its weights drawn from the training's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            model = UNet(config.model)
        return Detector(
            model,
            config.noise,
            config.schedule,
            framing=config.framing,
            scoring=config.scoring,
            prediction=config.prediction,
            device=device,
        )

    @staticmethod
    def from_preset(name: str, device: str | torch.device | None = None) -> Detector:
        """A new detector with the settings of `diffnoise.methods.PRESETS[name]`; raises `ValueError` for an unknown name."""
        from .methods import preset

        return Detector.from_config(preset(name), device)

    # Training

    def fit(
        self,
        data: str | os.PathLike[str] | Tensor,
        training: Training | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Detector:
        """Train on good images, then calibrate on those kept out.

        data: a category folder in MVTec layout, a plain folder of good images, a CSV manifest, or images as in `predict`. training:
        by default 15 minutes. folder: where the checkpoint, the log and the finished detector go; `resume` continues from there.
        Raises `DataError` for unusable data, `CheckpointError` if a checkpoint does not fit, `RuntimeError` if the loss diverges.
        """
        training = training or Training(max_minutes=15)
        if training.t_max is None:
            training = replace(training, t_max=max(self.scoring.starts))
        folder = Path(folder) if folder is not None else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if not resume and (folder / CHECKPOINT_NAME).exists():
                raise CheckpointError(
                    f"{folder} already holds a training; resume it (--resume), or train into another folder."
                )
        images = self._good_images(data)
        generator = torch.Generator().manual_seed(training.seed)
        order = torch.randperm(len(images), generator=generator).tolist()
        kept_out = max(1, round(training.calibration_share * len(images)))
        if len(images) - kept_out < 1:
            raise DataError(
                f"Training needs at least 2 good images, one of them for the threshold, but there is only {len(images)}."
            )
        learn = [images[i] for i in order[kept_out:]]
        trainer = Trainer(
            self.model,
            self.noise,
            self.schedule,
            self.prediction,
            training,
            self._frames(learn),
            self.framing.size,
            folder,
            self.device,
        )
        if resume and trainer.checkpoint_path is not None and trainer.checkpoint_path.exists():
            trainer.resume()
        trainer.run(progress)
        self.model.load_state_dict(trainer.ema.module.state_dict())
        self.model.eval()
        self.provenance = {
            "training": training.to_dict(),
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "train_images": len(learn),
            "versions": {
                "diffnoise": __version__,
                "noise": NOISE_VERSION,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        self.calibrate([images[i] for i in order[:kept_out]])
        if folder is not None:
            self.save(folder)
        return self

    def calibrate(self, good: Sequence[Tensor]) -> None:
        """Set map units and thresholds from good images [C, H, W] in [-1, 1] that the model was not trained on."""
        if len(good) == 0:
            raise DataError("Thresholds need good images, but there are none.")
        self.calibration = None
        raw = []
        for _, placement, errors, reconstruction in self._run((None, image) for image in good):
            if not _finite(errors, reconstruction):
                raise ValueError(f"There are no thresholds: {_NOT_FINITE}")
            raw.append((errors, placement))

        def maps_of(chosen: slice, scales: Tensor | None = None) -> list[Tensor]:
            return [self.framing.merge(self._scorer.filtered(e[:, chosen], scales), placement) for e, placement in raw]

        constants = []
        for scale in range(len(self.scoring.starts)):
            pixels = np.concatenate([m.numpy().ravel() for m in maps_of(slice(scale, scale + 1))]).astype(np.float64)
            constants.append((float(pixels.mean()), max(float(pixels.std()), 1e-12)))
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

    def _good_images(self, data: str | os.PathLike[str] | Tensor) -> list[Tensor]:
        if isinstance(data, (str, os.PathLike)):
            return [read_image(sample.path, self.channels) for sample in find_samples(data, "train")]
        return list(_to_images(data, self.channels))

    def _frames(self, images: Sequence[Tensor]) -> Tensor | list[Tensor]:
        if self.framing.mode != "tile":
            return torch.cat([self.framing.split(image)[0] for image in images])
        frames: list[Tensor] = []
        for image in images:
            large = min(image.shape[1:]) >= self.framing.size
            frames += [image] if large else list(self.framing.split(image)[0])
        return frames

    # Scoring

    def predict(self, images: Images) -> PredictionBatch:
        """Score images of one size.

        images: a tensor [B, C, H, W] or [C, H, W], or an array [B, H, W, C], [H, W, C] or [H, W]; uint8, uint16, or floating in [0, 1]; or the path
        of an image file, or several. Raises `DataError` for unusable images, `ValueError` where the model's output is not finite.
        For files of different sizes, or where one bad file must not stop the run, use `predict_files`.
        """
        calibration = self._calibrated()
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if isinstance(images, (Tensor, np.ndarray)):
            loaded = _to_images(images, self.channels)
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
        results = self._run(((None, image) for image in loaded), calibration)
        for i, (_, placement, frames, reconstruction) in enumerate(results):
            maps[i], reconstructions[i] = self.framing.merge(frames, placement), reconstruction
            if not _finite(maps[i], reconstruction):
                raise ValueError(f"Image {i}: {_NOT_FINITE}")
        scores = torch.tensor([self._image_score(m) for m in maps])
        return PredictionBatch(
            scores, scores > calibration.image_threshold, maps, maps > calibration.pixel_threshold, reconstructions
        )

    def predict_files(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[ImageResult]:
        """Score image files of any sizes, one result each in the given order; a file that fails gives a result with `error` set."""
        calibration = self._calibrated()

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
            yield ImageResult(
                path, "", score, label, image, anomaly_map, anomaly_map > calibration.pixel_threshold, reconstruction
            )

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

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise RuntimeError(
                "The detector has no thresholds yet: call fit, or calibrate with good images after changing the scoring."
            )
        return self.calibration

    # Keeping

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `detector.safetensors` into the folder, atomically: weights, settings and calibration in one file, no code."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {
            "model": self.model.config.to_dict() if isinstance(self.model, UNet) else None,
            "channels": self.channels,
            "noise": self.noise.to_config(),
            "prediction": self.prediction,
            "framing": asdict(self.framing),
            "scoring": asdict(self.scoring),
            "calibration": asdict(self.calibration) if self.calibration else None,
            "provenance": self.provenance,
        }
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        save_checkpoint(path, "detector", tensors | {"betas": self.schedule.betas}, meta)
        return path


_NOT_FINITE = "the model's output is not finite, so there is no score; train again with a lower learning rate or use another checkpoint."


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    device: str | torch.device | None = None,
    *,
    execution: Execution | None = None,
    any_noise_version: bool = False,
) -> Detector:
    """The detector that `Detector.save` wrote into a folder (or file).

    model: the module itself, if the detector was made with one of your own. execution: how it runs. any_noise_version: take a detector of another noise
    version, too, but without its thresholds, which hold for that noise: `calibrate` it before it scores. Raises `CheckpointError` if
    the file is missing, broken, of another version or shape.
    """
    path, device = Path(path), _device(device)
    path = path / FILE_NAME if path.is_dir() else path
    tensors, meta = load_checkpoint(path, "detector", any_noise_version)
    try:
        if model is None and meta["model"] is None:
            raise CheckpointError(f"{path} was made with a model of your own; pass it as model=.")
        detector = Detector(
            model if model is not None else UNetConfig(**meta["model"]),
            from_config(meta["noise"]),
            Schedule(tensors.pop("betas")),
            framing=Framing(**meta["framing"]),
            scoring=Scoring(**meta["scoring"]),
            prediction=meta["prediction"],
            channels=meta["channels"],
            device=device,
            execution=execution,
        )
        detector.model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
        if meta["calibration"] is not None and meta.get("noise_version") == NOISE_VERSION:
            calibration = Calibration(**meta["calibration"])
            detector.calibration = replace(
                calibration, scales=tuple((float(m), float(d)) for m, d in calibration.scales)
            )
        detector.provenance = meta["provenance"]
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not fit this diffnoise or this model ({reason}); restore the right file or train again."
        ) from None
    return detector


def _device(device: str | torch.device | None) -> torch.device:
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device, or this torch was built without CUDA; use the device cpu.")
    return device


def _image_channels(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    for name in ("image_channels", "in_channels"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise ValueError("The model does not tell its number of image channels; pass it as channels=.")


def _finite(*tensors: Tensor) -> bool:
    """Clipping hides an infinite output from a KL map, but not from the reconstruction."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _to_images(images: Tensor | np.ndarray, channels: int) -> Tensor:
    """float32 [B, C, H, W] in [-1, 1] from an image tensor or array of any accepted form."""
    if isinstance(images, np.ndarray):
        array = images[..., None] if images.ndim == 2 else images
        if array.ndim not in (3, 4):
            raise DataError(f"An array must have shape [H, W], [H, W, C] or [B, H, W, C], not {list(images.shape)}.")
        images = torch.from_numpy(np.moveaxis(array, -1, -3).copy())
    images = images.unsqueeze(0) if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] != channels:
        raise DataError(
            f"Images must have shape [B, {channels}, H, W] or [{channels}, H, W], not {list(images.shape)}."
        )
    if images.dtype in (torch.uint8, torch.uint16):
        return (
            images.float() / torch.iinfo(images.dtype).max * 2 - 1
        )  # the same operations as for files and floats: the same bits
    if not images.dtype.is_floating_point:
        raise DataError(f"Images must be uint8, uint16 or floating, not {images.dtype}.")
    if images.numel() and not bool(torch.isfinite(images).all()):
        raise DataError("An image holds NaN or infinity; mend or leave it out.")
    if images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise DataError(
            "Floating images must lie in [0, 1]; divide by their largest possible value first. What read_image returns lies in [-1, 1]: "
            "give the file's path instead, or (image + 1) / 2."
        )
    return images.float() * 2 - 1
