"""The noise models against the opensimplex package, SciPy, published values and formulas written out here."""

from __future__ import annotations

import ctypes
import itertools
import json
import math
from typing import Any

import numpy as np
import opensimplex
import pytest
import torch
from opensimplex.constants import GRADIENTS2, GRADIENTS3, GRADIENTS4
from opensimplex.internals import _init
from scipy import stats
from torch import Tensor

import diffnoise as dn
from diffnoise.noise import (
    KINDS,
    Gaussian,
    GaussianMixture,
    KomalTsimplex,
    Noise,
    Simplex,
    Tsimplex,
    TsimplexGaussian,
    from_config,
    make_seeds,
)
from diffnoise.ops.kts_noise import patch_wavelengths

MODELS: list[Noise] = [
    Gaussian(),
    Simplex(),
    Simplex(dims=2, normalize="unit"),
    Tsimplex(),
    Tsimplex(dims=3),
    GaussianMixture(),
    GaussianMixture(components=3, signed=True),
    TsimplexGaussian(),
    KomalTsimplex(patch=8, octaves=6),
    KomalTsimplex(patch=8, octaves=6, coordinates="local"),
    KomalTsimplex(patch=8, octaves=6, profile="exponential"),
]
FRACTALS = [Simplex(dims=2), Simplex(), Tsimplex()]
SEEDS = torch.tensor([3, -(2**40) - 1, 42, 2**62])
T = torch.tensor([10, 0, 999, 500])
every_model = pytest.mark.parametrize("model", MODELS, ids=[f"{model.kind}-{i}" for i, model in enumerate(MODELS)])


def one(model: Noise, seed: int, t: int, channels: int, height: int, width: int) -> np.ndarray:
    """One image in float64, [C, H, W]."""
    noise = model((1, channels, height, width), t=torch.tensor([t]), seeds=torch.tensor([seed]), dtype=torch.float64)
    return noise[0].numpy()


# Simplex noise.


# The values at (x, y) = (0, 0), (1, 0), (0, 1), (17, 5) and t = 10 that the papers' code gives; 4-D in two channels.
GOLDEN = [
    (Simplex(6, 0.8, 64, dims=2), 3, 0, (0, 0.1948401287, -0.6151487353, -0.1568496410)),
    (Simplex(6, 0.8, 64, dims=2), 42, 0, (0, 0.4976652987, 0.1717935990, -0.0443435557)),
    (Simplex(6, 0.8, 64), 3, 0, (0.3880707805, 0.5220649626, 0.1286669217, 1.1789553794)),
    (Simplex(6, 0.8, 64), 42, 0, (0.7392467962, 0.6253638965, 0.3999829715, -0.6574626969)),
    (Tsimplex(6, 0.9, 64), 3, 0, (-0.4701710743, -0.5056607905, -0.6540652719, -0.5114807275)),
    (Tsimplex(6, 0.9, 64), 42, 0, (0.0329648078, 0.3876877697, -0.1355101022, 0.5633006129)),
    (Tsimplex(6, 0.9, 64), 3, 1, (-0.4669815326, -0.5382396887, -0.5839128994, -0.3671602007)),
    (Tsimplex(6, 0.9, 64), 42, 1, (0.0416825777, 0.1559906917, -0.2420760877, 0.5100889166)),
]


@pytest.mark.parametrize(("model", "seed", "channel", "expected"), GOLDEN)
def test_published_values(model, seed, channel, expected):
    for dtype in (torch.float64, torch.float32):
        noise = model((1, 2, 6, 18), t=torch.tensor([10]), seeds=torch.tensor([seed]), dtype=dtype)[0, channel]
        assert [float(noise[y, x]) for x, y in ((0, 0), (1, 0), (0, 1), (17, 5))] == pytest.approx(expected, abs=1e-4)


def channel_seed(model: Noise, seed: int, channel: int) -> int:
    """2-D and 3-D noise has a lattice per channel, golden-ratio steps apart; channel 0 has the sample's seed."""
    return seed if model.dims == 4 else ctypes.c_int64(seed + channel * 0x9E3779B97F4A7C15).value


def by_the_package(model: Noise, seed: int, t: int, channel: int, height: int, width: int) -> np.ndarray:
    """The fractal sum over the opensimplex package's noise2array, noise3array or noise4array."""
    package = opensimplex.OpenSimplex(channel_seed(model, seed, channel))
    total = np.zeros((height, width))
    for k in range(model.octaves):
        scale = 2**k / model.frequency
        x, y, z, w = (np.arange(width) * scale, np.arange(height) * scale, *np.array([[channel], [t]]) * scale)
        if model.dims == 2:
            octave = package.noise2array(x, y)
        elif model.dims == 3:
            octave = package.noise3array(x, y, w)[0]
        else:
            octave = package.noise4array(x, y, z, w)[0, 0]
        total += model.persistence**k * octave
    return total


# The package leaves out a few lattice points near the rim of their reach, which the full sum has: nothing in 2-D, and in 3-D and
# 4-D at most these two per octave (measured on 2 million points of these grids: 1.22e-4 and 4.85e-4).
DROPPED = {2: 1e-12, 3: 1.3e-4, 4: 5.5e-4}
# Of six octaves the long ones rarely meet such a point together. Measured on 40 fields: 1.3e-4 and 7.1e-4.
DROPPED_OF_SIX = {2: 1e-12, 3: 2.5e-4, 4: 1.2e-3}


@pytest.mark.parametrize("frequency", (2.0, 5.3, 16.0, 64.0))
@pytest.mark.parametrize("dims", (2, 3, 4))
def test_an_octave_is_that_of_the_package(dims, frequency):
    model = (Tsimplex if dims == 4 else Simplex)(1, 0.8, frequency, dims)
    for seed, t in ((3, 10), (-5, 201), (2**62, 999)):
        difference = np.abs(
            one(model, seed, t, 2, 40, 60) - [by_the_package(model, seed, t, c, 40, 60) for c in (0, 1)]
        )
        assert difference.max() < DROPPED[dims]
        assert (difference > 1e-6).mean() < 0.2, "the full sum differs in a few points only"


@pytest.mark.parametrize("model", FRACTALS, ids=lambda model: f"{model.dims}d")
def test_a_whole_field_is_that_of_the_package(model):
    for seed, t in ((0, 0), (42, 10), (-(2**63), 201), (1234, 999)):
        difference = np.abs(
            one(model, seed, t, 3, 20, 50) - [by_the_package(model, seed, t, c, 20, 50) for c in (0, 1, 2)]
        )
        assert difference.max() < DROPPED_OF_SIX[model.dims]


def full_sum(point: np.ndarray, seed: int) -> float:
    """Sum over every lattice point with r^2 < 2 of (2 - r^2)^4 gradient.offset / norm, by brute force."""
    dims = len(point)
    norm, gradients = {2: (47, GRADIENTS2), 3: (103, GRADIENTS3), 4: (30, GRADIENTS4)}[dims]
    stretch, squish = (1 / math.sqrt(dims + 1) - 1) / dims, (math.sqrt(dims + 1) - 1) / dims
    permutation, _ = _init(seed)
    base = np.floor(point + point.sum() * stretch)
    offsets = np.array(list(itertools.product(range(-3, 5), repeat=dims)))
    lattice = base + offsets
    delta = point - lattice - lattice.sum(1, keepdims=True) * squish
    near = (delta**2).sum(1) < 2
    total = 0.0
    for vertex, d in zip(lattice[near].astype(int), delta[near], strict=True):
        h = 0
        for coordinate in vertex:
            h = permutation[(h + coordinate) & 255]
        first = {2: h & 0x0E, 3: 3 * (h % 24), 4: h & 0xFC}[dims]
        total += (2 - (d**2).sum()) ** 4 * float(np.array(gradients[first : first + dims]) @ d)
    return total / norm


@pytest.mark.parametrize("dims", (2, 3, 4))
def test_the_sum_takes_in_every_lattice_point_in_reach(dims):
    """Where the package and diffnoise differ, the full sum of the definition says that diffnoise is right."""
    model = (Tsimplex if dims == 4 else Simplex)(1, 0.8, 5.3, dims)
    noise, package = one(model, 7, 33, 1, 40, 60)[0], by_the_package(model, 7, 33, 0, 40, 60)
    worst = np.abs(noise - package).ravel().argsort()[-20:]
    sample = np.random.default_rng(dims).integers(0, noise.size, 20)
    for y, x in zip(*np.unravel_index(np.concatenate([worst, sample]), noise.shape), strict=True):
        point = np.array({2: (x, y), 3: (x, y, 33), 4: (x, y, 0, 33)}[dims]) / 5.3
        assert noise[y, x] == pytest.approx(full_sum(point, 7), abs=1e-12)


# Pooled deviations measured on the papers' code.
@pytest.mark.parametrize(
    ("model", "deviation"),
    (
        (Simplex(6, 0.8, 64, dims=2), 0.600),
        (Simplex(6, 0.8, 64), 0.505),
        (Tsimplex(6, 0.8, 64), 0.396),
        (Tsimplex(6, 0.9, 64), 0.480),
    ),
)
def test_deviation_is_that_of_the_papers_code(model, deviation):
    seeds = torch.arange(60)
    noise = model((60, 1, 128, 128), t=seeds * 13, seeds=seeds)
    assert float(noise.std()) == pytest.approx(deviation, rel=0.04)


@pytest.mark.parametrize(
    "model",
    [cls(octaves, persistence, frequency, dims, "unit") for cls, persistence, dims in (
        (Simplex, 0.8, 2), (Simplex, 0.8, 3), (Tsimplex, 0.9, 3), (Tsimplex, 0.9, 4), (Tsimplex, 0.6, 4)
    ) for octaves, frequency in ((6, 64.0), (4, 16.0), (1, 8.0))],
    ids=lambda model: f"{model.dims}d-{model.octaves}-{model.persistence}",
)  # fmt: skip
def test_unit_variance(model):
    """Over many seeds and places; one image of a long wavelength has less."""
    place = torch.arange(200)
    origins = torch.stack([place * 37, place * 53], 1)
    noise = model((200, 1, 64, 64), t=place * 5, seeds=place, origins=origins)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    plain = type(model)(model.octaves, model.persistence, model.frequency, model.dims)
    raw = plain((200, 1, 64, 64), t=place * 5, seeds=place, origins=origins)
    torch.testing.assert_close(noise, raw * ((noise * raw).sum() / raw.square().sum()), rtol=1e-4, atol=1e-5)


# KTs.


def test_kts_wavelengths():
    """14 x 14 patches, peak 128, sigma 4: the values that the authors' formula gives."""
    i = torch.arange(14) * 16
    f = patch_wavelengths(i.view(-1, 1), i.view(1, -1), 224, 224, 128.0, 4.0, 16)
    assert float(f[0, 0]) == pytest.approx(9.1285, abs=5e-5)
    assert float(f[0, 6]) == pytest.approx(33.917, abs=5e-4)
    assert float(f[3, 3]) == pytest.approx(59.526, abs=5e-4)
    assert float(f[6, 6]) == pytest.approx(126.016, abs=5e-4)
    assert float(f.mean()) == pytest.approx(55.65, abs=5e-3)
    within = patch_wavelengths(i.view(-1, 1) + 15, i.view(1, -1) + 15, 224, 224, 128.0, 4.0, 16)
    assert torch.equal(within, f), "one wavelength in all of a patch"


def test_exponential_kts_halves_its_wavelength_every_sigma_patches():
    """15 x 15 patches with the peak in the middle one: 3-4-5 triangles and steps along a row."""
    i = torch.arange(15) * 16
    f = patch_wavelengths(i.view(-1, 1), i.view(1, -1), 240, 240, 128.0, 1.0, 16, True)
    assert f[7, 7:].tolist() == [128, 64, 32, 16, 8, 4, 2, 1]
    assert float(f[7 - 3, 7 + 4]) == pytest.approx(128 / 2**5, rel=1e-15)
    slower = patch_wavelengths(i.view(-1, 1), i.view(1, -1), 240, 240, 128.0, 2.5, 16, True)
    assert float(slower[7 + 4, 7 - 3]) == pytest.approx(128 / 2**2, rel=1e-15)


@pytest.mark.parametrize(
    ("patch", "sigma", "coordinates", "profile"),
    (
        (8, 4.0, "global", "gaussian"),
        (8, 1.3, "local", "gaussian"),
        (1, 9.0, "global", "gaussian"),
        (1, 9.0, "local", "gaussian"),
        (8, 1.0, "global", "exponential"),
        (4, 1.0, "local", "exponential"),
        (1, 9.0, "global", "exponential"),
    ),
)
def test_kts_is_the_package_at_every_pixel(patch, sigma, coordinates, profile):
    model = KomalTsimplex(4, 0.8, 128.0, sigma, patch, coordinates, profile)
    height, width, seed, t = 20, 27, 42, 201
    noise = one(model, seed, t, 2, height, width)
    package = opensimplex.OpenSimplex(seed)
    n, m = math.ceil(height / patch), math.ceil(width / patch)
    for channel, y, x in itertools.product((0, 1), range(0, height, 3), range(width)):
        i, j = y // patch + 1, x // patch + 1
        d = math.dist((i, j), ((n + 1) / 2, (m + 1) / 2))
        f = 128 * (math.exp(-(d**2) / (2 * sigma**2)) if profile == "gaussian" else 2 ** (-d / sigma))
        at = (x % patch, y % patch) if coordinates == "local" else (x, y)
        point = np.array([*at, channel, t]) / f
        expected = sum(0.8**k * package.noise4(*(2**k * point)) for k in range(4))
        assert noise[channel, y, x] == pytest.approx(expected, abs=DROPPED_OF_SIX[4])


def test_local_kts_copies_patches_of_equal_wavelength():
    noise = one(KomalTsimplex(patch=8, coordinates="local"), 3, 10, 1, 32, 32)[0]
    corner = noise[:8, :8]
    for y, x in ((0, 24), (24, 0), (24, 24)):
        assert np.array_equal(noise[y : y + 8, x : x + 8], corner)
    assert not np.allclose(noise[:8, 8:16], corner)


def test_kts_refuses_wavelengths_that_floating_point_cannot_resolve():
    """Read per pixel with sigma = 4 pixels, F falls below 1e-300 and the coordinates become infinite."""
    for model in (
        KomalTsimplex(patch=1),
        KomalTsimplex(patch=16, sigma=0.5),
        KomalTsimplex(patch=1, profile="exponential"),
    ):
        with pytest.raises(
            ValueError, match="wavelength of KTs falls to .* in the corners of a 224 x 224 image; raise sigma"
        ):
            one(model, 3, 10, 1, 224, 224)
    assert np.isfinite(one(KomalTsimplex(4, patch=1, sigma=28.0), 3, 10, 1, 112, 112)).all()
    assert np.isfinite(one(KomalTsimplex(4), 3, 10, 1, 1024, 8)).all()
    assert np.isfinite(one(KomalTsimplex(sigma=1.0, patch=16, profile="exponential"), 3, 10, 1, 224, 224)).all()


# Gaussian, mixture and Tsg.


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 of Salmon et al. 2011 in Python's integers (NumPy's Philox is the 64-bit one)."""
    mask = 0xFFFFFFFF
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & mask, (first >> 32) ^ c[3] ^ k[1], first & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return tuple(c)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ),
)
def test_this_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert philox(counter, key) == expected


def words(seed: int, t: int, channel: int, y: int, x: int, stream: int) -> tuple[int, ...]:
    mask = 0xFFFFFFFF
    return philox((x & mask, y & mask, channel | stream << 24, t & mask), (seed & mask, seed >> 32 & mask))


def uniform(word: int) -> float:
    return (word >> 8) / 2**24


@pytest.mark.parametrize(("seed", "t"), ((3, 10), (-(2**40) - 1, 999)))
def test_gaussian_is_box_and_muller_of_philox(seed, t):
    expected = np.empty((2, 3, 9))
    for channel, y, x in np.ndindex(expected.shape):
        w = words(seed, t, channel, y, x // 4, 0)
        pair = w[:2] if x % 4 < 2 else w[2:]
        radius = math.sqrt(-2 * math.log(uniform(pair[0]) + 2**-24))
        angle = 2 * math.pi * uniform(pair[1])
        expected[channel, y, x] = radius * (math.cos(angle), math.sin(angle))[x % 2]
    np.testing.assert_allclose(one(Gaussian(), seed, t, 2, 3, 9), expected, rtol=1e-12, atol=1e-13)


def test_gaussian_is_normal():
    values = Gaussian()((16, 3, 64, 64), t=torch.arange(16), seeds=torch.arange(16) * 2**33).double().numpy().ravel()
    n = len(values)
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(stats.skew(values)) < 4 * (6 / n) ** 0.5
    assert abs(stats.kurtosis(values, fisher=False) - 3) < 4 * (24 / n) ** 0.5
    for limit in (3.0, 4.0):  # the tails, by the binomial law
        found = int((np.abs(values) > limit).sum())
        assert stats.binomtest(found, n, 2 * stats.norm.sf(limit)).pvalue > 0.001


def test_gaussian_is_independent_between_channels_seeds_steps_and_pixels():
    noise = Gaussian()((6, 3, 96, 96), t=torch.tensor([0, 0, 1, 1, 2, 2]), seeds=torch.tensor([0, 1] * 3)).double()
    flat = noise.flatten(2).flatten(0, 1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 5 / 96
    for axis in (2, 3):
        for lag in (1, 2, 3, 4):
            product = noise.narrow(axis, lag, 96 - lag) * noise.narrow(axis, 0, 96 - lag)
            assert abs(float(product.mean())) < 4 / product.numel() ** 0.5


@pytest.mark.parametrize("model", (Simplex(dims=2), Simplex()), ids=("2d", "3d"))
def test_simplex_channels_are_independent(model):
    """Averaged over seeds, since one smooth field always correlates with another by chance."""
    seeds = torch.arange(300)
    noise = model((300, 2, 16, 16), t=seeds, seeds=seeds, origins=torch.full((300, 2), 1000)).double()
    products = (noise[:, 0] * noise[:, 1]).mean((1, 2))
    assert abs(float(products.mean())) < 4 * float(products.std()) / 300**0.5
    assert float(products.std()) > 0


def test_tsimplex_channels_and_steps_are_neighbours():
    """One lattice for all channels and steps, 1 / wavelength apart: the correlations within an image measured on the papers' code."""
    steps = torch.tensor([100, 101, 102, 104, 108, 116, 132, 164])
    seeds = torch.arange(60).repeat_interleave(8)
    noise = (
        Tsimplex(6, 0.9, 64)((480, 3, 96, 96), t=steps.repeat(60), seeds=seeds)
        .double()
        .unflatten(0, (60, 8))
        .flatten(3)
    )

    def correlation(a: Tensor, b: Tensor) -> float:
        return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]).mean())

    assert correlation(noise[:, 0, 0], noise[:, 0, 1]) == pytest.approx(0.926, abs=0.012)
    assert correlation(noise[:, 0, 0], noise[:, 0, 2]) == pytest.approx(0.808, abs=0.02)
    by_distance = [correlation(noise[:, 0, 0], noise[:, k, 0]) for k in range(1, 8)]
    assert by_distance == pytest.approx([0.927, 0.81, 0.67, 0.51, 0.33, 0.14, 0.03], abs=0.06)


@pytest.mark.parametrize(("height", "width"), ((40, 40), (24, 56)))
@pytest.mark.parametrize("signed", (False, True))
def test_mixture_is_that_of_scipy(signed, height, width):
    model = GaussianMixture(components=7, sigma_low=0.02, sigma_high=0.2, signed=signed)
    seed, t, side = -12345678901, 77, max(height, width)
    noise = one(model, seed, t, 2, height, width)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)  # (x, y)
    for channel in (0, 1):
        field = np.zeros((height, width))
        for i in range(7):
            mu_x, mu_y, sigma_x, sigma_y = map(uniform, words(seed, t, channel, i, 0, 2))
            weight = uniform(words(seed, t, channel, i, 1, 2)[0])
            if signed:
                weight = 2 * weight - 1
            sigma = [(0.02 + 0.18 * u) * side for u in (sigma_x, sigma_y)]
            bump = stats.multivariate_normal([mu_x * width, mu_y * height], np.diag(np.square(sigma)))
            field += weight * bump.pdf(grid)
        field = (field - field.mean()) / field.std()
        np.testing.assert_allclose(noise[channel], field, rtol=0, atol=1e-9)


def test_mixture_is_standardised():
    noise = GaussianMixture()((4, 3, 64, 48), t=T, seeds=SEEDS, dtype=torch.float64)
    torch.testing.assert_close(noise.mean((2, 3)), torch.zeros(4, 3, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        noise.std((2, 3), correction=0), torch.ones(4, 3, dtype=torch.float64), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("normalize", ("none", "unit"))
def test_tsg_goes_from_tsimplex_to_gaussian(normalize):
    t = torch.tensor([0, 50, 150, 200])
    shape = (4, 2, 12, 20)
    noise = TsimplexGaussian(200, 5, 0.7, 32.0, normalize)(shape, t=t, seeds=SEEDS, dtype=torch.float64)
    simplex = Tsimplex(5, 0.7, 32.0, normalize=normalize)(shape, t=t, seeds=SEEDS, dtype=torch.float64)
    gaussian = Gaussian()(shape, t=t, seeds=SEEDS, dtype=torch.float64)
    expected = [simplex[0], 0.75 * simplex[1] + 0.25 * gaussian[1], 0.25 * simplex[2] + 0.75 * gaussian[2], gaussian[3]]
    torch.testing.assert_close(noise, torch.stack(expected), rtol=1e-12, atol=1e-12)


# Addressing, shapes and types: every model.


@every_model
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_sample_does_not_know_its_batch(model, dtype):
    shape = (4, 3, 17, 38)
    together = model(shape, t=T, seeds=SEEDS, dtype=dtype)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(model(shape, t=T[order], seeds=SEEDS[order], dtype=dtype), together[order])
    for i in range(4):
        alone = model((1, *shape[1:]), t=T[i : i + 1], seeds=SEEDS[i : i + 1], dtype=dtype)
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(together[0], together[1])


@every_model
def test_a_tile_is_a_crop(model):
    full = model((4, 2, 40, 51), t=T, seeds=SEEDS)
    for y, x, height, width in ((0, 0, 9, 9), (7, 5, 20, 33), (39, 50, 1, 1), (13, 0, 8, 51)):
        origins = torch.tensor([[y, x]]).expand(4, 2)
        tile = model((4, 2, height, width), t=T, seeds=SEEDS, origins=origins, extent=(40, 51))
        assert torch.equal(tile, full[:, :, y : y + height, x : x + width])


@every_model
def test_fewer_channels_are_the_first_ones(model):
    five = model((4, 5, 16, 23), t=T, seeds=SEEDS)
    for channels in (1, 2, 3, 4):
        assert torch.equal(model((4, channels, 16, 23), t=T, seeds=SEEDS), five[:, :channels])
    for a, b in itertools.combinations(range(5), 2):
        assert not torch.equal(five[:, a], five[:, b])


@every_model
def test_seed_and_step_matter(model):
    shape = (4, 1, 16, 24)
    same = torch.full((4,), 7)
    noise = model(shape, t=torch.tensor([5, 5, 6, 900]), seeds=same)
    assert torch.equal(noise[0], noise[1])
    depends_on_t = not (isinstance(model, Simplex) and model.dims == 2)
    assert torch.equal(noise[0], noise[2]) != depends_on_t
    assert torch.equal(noise[0], noise[3]) != depends_on_t
    noise = model(shape, t=same, seeds=torch.tensor([0, 1, -1, 2**32]))
    for a, b in itertools.combinations(range(4), 2):
        assert (noise[a] - noise[b]).abs().max() > 0.1


@every_model
def test_dtypes(model):
    shape = (4, 2, 17, 38)
    exact = model(shape, t=T, seeds=SEEDS, dtype=torch.float64)
    assert exact.dtype == torch.float64 and exact.shape == shape and exact.isfinite().all()
    assert model(shape, t=T, seeds=SEEDS).dtype == torch.float32
    # Half types: an ulp of rounding; Tsg rounds its two parts, its weights and its sum.
    for dtype, tolerance in ((torch.float32, 1.3e-6), (torch.float16, 2**-9), (torch.bfloat16, 2**-6)):
        noise = model(shape, t=T, seeds=SEEDS, device="cpu", dtype=dtype)
        assert noise.dtype == dtype
        assert float((noise.double() - exact).abs().max() / exact.abs().max()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_noise_like(kind):
    x = torch.zeros(3, 2, 8, 12, dtype=torch.float64)
    noise = dn.noise_like(x, kind, seed=5)
    assert noise.shape == x.shape and noise.dtype == x.dtype
    model = KINDS[kind]()
    assert torch.equal(
        noise, model(x.shape, t=torch.zeros(3, dtype=torch.int64), seeds=torch.tensor([5, 6, 7]), dtype=x.dtype)
    )
    t, seeds = torch.tensor([4, 5, 6]), torch.tensor([9, -9, 0])
    expected = model(x.shape, t=t, seeds=seeds, dtype=torch.float16)
    assert torch.equal(dn.noise_like(x.half(), kind, t=t, seeds=seeds), expected)

    def drawn(number: int) -> Tensor:
        return dn.noise_like(x, kind, generator=torch.Generator().manual_seed(number))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    torch.manual_seed(1)
    assert torch.equal(dn.noise_like(x, kind), drawn(1)), "torch's default generator, if nothing is given"


def test_noise_like_is_gaussian_by_default():
    x = torch.zeros(1, 1, 8, 8)
    assert torch.equal(dn.noise_like(x, seed=1), dn.noise_like(x, "gaussian", seed=1))


def test_make_seeds():
    assert make_seeds(3, seed=-1).tolist() == [-1, 0, 1]
    drawn = make_seeds(10_000, generator=torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64 and len(drawn.unique()) == 10_000
    assert stats.kstest(drawn.double().numpy() / 2**62, stats.uniform(-1, 2).cdf).pvalue > 0.01


@every_model
def test_configurations_survive_json(model):
    config = model.to_config()
    again = from_config(json.loads(json.dumps(config)))
    assert again == model and type(again) is type(model)
    assert config["kind"] == model.kind and KINDS[model.kind] is type(model)


def test_configurations_from_before_there_were_profiles_keep_their_meaning():
    config = KomalTsimplex(patch=8).to_config()
    assert config.pop("profile") == "gaussian"
    assert from_config(config) == KomalTsimplex(patch=8)


ORIGINS = torch.zeros(2, 2, dtype=torch.int64)
GOOD: dict[str, Any] = {"t": torch.tensor([1, 2]), "seeds": torch.tensor([1, 2])}
REFUSED = [
    (lambda model: model((2, 8, 8), **GOOD), r"shape must be \(B, C, H, W\), not \(2, 8, 8\)"),
    (lambda model: model((3, 1, 8, 8), **GOOD), r"seeds must hold one value per sample, shape \[3\]"),
    (
        lambda model: model((2, 1, 8, 8), t=torch.tensor([1]), seeds=GOOD["seeds"]),
        r"t must be an int64 tensor of shape \[2\]",
    ),
    (lambda model: model((2, 1, 8, 8), t=torch.tensor([1, 2, 3]), seeds=GOOD["seeds"]), "t must be an int64 tensor"),
    (lambda model: model((2, 1, 8, 8), t=torch.tensor([1.0, 2.0]), seeds=GOOD["seeds"]), "t must be an int64 tensor"),
    (lambda model: model((2, 1, 8, 8), t=GOOD["t"], seeds=torch.tensor([1.0, 2.0])), "seeds must be an int64 tensor"),
    (
        lambda model: model((2, 1, 8, 8), **GOOD, origins=ORIGINS[:, :1]),
        r"origins must be an int64 tensor of shape \[2, 2\]",
    ),
    (lambda model: model((2, 1, 8, 8), **GOOD, dtype=torch.uint8), "floating-point dtype"),
    (lambda model: model((2, 1, -8, 8), **GOOD), "must not be negative"),
]


@every_model
@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_calls_are_refused_in_sentences(model, call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call(model)
    assert str(caught.value).endswith(".")


X = torch.zeros(2, 1, 4, 4)
REFUSED_PARAMETERS = [
    (lambda: Simplex(octaves=0), "octaves must be at least 1"),
    (lambda: Tsimplex(persistence=0), "persistence must be positive"),
    (lambda: Simplex(frequency=-1), "wavelength must be a positive number"),
    (lambda: Simplex(frequency=math.nan), "wavelength must be a positive number"),
    (lambda: Simplex(dims=5), "dims must be 2, 3 or 4, not 5"),
    (lambda: Tsimplex(normalize="max"), "normalize must be"),
    (lambda: TsimplexGaussian(steps=0), "steps must be at least 1"),
    (lambda: TsimplexGaussian(octaves=0), "octaves must be at least 1"),
    (lambda: TsimplexGaussian(normalize="max"), "normalize must be"),
    (lambda: KomalTsimplex(sigma=0), "sigma must be positive"),
    (lambda: KomalTsimplex(patch=0), "patch at least 1"),
    (lambda: KomalTsimplex(coordinates="polar"), "coordinates must be"),
    (lambda: KomalTsimplex(profile="linear"), "profile must be"),
    (lambda: GaussianMixture(0)(X.shape, **GOOD), "components must be at least 1"),
    (lambda: GaussianMixture(5, 0.5, 0.1)(X.shape, **GOOD), "sigma_low and sigma_high must satisfy"),
    (lambda: from_config({"kind": "perlin"}), "Unknown noise 'perlin'; choose one of gaussian, simplex"),
    (lambda: from_config({}), "Unknown noise None"),
    (lambda: from_config({"kind": "simplex", "octave": 3}), "Noise 'simplex' does not take these parameters"),
    (lambda: dn.noise_like(X, "perlin"), "Unknown noise 'perlin'"),
    (lambda: dn.noise_like(X[0]), r"x must have shape \[B, C, H, W\]"),
    (lambda: dn.noise_like(X.to(torch.uint8)), "floating-point dtype"),
    (lambda: dn.noise_like(X, seed=1, generator=torch.Generator()), "either seed or generator"),
    (lambda: dn.noise_like(X, seed=1, seeds=torch.tensor([1, 2])), "either seeds, or seed or generator"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED_PARAMETERS)
def test_parameters_are_refused_in_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")
