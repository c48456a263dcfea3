"""The families of networks by name: configurations from dicts, networks from configurations."""

from __future__ import annotations

from typing import Any

from torch import nn

from .dit import DiT, DiTConfig
from .dtu_net import DTUNet, DTUNetConfig
from .model_config import ModelConfig
from .u_vit import UViT, UViTConfig
from .unet import UNet, UNetConfig

_FAMILIES: dict[str, tuple[type[ModelConfig], type[nn.Module]]] = {
    config.kind: (config, model)
    for config, model in ((UNetConfig, UNet), (UViTConfig, UViT), (DTUNetConfig, DTUNet), (DiTConfig, DiT))
}


def config_from_dict(description: dict[str, Any]) -> ModelConfig:
    """The configuration of which `description` is the `to_dict()`; without a `kind` a UNet's, and keys left out are the defaults.

    Raises `ValueError` for an unknown kind, for an unknown key, and for values that the family does not take.
    """
    parameters = dict(description)
    kind = parameters.pop("kind", UNetConfig.kind)
    if kind not in _FAMILIES:
        raise ValueError(f"The model's kind must be one of {', '.join(_FAMILIES)}, not {kind!r}.")
    try:
        return _FAMILIES[kind][0](**parameters)
    except TypeError as error:
        raise ValueError(f"A model of kind {kind!r} does not take these parameters: {error}.") from None


def build(config: ModelConfig) -> nn.Module:
    """The network of a configuration, its weights drawn from torch's global random numbers."""
    return _FAMILIES[config.kind][1](config)


def config_of(model: Any) -> ModelConfig | None:
    """The configuration of a network that `build` can make again; None for any other model."""
    config = getattr(model, "config", None)
    return config if isinstance(config, ModelConfig) and isinstance(model, _FAMILIES[config.kind][1]) else None
