"""Where diffusion takes place: in the pixels themselves, or in the latents of an autoencoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError
from .optional import optional

CodecKind = Literal["pixels", "autoencoder_kl"]


class Coder(Protocol):
    """Encodes images [B, C, S, S] in [-1, 1] to latents [B, channels, S / factor, S / factor], and back."""

    channels: int
    factor: int

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Codec:
    """Which codec: kind "pixels", or "autoencoder_kl" with the `path` of a folder that diffusers' `AutoencoderKL.save_pretrained` wrote,
    or the name of a model that diffusers can fetch, such as "stabilityai/sd-vae-ft-mse"."""

    kind: CodecKind = "pixels"
    path: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(CodecKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(CodecKind))}, not {self.kind!r}.")
        if (self.path is not None) != (self.kind == "autoencoder_kl"):
            raise ValueError(
                f"path belongs to the kind autoencoder_kl and to no other, but is {self.path!r}. {_FALLBACK}"
            )

    def build(self, image_channels: int) -> Coder:
        """The codec of images with so many channels; raises `CheckpointError` if its weights cannot be had."""
        return Pixels(image_channels) if self.path is None else AutoencoderKL.load(self.path, image_channels)


class Pixels(nn.Module):
    """Latents are the images themselves."""

    factor = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class AutoencoderKL(nn.Module):
    """diffusers' autoencoder, frozen: z = (posterior mean - shift) scaling, [B, channels, S / factor, S / factor]; decoding inverts that.

    The mean is taken so that an image has one score (Tebbe & Tayyub sample z). Grey images go in as three equal channels
    and come back as the mean of three. Everything is float32; `batch` images at a time. Raises `ValueError` for sizes that the factor
    does not divide.
    """

    def __init__(self, model: Any, image_channels: int, batch: int = 8) -> None:
        super().__init__()
        config = model.config
        self.model = model.float().requires_grad_(False).eval()
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self._image_channels, self._batch = image_channels, batch
        if not (image_channels == config.in_channels or (image_channels == 1 and config.in_channels == 3)):
            raise ValueError(
                f"The autoencoder takes images with {config.in_channels} channels, not {image_channels}; give one that fits. {_FALLBACK}"
            )
        self._scaling, self._shift = config.scaling_factor, config.shift_factor or 0.0

    @property
    def config(self) -> dict[str, Any]:
        """diffusers' configuration of the autoencoder, as JSON has it."""
        return json.loads(self.model.to_json_string())

    @classmethod
    def from_config(cls, config: dict[str, Any], image_channels: int) -> AutoencoderKL:
        """An autoencoder of that `config`, its weights still to be loaded."""
        return cls(_diffusers_autoencoder().from_config(config), image_channels)

    @classmethod
    def load(cls, path: str | Path, image_channels: int) -> AutoencoderKL:
        """Reads a folder with config.json and safetensors, or has diffusers fetch a model of that name. Raises `CheckpointError`."""
        folder = Path(path).is_dir()
        if folder and not _holds_autoencoder(Path(path)):
            raise CheckpointError(
                f"{path} does not hold an AutoencoderKL; give a folder with config.json and diffusion_pytorch_model.safetensors. {_FALLBACK}"
            )
        model_class = _diffusers_autoencoder()
        try:
            model, found = model_class.from_pretrained(
                path, use_safetensors=True, local_files_only=folder, low_cpu_mem_usage=False, output_loading_info=True
            )
        except Exception as error:  # of whatever library the download went through
            raise CheckpointError(
                f"The autoencoder {path} can neither be read nor fetched ({error}). Copy its folder from a machine that can fetch it and "
                f'name it in the configuration, {{"codec": {{"path": "FOLDER"}}}}. {_FALLBACK}'
            ) from error
        if wrong := [name for names in found.values() for name in names]:
            raise CheckpointError(
                f"The autoencoder in {path} is not whole: {len(wrong)} tensors are missing, unknown or wrong, such as {wrong[0]}. {_FALLBACK}"
            )
        return cls(model, image_channels)

    def train(self, mode: bool = True) -> AutoencoderKL:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()  # inference_mode would make latents that no model can be trained on
    def encode(self, images: Tensor) -> Tensor:
        if images.shape[1] != self._image_channels:
            raise ValueError(f"The codec is for images with {self._image_channels} channels, not {images.shape[1]}.")
        if any(side % self.factor for side in images.shape[2:]):
            raise ValueError(
                f"The sides of the images must be multiples of {self.factor} for this autoencoder, not {tuple(images.shape[2:])}."
            )
        images = images.float().expand(-1, self.model.config.in_channels, -1, -1)
        return torch.cat(
            [
                (self.model.encode(part).latent_dist.mean - self._shift) * self._scaling
                for part in images.split(self._batch)
            ]
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        images = torch.cat(
            [
                self.model.decode(part.float() / self._scaling + self._shift).sample
                for part in latents.split(self._batch)
            ]
        )
        return images.mean(1, keepdim=True) if self._image_channels == 1 else images


_FALLBACK = 'Without an autoencoder use the kind "pixels", or the preset dynamic-noise/pixels.'


def _holds_autoencoder(folder: Path) -> bool:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"] == "AutoencoderKL"
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _diffusers_autoencoder() -> Any:
    return optional("diffusers.models.autoencoders.autoencoder_kl", "latent").AutoencoderKL
