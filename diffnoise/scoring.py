"""How a frame is scored: the settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .dynamic import DynamicSteps
from .schedule import Schedule, Variance

MapKind = Literal["squared", "absolute", "kl"]
FeatureKind = Literal["none", "reconstruction", "head"]
Sampler = Literal["ddim", "ddpm"]
Target = Literal["image", "coarser"]
FilterKind = Literal["mean", "gaussian", "none"]
Normalization = Literal["deviation", "range", "none"]


@dataclass(frozen=True)
class Scoring:
    """How a frame is scored; every number is recorded with the detector.

    Reconstruction. starts: the noise scales T'; the image is noised at index T'-1 and denoised to 0. steps: model calls per scale, evenly spaced
    (1: x_0 is predicted at once; as many as T': every step). sampler, eta, variance: DDIM with its eta, or DDPM with "fixed_small", "fixed_large"
    or "learned_range". omega: factor of the forward noise. clip: predicted x_0 is cut to [-clip, clip]; None for latents. reverse_noise: "gaussian", or
    "same" as the forward noise. samples: reconstructions (KL maps for "kl") with different seeds that are averaged before they are compared.
    guidance: how strongly predicted x_0 is pulled toward the target (see `guidance_weights`). target: the "image" itself (DDAD; Tebbe and
    Tayyub 2024), or the reconstruction from the "coarser" of two starts (DiffusionAD), of which only the finer is then compared. dynamic: T' is
    chosen for each frame instead of taken from starts. class_guidance: weight of classifier-free guidance, for detectors of several categories.

    Evidence. map: squared or absolute error, or "kl", which needs one model call per scale. features: distances of features beside it, of the
    "reconstruction" to the image, or of the model's feature "head" to the image; feature_weight: their share of the map, the other being
    1 - feature_weight. normalization: the units in which scales and kinds of evidence are added: their mean and standard "deviation" on good images, their smallest
    value and "range" there, or "none". filter: "mean" over filter_size pixels, "gaussian" with filter_sigma, or "none".

    Decision. top_k: the image score is the mean of so many largest pixels. false_alarm_rate: share of good images that the
    threshold may call anomalous. mask: which pixels are called anomalous: those above the "calibrated" threshold, above Otsu's of
    each map ("otsu"), or above a number.
    """

    starts: tuple[int, ...] = (100, 200, 300, 400)
    steps: int = 1
    sampler: Sampler = "ddim"
    eta: float = 0.0
    variance: Variance = "fixed_small"
    omega: float = 1.0
    clip: float | None = 1.0
    reverse_noise: Literal["gaussian", "same"] = "gaussian"
    samples: int = 2
    guidance: float = 0.0
    target: Target = "image"
    dynamic: DynamicSteps | None = None
    class_guidance: float = 0.0
    map: MapKind = "squared"
    features: FeatureKind = "none"
    feature_weight: float = 0.5
    normalization: Normalization = "deviation"
    filter: FilterKind = "mean"
    filter_size: int = 5
    filter_sigma: float = 4.0
    top_k: int = 1
    false_alarm_rate: float = 0.05
    mask: Literal["calibrated", "otsu"] | float = "calibrated"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(self.starts))
        if isinstance(self.dynamic, dict):  # as JSON has it
            object.__setattr__(self, "dynamic", DynamicSteps(**self.dynamic))
        for name, kinds in (
            ("sampler", Sampler), ("variance", Variance), ("target", Target), ("map", MapKind), ("features", FeatureKind),
            ("normalization", Normalization), ("filter", FilterKind),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, not {getattr(self, name)!r}.")
        if self.reverse_noise not in ("gaussian", "same"):
            raise ValueError(f'reverse_noise must be "gaussian" or "same", not {self.reverse_noise!r}.')
        if not self.starts or min(self.starts) < 1:
            raise ValueError(f"starts must hold at least one positive number of steps, not {self.starts}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, not {self.seed}.")
        for name in ("steps", "top_k", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must lie between 0 and 1, not {self.false_alarm_rate}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None for no clipping, not {self.clip}.")
        for name in ("eta", "omega", "guidance", "class_guidance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}.")
        if self.map == "kl" and (self.guidance or self.target == "coarser" or self.dynamic):
            raise ValueError('The map "kl" goes with starts as they are, without guidance, coarser target or dynamic.')
        if self.target == "coarser" and self.dynamic:
            raise ValueError('The target "coarser" has two starts of its own; leave dynamic out.')
        if self.features == "head" and self.map != "kl":
            raise ValueError(f'The features of the model\'s "head" go with the map "kl", not {self.map!r}.')
        if self.target == "coarser" and (
            len(self.starts) != 2 or self.starts[0] <= self.starts[1] or not self.guidance
        ):
            raise ValueError(
                f'The target "coarser" needs two starts, the larger one first, and a guidance, not {self.starts} and {self.guidance}.'
            )
        if not 0 < self.feature_weight < 1:
            raise ValueError(f"feature_weight must lie between 0 and 1, not {self.feature_weight}.")
        if self.filter == "mean" and (self.filter_size < 1 or self.filter_size % 2 == 0):
            raise ValueError(f"filter_size must be odd and positive, not {self.filter_size}.")
        if self.filter == "gaussian" and not self.filter_sigma > 0:
            raise ValueError(f"filter_sigma must be positive, not {self.filter_sigma}.")
        number = isinstance(self.mask, (int, float)) and not isinstance(self.mask, bool) and math.isfinite(self.mask)
        if not number and self.mask not in ("calibrated", "otsu"):
            raise ValueError(f'mask must be "calibrated", "otsu" or a number, not {self.mask!r}.')

    @property
    def scales(self) -> tuple[int, ...]:
        """Every T' that a frame may be noised to."""
        return self.starts if self.dynamic is None else tuple(sorted(set(self.dynamic.starts)))

    @property
    def passes(self) -> tuple[int | None, ...]:
        """T' of the ways out and back that are compared with the frame; None: the one chosen for the frame."""
        if self.dynamic is not None:
            return (None,)
        return self.starts[-1:] if self.target == "coarser" else self.starts

    def model_calls(self, start: int) -> int:
        """Model calls of one sample from T' = start to 0."""
        return 1 if self.map == "kl" else min(self.steps, start)

    @property
    def learned_variance(self) -> bool:
        """Whether the model's variance output is used: by DDPM steps and KL maps; DDIM has a variance of its own."""
        return self.variance == "learned_range" and (self.map == "kl" or self.sampler == "ddpm")

    @property
    def weights(self) -> tuple[float, ...]:
        """The shares in the map of the errors of all passes, and of their features' distances where there are any."""
        passes = len(self.passes)
        features = 0.0 if self.features == "none" else self.feature_weight
        return ((1 - features) / passes,) * passes + (features / passes,) * (passes if features else 0)

    def guidance_weights(self, schedule: Schedule) -> dict[int, float]:
        """guidance (1 - alpha_bar_t) at the first step of every start, the share of the target in the predicted x_0; above 1 it overshoots."""
        return {start: self.guidance * float(1 - schedule.alpha_bars[start - 1]) for start in self.scales}
