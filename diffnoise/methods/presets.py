"""Named configurations. Each says which numbers are the paper's and which are ours."""

from __future__ import annotations

from typing import Any

from ..config import Config

# The ADM network for 256 pixels: attention at 32, 16 and 8 pixels.
_ADM_SHAPE: dict[str, Any] = {
    "channel_mult": [1, 1, 2, 2, 4, 4],
    "res_blocks": 2,
    "attention_levels": [3, 4, 5],
    "norm_groups": 32,
    "patch_size": 1,
}

_NOISE_STUDY: dict[str, Any] = {
    # Fucka et al. 2024: base width 64, T = 1000, linear 1e-4..1e-2, 200 steps out and back with sigma^2 = beta, AdamW 1e-4, batch 6,
    # 256 pixels cut to 224, squared error, mean filter, maximum. Ours: the rest of the UNet, which the paper leaves open.
    "model": _ADM_SHAPE | {"channels": 64},
    "schedule": {"kind": "linear", "start": 1e-4, "end": 1e-2, "steps": 1000},
    "framing": {"size": 224},
    "scoring": {
        "starts": [200],
        "steps": 200,
        "sampler": "ddpm",
        "variance": "fixed_large",
        "map": "squared",
        "filter": "mean",
        "filter_size": 11,
        "samples": 1,
    },
    "training": {"learning_rate": 1e-4, "batch_size": 6, "t_max": 1000},
}

PRESETS: dict[str, dict[str, Any]] = {
    # Ours: trains in minutes on a CPU.
    "small": {},
    "noise-study/gaussian": _NOISE_STUDY | {"noise": {"kind": "gaussian"}},
    "noise-study/simplex": _NOISE_STUDY | {"noise": {"kind": "simplex"}},
    "noise-study/gmm": _NOISE_STUDY
    | {"noise": {"kind": "gmm"}, "scoring": _NOISE_STUDY["scoring"] | {"filter_size": 5}},
    # Wyatt et al. 2022 (AnoDDPM), 256 pixels: width 128, attention at 32, 16 and 8 pixels, linear 1e-4..2e-2, t < 800, T' = 250.
    "anoddpm": {
        "model": _ADM_SHAPE | {"channels": 128, "head_channels": 64},
        "noise": {"kind": "simplex"},
        "schedule": {"kind": "linear", "start": 1e-4, "end": 2e-2, "steps": 1000},
        "framing": {"size": 256},
        "scoring": {
            "starts": [250],
            "steps": 250,
            "sampler": "ddpm",
            "variance": "fixed_large",
            "map": "squared",
            "filter": "none",
            "samples": 1,
        },
        "training": {"learning_rate": 1e-4, "weight_decay": 0.0, "batch_size": 1, "t_max": 800},
    },
    # Lu et al. 2023, pixel level: KL at t = 20, 201 and 401, learned variance, mean of the 64 largest pixels. Ours: the width (64; theirs is a
    # pretrained network of 256), and units of good images in place of those of the image at hand.
    "kl-map": {
        "model": _ADM_SHAPE | {"channels": 64, "learn_variance": True},
        "noise": {"kind": "gaussian"},
        "schedule": {"kind": "linear", "start": 1e-4, "end": 2e-2, "steps": 1000},
        "framing": {"size": 256},
        "scoring": {
            "starts": [21, 202, 402],
            "map": "kl",
            "variance": "learned_range",
            "filter": "none",
            "top_k": 64,
            "samples": 1,
        },
        "training": {"learning_rate": 1e-4, "batch_size": 2, "ema_decay": 0.997, "t_max": 1000},
    },
}


def preset(name: str) -> Config:
    """The configuration of that name; raises `ValueError` with the list of names for any other."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return Config().updated(PRESETS[name])
