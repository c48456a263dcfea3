"""A detector as a file: tensors, settings and calibration, no code."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .adaptation import Adaptation
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .codec import AutoencoderKL, Coder, Pixels
from .data import Framing
from .detector import Detector, _device
from .dynamic import StepSelector
from .execution import Execution
from .features import Backbone, Features
from .models import config_from_dict, config_of
from .noise import NOISE_VERSION, from_config
from .optional import MissingPackage
from .results import Calibration
from .schedule import Schedule
from .scoring import Scoring

FILE_NAME = "detector.safetensors"


def save(detector: Detector, folder: str | os.PathLike[str]) -> Path:
    path = Path(folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    config, codec, backbone, selector = (
        config_of(detector.model), detector.codec, detector.backbone, detector.selector
    )  # fmt: skip
    tensors = _named("model", detector.model.state_dict()) | {"betas": detector.schedule.betas}
    meta = {
        "model": None if config is None else config.to_dict(),
        "channels": detector.channels,
        "noise": detector.noise.to_config(),
        "prediction": detector.prediction,
        "framing": asdict(detector.framing),
        "scoring": asdict(detector.scoring),
        "codec": None,
        "features": None if backbone is None else asdict(backbone.settings),
        "adaptation": None if detector.adaptation is None else asdict(detector.adaptation),
        "categories": detector.categories,
        "calibrations": [[category, asdict(made)] for category, made in detector._calibrations.items()],
        "provenance": detector.provenance,
    }
    if isinstance(codec, AutoencoderKL):
        meta["codec"] = codec.config
        tensors |= _named("codec", codec.state_dict())
    elif not isinstance(codec, Pixels):
        raise CheckpointError("A detector with a codec of your own cannot be saved; save the model's weights instead.")
    if backbone is not None:
        tensors |= _named("features", backbone.state_dict())
    if selector is not None:
        tensors |= _named("selector", selector.state())
    save_checkpoint(path, "detector", tensors, meta)
    return path


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
        codec: Coder = Pixels(meta["channels"])
        if meta.get("codec") is not None:
            codec = AutoencoderKL.from_config(meta["codec"], meta["channels"])
            codec.load_state_dict(_under("codec", tensors))
        backbone = None
        if meta.get("features") is not None:
            backbone = Backbone(Features(**meta["features"]), _under("features", tensors))
        adaptation = meta.get("adaptation")
        detector = Detector(
            model if model is not None else config_from_dict(meta["model"]),
            from_config(meta["noise"]),
            Schedule(tensors["betas"]),
            framing=Framing(**meta["framing"]),
            scoring=Scoring(**meta["scoring"]),
            prediction=meta["prediction"],
            channels=meta["channels"],
            codec=codec,
            features=backbone,
            adaptation=None if adaptation is None else Adaptation(**adaptation),
            device=device,
            execution=execution,
        )
        detector.model.load_state_dict(_under("model", tensors))
        detector.categories = tuple(meta.get("categories", ()))
        if (state := _under("selector", tensors)) and detector.scoring.dynamic is not None:
            state = {name: tensor.to(detector.device) for name, tensor in state.items()}
            detector.selector = StepSelector(detector.scoring.dynamic, **state)
            detector._renew_scorer()
        if meta.get("noise_version") == NOISE_VERSION:
            detector._calibrations = _calibrations(meta)
        detector.provenance = meta["provenance"]
    except (CheckpointError, MissingPackage):
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{path} does not fit this diffnoise or this model ({reason}); restore the right file or train again."
        ) from None
    return detector


def _calibrations(meta: dict) -> dict[str | None, Calibration]:
    # Detectors of one category were once saved with a calibration alone.
    saved = meta["calibrations"] if "calibrations" in meta else [[None, meta["calibration"]]]
    made = {category: Calibration(**values) for category, values in saved if values is not None}
    return {
        category: replace(each, scales=tuple((float(offset), float(unit)) for offset, unit in each.scales))
        for category, each in made.items()
    }


def _named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def _under(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
