"""The density of features against scipy's Mahalanobis distance, and what its gradient does to an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor

import diffnoise as dn
from diffnoise.features import Backbone, Features
from diffnoise.gradient_denoising import Density, GradientDenoising, gradient_denoise
from diffnoise.reverse import reverse_process

SETTINGS = GradientDenoising(layers=(1, 2), dims=6, outer=3)


def images(count: int, seed: int) -> Tensor:
    """Good images: all nearly the same."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9)) - 0.5
    return same + 0.1 * torch.randn(count, 3, 16, 16, generator=generator)


@pytest.fixture(scope="module")
def density() -> Density:
    return Density.fit(Backbone(Features("resnet10t", (2,), "random")), SETTINGS, images(40, 0).split(16))


def test_distances_are_scipys(density):
    def features(x: Tensor) -> np.ndarray:
        first, second = density.backbone(x, (1, 2))  # [B, 64, 4, 4], [B, 128, 2, 2]
        second = torch.nn.functional.interpolate(second, (4, 4), mode="bilinear")
        return torch.cat([first, second], 1)[:, density.chosen].double().numpy()

    good, new = features(images(40, 0)), features(images(2, 1) + 0.3)
    distances = density.distance(images(2, 1) + 0.3)
    assert distances.shape == (2, 4, 4) and len(set(density.chosen.tolist())) == 6
    for b, y, x in np.ndindex(2, 4, 4):
        at = good[:, :, y, x]
        inverse = np.linalg.inv(np.cov(at.T) + 0.01 * np.eye(6))
        expected = mahalanobis(new[b, :, y, x], at.mean(0), inverse)
        assert distances[b, y, x].item() == pytest.approx(expected, rel=1e-3)


def test_the_gradient_makes_a_frame_denser(density):
    bad = images(2, 2)
    bad[:, :, 4:10, 4:10] += 1
    repaired = gradient_denoise(bad, density, lambda x: x)
    assert (density.distance(repaired).mean((1, 2)) < 0.7 * density.distance(bad).mean((1, 2))).all()
    assert not repaired.requires_grad


def test_one_step_is_the_formula_and_an_image_is_alone_in_it():
    """A density whose distance is linear in the image has the same gradient g everywhere."""
    slope = torch.linspace(-1, 3, 12).view(1, 3, 2, 2)

    class Linear(Density):
        def __init__(self) -> None:
            self.settings = GradientDenoising(inner=1, outer=2, strength=0.6)

        def distance(self, images: Tensor) -> Tensor:
            return (images * slope).sum((1, 2, 3))[:, None, None]

    x = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    step = -0.6 * slope / np.std(slope.numpy(), ddof=1)
    expected = (0.8 * ((0.8 * x + step) / 2) + step) / 2
    torch.testing.assert_close(gradient_denoise(x, Linear(), lambda y: y / 2), expected)


def test_the_reverse_process_without_seeds_is_the_denoising(density):
    """mu = (x - beta eps / sqrt(1 - alpha_bar)) / sqrt(alpha) at t, and no noise."""
    schedule = dn.Schedule.linear()
    settings, calls = replace(SETTINGS, outer=1, inner=0), []

    def model(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t.tolist())
        return 0.3 * x + 0.1

    table = schedule.ddpm_table()
    still = Density(density.backbone, settings, **density.state())
    x = images(2, 5)
    moved = gradient_denoise(x, still, lambda y: reverse_process(model, y, [settings.t], table, clip=None))
    beta, alpha_bar = float(schedule.betas[8]), float(schedule.alpha_bars[8])
    expected = (x - beta / (1 - alpha_bar) ** 0.5 * (0.3 * x + 0.1)) / (1 - beta) ** 0.5
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)
    assert calls == [[8, 8]]


def test_a_density_comes_back_from_its_tensors(density):
    again = Density(density.backbone, SETTINGS, **density.state())
    assert torch.equal(again.distance(images(1, 3)), density.distance(images(1, 3)))


def test_what_cannot_be_is_refused(density):
    with pytest.raises(ValueError, match="at least two good images, not 1"):
        Density.fit(density.backbone, SETTINGS, [images(1, 0)])
    with pytest.raises(ValueError, match="at least two good images, not 0"):
        Density.fit(density.backbone, SETTINGS, [])
    for changes, message in (
        ({"inner": -1}, "inner must not"),
        ({"strength": 1.0}, "strength"),
        ({"ridge": 0.0}, "ridge"),
    ):
        with pytest.raises(ValueError, match=message):
            GradientDenoising(**changes)
