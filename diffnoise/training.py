"""Training a denoiser on good images. Every random number is a function of (seed, step), so a resumed run continues exactly."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from .batches import Frames, check_labels, digest, random_crops, step_indices, with_null_class
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_atomically
from .data import Augment
from .forward import add_noise
from .models import Denoised, config_of, denoise
from .noise import Noise
from .objectives import Objective, feature_error, terms_of
from .schedule import Prediction, Schedule

RateSchedule = Literal["cosine", "linear", "step", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
CHECKPOINT_NAME = "checkpoint.safetensors"
LOG_STEPS = 20
NORM_BATCHES = 32  # that the averaged network's batch norms take their statistics from
LOG_COLUMNS = ("step", "loss", "gradient_norm", "learning_rate", "images_per_second", "seconds")


@dataclass(frozen=True)
class Training:
    """How a denoiser is trained.

    max_steps, max_minutes: whichever comes first ends the training; at least one must be given. t_max: steps t are drawn below it; None
    takes the largest noise scale of the scoring, above which partial diffusion never goes. loss: a sum of terms such as "l2", "l1+vlb" or
    "l2+vlb+ms_ssim", see `Objective`; vlb_weight: factor of the bound in bits per dimension. The learning rate warms up over `warmup` steps; from its
    start it falls to zero along a cosine or a line, or, after the share `decay_at` of the training, to a tenth in one step, or is constant.
    label_dropout: probability that a frame's class is withheld, where there are classes. precision: "auto" takes bfloat16 where the device has it
    in hardware. calibration_share: share of the good images that is kept out of the training for thresholds and scales. save_seconds: a checkpoint
    is written this often.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 100
    learning_rate_schedule: RateSchedule = "cosine"
    decay_at: float = 0.75
    gradient_clip: float = 1.0
    ema_decay: float = 0.9999
    loss: str = "l2"
    # 1e-3 on the bound's sum over 1000 steps (Nichol and Dhariwal 2021) is 1 on one step of it, which all the others write.
    vlb_weight: float = 1.0
    label_dropout: float = 0.1
    t_max: int | None = None
    augment: Augment = Augment()
    precision: Precision = "auto"
    calibration_share: float = 0.15
    save_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("Give max_steps or max_minutes; one of them has to end the training.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, not {self.max_steps}.")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be positive, not {self.max_minutes}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}.")
        if self.t_max is not None and self.t_max < 1:
            raise ValueError(f"t_max must be at least 1, not {self.t_max}.")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("weight_decay", "warmup", "vlb_weight", "save_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        for name in ("ema_decay", "decay_at", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}.")
        terms_of(self.loss)
        for name, choices in (("learning_rate_schedule", RateSchedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, not {self.seed}.")
        if not 0 < self.calibration_share < 1:
            raise ValueError(f"calibration_share must lie between 0 and 1, not {self.calibration_share}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


class _Example(NamedTuple):
    images: Tensor  # augmented frames [B, C, S, S]
    x_0: Tensor  # the same, or their latents
    x_t: Tensor
    eps: Tensor
    t: Tensor  # [B]
    class_labels: Tensor | None  # [B]


class Trainer:
    """Trains `model` in place on good frames and keeps an exponential moving average of its weights.

    frames: float32 [N, C, S, S] in [-1, 1], or a list of larger images [C, H, W], H and W at least S, from which a random S x S crop is
    taken each time. folder: where `checkpoint.safetensors` and `train.csv` go. labels: int64 [N], the class of each frame, for a model with
    num_classes; without them it learns the null class. encode: maps the augmented frames [B, C, S, S] to the latents [B, c, s, s] that the
    model is trained on. targets: maps them to the features [B, F, h, w] that the model's feature head is taught, by their mean squared difference,
    added to the loss. Neither gets a gradient. surroundings: what else must be the same for a training to continue, such as what
    `encode` and `targets` are made of; as JSON has it.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: Noise,
        schedule: Schedule,
        prediction: Prediction,
        training: Training,
        frames: Frames,
        size: int,
        folder: Path | None,
        device: torch.device,
        *,
        labels: Tensor | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        targets: Callable[[Tensor], Tensor] | None = None,
        surroundings: dict[str, Any] | None = None,
    ) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.training, self.noise, self.schedule, self.prediction = training, noise, schedule, prediction
        self._frames, self._size, self._folder, self._device = frames, size, folder, device
        self._encode, self._targets, self._surroundings = encode, targets, surroundings
        self._t_max = min(training.t_max or schedule.steps, schedule.steps)
        self._objective = Objective(
            training.loss, schedule, prediction, training.vlb_weight, pixels=encode is None, device=device
        )
        self._optimizer = torch.optim.AdamW(
            model.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.ema = AveragedModel(model, multi_avg_fn=_warming_average(training.ema_decay))
        use_bf16 = training.precision == "bf16" or (training.precision == "auto" and has_bf16(device))
        self._precision = torch.autocast(device.type, torch.bfloat16) if use_bf16 else nullcontext()
        config = getattr(model, "config", None)
        self._learned_variance: bool = getattr(config, "learn_variance", False)
        self._labels = labels
        if labels is not None:
            self._null_class = getattr(config, "num_classes", None)
            check_labels(labels, len(frames), self._null_class)
        self.step, self.seconds = 0, 0.0

    @property
    def checkpoint_path(self) -> Path | None:
        return self._folder and self._folder / CHECKPOINT_NAME

    def run(self, progress: bool = False) -> None:
        """Train until the limit; writes checkpoints and the log meanwhile. Raises `RuntimeError` if the loss is not finite."""
        if self.step == 0 and self._log_path is not None:
            self._log_path.unlink(missing_ok=True)
        started = time.monotonic() - self.seconds
        saved = logged = time.monotonic()
        losses: list[float] = []
        devices = [self._device] if self._device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            tqdm(
                total=self.training.max_steps,
                initial=self.step,
                desc="train",
                unit="step",
                disable=not progress,
                dynamic_ncols=True,
            ) as bar,
        ):
            while self.progress < 1:
                loss, gradient_norm, rate = self._one_step()
                losses.append(loss)
                self.step += 1
                now = time.monotonic()
                self.seconds = now - started
                bar.update()
                if self.step % LOG_STEPS == 0 or self.progress >= 1:
                    mean_loss = sum(losses) / len(losses)
                    images_per_second = self.training.batch_size * len(losses) / (now - logged)
                    bar.set_postfix(
                        loss=f"{mean_loss:.4f}",
                        images=f"{images_per_second:.1f}/s",
                        done=f"{min(1, self.progress):.0%}",
                    )
                    self._log(mean_loss, gradient_norm, rate, images_per_second)
                    losses, logged = [], now
                if now - saved > self.training.save_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()

    @property
    def progress(self) -> float:
        """Share of the training that is done, by steps or by time, whichever is further; 1 and more: finished."""
        training = self.training
        by_steps = self.step / training.max_steps if training.max_steps is not None else 0.0
        by_time = self.seconds / (60 * training.max_minutes) if training.max_minutes is not None else 0.0
        return max(by_steps, by_time)

    def _learning_rate(self) -> float:
        training, progress = self.training, min(1.0, self.progress)
        decay = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "step": 1.0 if progress < training.decay_at else 0.1,
            "constant": 1.0,
        }[training.learning_rate_schedule]
        return training.learning_rate * decay * min(1.0, (self.step + 1) / max(1, training.warmup))

    def _example(self, step: int) -> _Example:
        """What the network sees at this step."""
        training = self.training
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        torch.manual_seed(generator.initial_seed())  # for dropout
        index = step_indices(len(self._frames), training.batch_size, training.seed, step)
        images = random_crops(self._frames, index, self._size, generator)
        images = training.augment(images, generator).to(self._device)
        with torch.no_grad():
            x_0 = images if self._encode is None else self._encode(images).float()
        t = torch.randint(0, self._t_max, (len(x_0),), generator=generator).to(self._device)
        seeds = torch.randint(-(2**62), 2**62, (len(x_0),), generator=generator).to(self._device)
        class_labels = None
        if self._labels is not None:
            labels = with_null_class(self._labels[index], self._null_class, training.label_dropout, generator)
            class_labels = labels.to(self._device)
        eps = self.noise(x_0.shape, t=t, seeds=seeds)
        x_t = add_noise(x_0, eps, t, self.schedule).contiguous(memory_format=torch.channels_last)
        return _Example(images, x_0, x_t, eps, t, class_labels)

    def _one_step(self) -> tuple[float, float, float]:
        training = self.training
        images, x_0, x_t, eps, t, class_labels = self._example(self.step)
        with self._precision:
            denoised = denoise(self.model, x_t, t, self._learned_variance, class_labels)
        denoised = Denoised(*(value if value is None else value.float() for value in denoised))
        loss = self._objective(denoised, x_0, x_t, eps, t) + self._feature_error(denoised.features, images)
        rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
        if not bool(torch.isfinite(loss) & torch.isfinite(gradient_norm)):
            raise RuntimeError(
                f"The loss is {loss.item()} and the norm of its gradient {gradient_norm.item()} at step {self.step}; lower learning_rate or "
                "use precision fp32. The last checkpoint is from before."
            )
        self._optimizer.step()
        self.ema.update_parameters(self.model)
        return loss.item(), float(gradient_norm), rate

    def averaged(self) -> nn.Module:
        """The network with the averaged weights, for evaluation.

        Batch norms that carry statistics of single steps' weights get those of the averaged ones, over batches of the training.
        """
        network = self.ema.module.eval()
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return network
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad(), self._precision:
            for step in range(NORM_BATCHES):
                example = self._example(step)
                denoise(network, example.x_t, example.t, self._learned_variance, example.class_labels)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return network.eval()

    def _feature_error(self, features: Tensor | None, images: Tensor) -> Tensor | float:
        if features is None and self._targets is None:
            return 0.0
        if features is None:
            raise ValueError("targets are for a model with a feature head, which this one lacks; leave targets out.")
        if self._targets is None:
            raise ValueError(
                "This model has a feature head; give targets, the features of clean images that it is taught."
            )
        with torch.no_grad():
            target = self._targets(images).float()
        return feature_error(features, target)

    def save(self) -> None:
        """Write the whole state of the training, atomically."""
        if self.checkpoint_path is None:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        meta = {"step": self.step, "seconds": self.seconds, "settings": self._settings()}
        save_checkpoint(
            self.checkpoint_path, "training", {name: value.clone() for name, value in tensors.items()}, meta
        )

    def resume(self) -> None:
        """Continue from the checkpoint in the folder, exactly; raises `CheckpointError` if it does not fit the settings."""
        assert self.checkpoint_path is not None
        tensors, meta = load_checkpoint(self.checkpoint_path, "training")
        now, before = json.loads(json.dumps(self._settings())), meta.get("settings", {})  # tuples are lists in JSON
        # A limit may be raised; anything else would make it another training.
        limits = ("max_steps", "max_minutes", "save_seconds")
        changed = [k for k in now if k not in limits and before.get(k) != now[k]]
        if changed:
            raise CheckpointError(
                f"{self.checkpoint_path} was trained with other settings ({', '.join(changed)}); "
                "resume with the same ones, or train into another folder."
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        try:
            self.model.load_state_dict(parts["model"])
            self.ema.load_state_dict(parts["ema"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.checkpoint_path} holds a model of another shape ({str(error).splitlines()[-1].strip()}); "
                "resume with the same model settings, or train into another folder."
            ) from None
        weights = self._optimizer.param_groups[0]["params"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            # The fused step walks through memory: the moments need the strides of their weight.
            same_strides = value if key == "step" else torch.empty_like(weights[int(index)]).copy_(value)
            state.setdefault(int(index), {})[key] = same_strides
        self._optimizer.load_state_dict({"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]})
        self.step, self.seconds = meta["step"], meta["seconds"]
        if self._log_path is not None and self._log_path.exists():
            rows = self._log_path.read_bytes().splitlines(keepends=True)
            kept = [row for row in rows if not (step := row.partition(b",")[0]).isdigit() or int(step) <= self.step]
            write_atomically(self._log_path, b"".join(kept))

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a training to continue."""
        return self.training.to_dict() | {
            "noise": self.noise.to_config(),
            "schedule": hashlib.sha256(self.schedule.betas.numpy().tobytes()).hexdigest(),
            "prediction": self.prediction,
            "frame size": self._size,
            "images": digest(self._frames),
            "model": None if (config := config_of(self.model)) is None else config.to_dict(),
            "labels": None if self._labels is None else digest(self._labels),
            "latents": self._encode is not None,
            "features": self._targets is not None,
            "surroundings": self._surroundings,
        }

    @property
    def _log_path(self) -> Path | None:
        return self._folder and self._folder / "train.csv"

    def _log(self, loss: float, gradient_norm: float, rate: float, images_per_second: float) -> None:
        if self._log_path is None:
            return
        with self._log_path.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(LOG_COLUMNS)
            writer.writerow(
                [
                    self.step,
                    f"{loss:.6g}",
                    f"{gradient_norm:.4g}",
                    f"{rate:.4g}",
                    f"{images_per_second:.2f}",
                    f"{self.seconds:.2f}",
                ]
            )


def _warming_average(decay: float) -> Any:
    """An EMA whose decay rises to its final value, min(decay, (1 + n) / (10 + n)), so that short trainings are averaged well."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average
