from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from diffnoise.similarity import MS_SSIM_WEIGHTS, ms_ssim, ssim

RNG = np.random.default_rng(3)


def pair(shape: tuple[int, ...], noise: float = 0.3, middle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a noisy copy, float64 [B, C, H, W]."""
    y, x = np.mgrid[: shape[2], : shape[3]]
    waves = np.sin(x / 5 + RNG.uniform(0, 6, (*shape[:2], 1, 1))) * np.cos(
        y / 9 + RNG.uniform(0, 6, (*shape[:2], 1, 1))
    )
    return middle + waves, middle + waves * 0.8 + noise * RNG.standard_normal(shape)


def by_skimage(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """Mean over the channels of one image [C, H, W]; skimage leaves out the border that its windows do not fill."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": data_range}
    return float(np.mean([structural_similarity(*channels, **settings) for channels in zip(a, b, strict=True)]))


def parts(a: np.ndarray, b: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    """Luminance and contrast maps of [H, W], cut to the windows that fit."""
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)

    def blur(x: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x, taps / taps.sum(), 0), taps / taps.sum(), 1)[5:-5, 5:-5]

    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = blur(a), blur(b)
    covariance = blur(a * b) - mean_a * mean_b
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    return (2 * mean_a * mean_b + c_1) / (mean_a**2 + mean_b**2 + c_1), (2 * covariance + c_2) / (variances + c_2)


def halved(x: np.ndarray) -> np.ndarray:
    """2 x 2 means; an odd row or column is mirrored, as in the authors' code."""
    x = np.pad(x, [(0, x.shape[0] % 2), (0, x.shape[1] % 2)], mode="symmetric")
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3))


def by_formula(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """MS-SSIM of one image [C, H, W]."""
    values = []
    for x, y in zip(a, b, strict=True):
        value = 1.0
        for scale, weight in enumerate(MS_SSIM_WEIGHTS):
            luminance, contrast = parts(x, y, data_range)
            value *= (contrast if scale < 4 else luminance * contrast).mean() ** weight
            x, y = halved(x), halved(y)
        values.append(value)
    return float(np.mean(values))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("data_range", "middle"), [(1.0, 0.0), (8.0, 0.0), (255.0, 130.0)])
def test_ssim_is_that_of_skimage(channels: int, data_range: float, middle: float) -> None:
    a, b = pair((2, channels, 24, 31), 0.3 * data_range / 8, middle)
    expected = [by_skimage(x, y, data_range) for x, y in zip(a, b, strict=True)]
    exact = ssim(torch.from_numpy(a), torch.from_numpy(b), data_range)
    np.testing.assert_allclose(exact, expected, rtol=1e-9)
    single = ssim(torch.from_numpy(a).float(), torch.from_numpy(b).float(), data_range)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=2e-4)


@pytest.mark.parametrize("size", [(161, 176), (165, 203)])
def test_ms_ssim_is_that_of_its_formula(size: tuple[int, int]) -> None:
    a, b = pair((2, 2, *size))
    expected = [by_formula(x, y, 4.0) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ms_ssim(torch.from_numpy(a), torch.from_numpy(b), 4.0), expected, rtol=1e-9)
    np.testing.assert_allclose(
        ms_ssim(torch.from_numpy(a).float(), torch.from_numpy(b).float(), 4.0), expected, rtol=1e-4
    )


@pytest.mark.parametrize("similarity", [ssim, ms_ssim])
def test_every_image_has_its_own_range_and_equal_images_have_one(similarity) -> None:
    a, b = map(torch.from_numpy, pair((3, 1, 161, 161)))
    ranges = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    together = similarity(a, b, ranges)
    alone = [float(similarity(a[i : i + 1], b[i : i + 1], float(ranges[i]))) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    np.testing.assert_allclose(similarity(a, a, 2.0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(similarity(b, a, ranges), together, rtol=1e-9)


def test_half_types_are_computed_in_float32() -> None:
    a, b = (torch.from_numpy(x).bfloat16() for x in pair((1, 1, 20, 20)))
    assert torch.equal(ssim(a, b, 2.0), ssim(a.float(), b.float(), 2.0))


@pytest.mark.parametrize(("similarity", "size"), [(ssim, 13), (ms_ssim, 161)])
def test_gradients_are_the_slopes(similarity, size: int) -> None:
    a, b = map(torch.from_numpy, pair((1, 2, size, size)))
    a.requires_grad_()
    similarity(a, b, 2.0).sum().backward()
    direction = torch.from_numpy(RNG.standard_normal(a.shape))
    with torch.no_grad():
        higher, lower = (similarity(a + step * direction, b, 2.0) for step in (1e-5, -1e-5))
    assert float((a.grad * direction).sum()) == pytest.approx(float(higher - lower) / 2e-5, rel=1e-5)


def test_opposite_images_have_no_multi_scale_similarity_and_no_broken_gradient() -> None:
    a = torch.from_numpy(pair((1, 1, 161, 161))[0]).requires_grad_()
    value = ms_ssim(a, -a.detach(), 2.0)
    value.sum().backward()
    assert float(value.detach()) == 0 and not bool(a.grad.any())


@pytest.mark.parametrize(
    ("similarity", "shapes", "settings", "says"),
    [
        (ssim, ((1, 1, 10, 30), (1, 1, 10, 30)), {}, "at least 11 x 11 pixels, not 10 x 30"),
        (ssim, ((1, 1, 12, 12), (1, 1, 12, 12)), {"window": 13}, "at least 13 x 13"),
        (ms_ssim, ((1, 1, 300, 160), (1, 1, 300, 160)), {}, "at least 161 x 161 pixels, not 300 x 160.* or ssim"),
        (ssim, ((1, 1, 16, 16), (1, 3, 16, 16)), {}, "one shape"),
        (ssim, ((16, 16), (16, 16)), {}, "one shape"),
        (ssim, ((1, 1, 16, 16), (1, 1, 16, 16)), {"window": 8}, "window must be odd"),
        (ssim, ((1, 1, 16, 16), (1, 1, 16, 16)), {"sigma": 0.0}, "sigma must be positive"),
        (ssim, ((1, 1, 16, 16), (1, 1, 16, 16)), {"data_range": 0.0}, "data_range must be positive"),
        (ssim, ((2, 1, 16, 16), (2, 1, 16, 16)), {"data_range": torch.ones(3)}, r"data_range .*\[2\], not \[3\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(similarity, shapes, settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        similarity(*map(torch.zeros, shapes), **({"data_range": 1.0} | settings))
