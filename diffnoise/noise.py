"""Noise models: what is added in the forward process. A value depends only on (seed, channel, y, x, t)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from . import ops
from .ops._opensimplex import DEVIATION

NOISE_VERSION = "1"
"""Changes whenever any noise value for a given address changes."""

Shape = tuple[int, int, int, int] | torch.Size
Normalize = Literal["none", "unit"]


def make_seeds(
    batch: int,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """int64 [batch] seeds: `seed`, `seed` + 1, ... or drawn from `generator` (torch's default generator if neither is given)."""
    if seed is not None:
        if generator is not None:
            raise ValueError("Give either seed or generator, not both.")
        return torch.arange(seed, seed + batch, device=device)
    source = generator.device if generator is not None else "cpu"
    return torch.randint(-(2**62), 2**62, (batch,), generator=generator, device=source).to(device)


class Noise:
    """Base of the noise models: call one to make noise.

    `noise((B, C, H, W), t=t, seeds=seeds)` returns a tensor of that shape, float32 unless `dtype` says otherwise, on the
    device of `seeds` unless `device` does.
    t: int64 [B] schedule indices; seeds: int64 [B]. origins: int64 [B, 2], the (y, x) of each sample's first pixel when it is a tile of
    an image of size `extent` = (H, W). The same address gives the same bits in any batch, order or tile.
    """

    kind: ClassVar[str]
    stationary: ClassVar[bool] = True
    """Whether the statistics are the same everywhere; if not, a tile is an image of its own and takes origin (0, 0)."""

    def __call__(
        self,
        shape: Shape,
        *,
        t: Tensor,
        seeds: Tensor,
        origins: Tensor | None = None,
        extent: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        if len(shape) != 4:
            raise ValueError(f"shape must be (B, C, H, W), not {tuple(shape)}.")
        if seeds.shape != (shape[0],):
            raise ValueError(
                f"seeds must hold one value per sample, shape [{shape[0]}], but has shape {list(seeds.shape)}."
            )
        if origins is None:
            origins = seeds.new_zeros((shape[0], 2))
        if device is not None:
            t, seeds, origins = t.to(device), seeds.to(device), origins.to(device)
        return self._make(shape, t, seeds, origins, extent or (shape[2], shape[3]), dtype)

    def _make(
        self, shape: Shape, t: Tensor, seeds: Tensor, origins: Tensor, extent: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        raise NotImplementedError

    def to_config(self) -> dict[str, Any]:
        """A JSON-ready description; `from_config` makes the same model from it."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Gaussian(Noise):
    """Independent N(0, 1) per pixel and channel, from counter-based Philox."""

    kind: ClassVar[str] = "gaussian"

    def _make(
        self, shape: Shape, t: Tensor, seeds: Tensor, origins: Tensor, extent: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        return ops.gaussian_noise(seeds, t, origins, *shape[1:], dtype=dtype)


@dataclass(frozen=True)
class _Fractal(Noise):
    octaves: int
    persistence: float
    frequency: float
    dims: int
    normalize: Normalize
    shift: bool

    def __post_init__(self) -> None:
        ops._check.fractal(self.octaves, self.persistence, self.frequency)
        if self.normalize not in ("none", "unit"):
            raise ValueError(f'normalize must be "none" or "unit", not {self.normalize!r}.')
        if self.dims not in (2, 3, 4):
            raise ValueError(f"dims must be 2, 3 or 4, not {self.dims}.")

    @property
    def gain(self) -> float:
        """Factor of the fractal sum: 1, or 1 / its standard deviation for octaves taken as independent."""
        if self.normalize == "none":
            return 1.0
        return 1 / (DEVIATION[self.dims] * math.sqrt(sum(self.persistence ** (2 * k) for k in range(self.octaves))))

    def _make(
        self, shape: Shape, t: Tensor, seeds: Tensor, origins: Tensor, extent: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        return ops.simplex_noise(
            seeds, t, origins, *shape[1:], self.dims, self.octaves, self.persistence, self.frequency, self.gain,
            self.shift, dtype,
        )  # fmt: skip


@dataclass(frozen=True)
class Simplex(_Fractal):
    """Fractal OpenSimplex noise with a lattice per channel: 3-D (x, y, t) / wavelength, or 2-D without t.

    `frequency` is, as in the papers, the wavelength in pixels of the coarsest octave; each octave halves it.
    normalize: "none" as in the papers (deviation about 0.5), or "unit" variance. shift: a random origin per octave; without it, as in
    the papers, all octaves are 0 together at the origin (in 2-D, or at t = 0). Source: Wyatt et al. 2022 (AnoDDPM).
    """

    kind: ClassVar[str] = "simplex"
    octaves: int = 6
    persistence: float = 0.8
    frequency: float = 64.0
    dims: int = 3
    normalize: Normalize = "none"
    shift: bool = False


@dataclass(frozen=True)
class Tsimplex(_Fractal):
    """Fractal OpenSimplex noise in 4-D, (x, y, channel, t) / wavelength; dims=3 is the (x, y, t) reading of the paper.

    Parameters as in `Simplex`. Source: Kumar et al. 2025 (DTU-Net), Algorithm 1 and table 6.
    """

    kind: ClassVar[str] = "tsimplex"
    octaves: int = 6
    persistence: float = 0.9
    frequency: float = 64.0
    dims: int = 4
    normalize: Normalize = "none"
    shift: bool = False


@dataclass(frozen=True)
class GaussianMixture(Noise):
    """A mixture of `components` axis-aligned Gaussian bumps per sample and channel, standardised to mean 0 and variance 1.

    sigma_low, sigma_high: range of the bumps' widths as a share of the longer side. The paper gives neither the number nor the ranges
    nor the scaling: these defaults are ours. Source: Fucka et al. 2024, equations 7 and 8.
    """

    kind: ClassVar[str] = "gmm"
    stationary: ClassVar[bool] = False
    components: int = 50
    sigma_low: float = 1 / 64
    sigma_high: float = 1 / 8
    signed: bool = False

    def _make(
        self, shape: Shape, t: Tensor, seeds: Tensor, origins: Tensor, extent: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        return ops.gmm_noise(
            seeds,
            t,
            origins,
            *shape[1:],
            *extent,
            self.components,
            self.sigma_low,
            self.sigma_high,
            self.signed,
            True,
            dtype,
        )


@dataclass(frozen=True)
class TsimplexGaussian(Noise):
    """Tsg: alpha Tsimplex + (1 - alpha) Gaussian with alpha = 1 - t / steps (Kumar et al. 2025, equation 6)."""

    kind: ClassVar[str] = "tsg"
    steps: int = 1000
    octaves: int = 6
    persistence: float = 0.9
    frequency: float = 64.0
    normalize: Normalize = "none"
    shift: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}.")
        self._tsimplex()

    def _tsimplex(self) -> Tsimplex:
        return Tsimplex(self.octaves, self.persistence, self.frequency, normalize=self.normalize, shift=self.shift)

    def _make(
        self, shape: Shape, t: Tensor, seeds: Tensor, origins: Tensor, extent: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        return ops.tsg_noise(
            seeds, t, origins, *shape[1:], self.steps, self.octaves, self.persistence, self.frequency, self._tsimplex().gain,
            self.shift, dtype,
        )  # fmt: skip


@dataclass(frozen=True)
class KomalTsimplex(Noise):
    """KTs: 4-D Tsimplex whose wavelength falls from the image's centre, F_ij = frequency exp(-((i - c_y)^2 + (j - c_x)^2) / (2 sigma^2)).

    (i, j) counts patches of `patch` x `patch` pixels, 1-based, c = (number of patches + 1) / 2; patch=1 is the per-pixel reading of
    the paper. coordinates: "global" pixel coordinates, or "local" ones that start at 0 in every patch as the authors' code has it
    (patches of equal wavelength are then copies of each other). profile: "gaussian", as above, or "exponential", the paper's multi-section
    noise F_ij = frequency 2^(-d / sigma) with d = sqrt((i - c_y)^2 + (j - c_x)^2); the authors' code has sigma = 1 there. Octaves
    shorter than 2 pixels alias. Source: Kumar et al. 2025, equation 7 and its text.
    """

    kind: ClassVar[str] = "kts"
    stationary: ClassVar[bool] = False
    octaves: int = 10
    persistence: float = 0.8
    frequency: float = 128.0
    sigma: float = 4.0
    patch: int = 32
    coordinates: Literal["global", "local"] = "global"
    profile: Literal["gaussian", "exponential"] = "gaussian"

    def __post_init__(self) -> None:
        ops._check.fractal(self.octaves, self.persistence, self.frequency)
        if not self.sigma > 0 or self.patch < 1:
            raise ValueError(f"sigma must be positive and patch at least 1, not {self.sigma} and {self.patch}.")
        if self.coordinates not in ("global", "local"):
            raise ValueError(f'coordinates must be "global" or "local", not {self.coordinates!r}.')
        if self.profile not in ("gaussian", "exponential"):
            raise ValueError(f'profile must be "gaussian" or "exponential", not {self.profile!r}.')

    def _make(
        self, shape: Shape, t: Tensor, seeds: Tensor, origins: Tensor, extent: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        return ops.kts_noise(
            seeds, t, origins, *shape[1:], *extent, self.octaves, self.persistence, self.frequency, self.sigma, self.patch,
            self.coordinates == "local", self.profile == "exponential", dtype,
        )  # fmt: skip


KINDS: dict[str, type[Noise]] = {
    model.kind: model for model in (Gaussian, Simplex, Tsimplex, GaussianMixture, TsimplexGaussian, KomalTsimplex)
}


def from_config(config: dict[str, Any]) -> Noise:
    """The noise model that `Noise.to_config` described; raises `ValueError` for an unknown kind or parameter."""
    parameters = dict(config)
    kind = parameters.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"Unknown noise {kind!r}; choose one of {', '.join(KINDS)}.")
    try:
        return KINDS[kind](**parameters)
    except TypeError as error:
        raise ValueError(f"Noise {kind!r} does not take these parameters: {error}.") from None


def noise_like(
    x: Tensor,
    kind: str = "gaussian",
    *,
    t: Tensor | None = None,
    seeds: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Noise of x's shape, device and dtype, in place of `torch.randn_like(x)` in a training script, [B, C, H, W].

    kind: gaussian, simplex, tsimplex, gmm, tsg or kts, with its default parameters. t: int64 [B], zeros if not given. seeds: int64 [B], or made
    from `seed` or `generator`.
    """
    if x.ndim != 4:
        raise ValueError(f"x must have shape [B, C, H, W], but has shape {list(x.shape)}.")
    if seeds is None:
        seeds = make_seeds(x.shape[0], seed, generator, x.device)
    elif seed is not None or generator is not None:
        raise ValueError("Give either seeds, or seed or generator to make them from, not both.")
    if t is None:
        t = torch.zeros_like(seeds)
    return from_config({"kind": kind})(x.shape, t=t, seeds=seeds, device=x.device, dtype=x.dtype)
