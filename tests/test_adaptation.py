"""Domain adaptation of a tiny random backbone: its loss against the formula in numpy, and what it leads to."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffnoise.adaptation import Adaptation, adapt
from diffnoise.features import Backbone, Features, cosine_distance

IMAGES = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def blurred(images: Tensor, share: float) -> Tensor:
    return torch.lerp(images, F.avg_pool2d(images, 3, stride=1, padding=1), share)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(Features("resnet10t", (2, 3), "random"))


def one_minus_cosine(a: Tensor, b: Tensor, cosine: str) -> float:
    """Mean over the batch, in float64 numpy."""
    x, y = (each.double().numpy().reshape(*each.shape[:2], -1) for each in (a, b))  # [B, F, places]
    if cosine == "flat":
        x, y = (each.reshape(len(each), -1, 1) for each in (x, y))
    product, norms = (x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return float((1 - product / norms).mean())


@pytest.mark.parametrize("cosine", ["location", "flat"])
def test_loss_is_the_formula(backbone, cosine):
    """With learning rate zero an epoch of one batch reports the distances of all its blocks."""
    shares = []

    def reconstruct(images: Tensor, share: float) -> Tensor:
        shares.append(share)
        return blurred(images, share)

    settings = Adaptation(cosine=cosine, learning_rate=0)
    (loss,) = adapt(backbone, IMAGES, reconstruct, settings).losses
    pairs = zip(backbone(IMAGES, (1, 2, 3)), backbone(blurred(IMAGES, shares[0]), (1, 2, 3)), strict=True)
    assert loss == pytest.approx(sum(one_minus_cosine(a, b, cosine) for a, b in pairs), rel=1e-4)
    assert loss > 0.01


def test_shares_and_order_are_drawn_from_the_seed():
    seen: list[tuple[float, float]] = []

    class Still(Backbone):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.register_buffer("mean", torch.zeros(1))
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor, layers: object = None) -> list[Tensor]:
            return [images * self.weight]

    def reconstruct(images: Tensor, share: float) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.extend((share, float(image[0, 0, 0])) for image in images)
        return images.flip(3)

    numbers = torch.arange(120.0)[:, None, None, None].expand(-1, 1, 1, 2)
    for seed in (1, 1, 2):
        adapt(Still(), numbers, reconstruct, Adaptation(batch_size=1, seed=seed))
    first, again, other = seen[:120], seen[120:240], seen[240:]
    assert first == again and first != other
    assert sorted(number for _, number in first) == list(range(120))
    assert {share for share, _ in first} == {tenth / 10 for tenth in range(1, 11)}


def test_reconstructions_come_closer_and_the_backbone_is_left_alone(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    settings = Adaptation(epochs=3, batch_size=5, learning_rate=1e-3)

    def reconstruct(images: Tensor, share: float) -> Tensor:
        return blurred(images, 0.6)

    adapted, losses = adapt(backbone, IMAGES, reconstruct, settings)
    assert losses[2] < losses[1] < losses[0]
    held_out = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def distance(extractor: Backbone) -> Tensor:
        return cosine_distance(extractor(held_out), extractor(reconstruct(held_out, 1)), (32, 32)).mean()

    assert distance(adapted) < 0.7 * distance(backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    running = [name for name in before if "running" in name]
    assert running and all(torch.equal(adapted.state_dict()[name], before[name]) for name in running)
    assert not any(parameter.requires_grad for parameter in adapted.parameters()) and not adapted.training
    again = adapt(backbone, list(IMAGES), reconstruct, settings)
    assert again.losses == losses
    assert all(torch.equal(tensor, adapted.state_dict()[name]) for name, tensor in again.backbone.state_dict().items())


def test_distillation_is_its_formula_and_keeps_the_features(backbone):
    """In the first step the features are still the references; what is added afterwards holds them back."""
    free, kept = (
        adapt(
            backbone,
            IMAGES,
            blurred,
            Adaptation(epochs=2, learning_rate=1e-3, distillation=weight, layers=(2, 3), seed=3),
        )
        for weight in (0.0, 1.0)
    )
    assert kept.losses[0] == pytest.approx(free.losses[0], abs=1e-5)

    def drift(extractor: Backbone) -> float:
        pairs = zip(extractor(IMAGES), backbone(IMAGES), strict=True)
        return sum(one_minus_cosine(a, b, "flat") for a, b in pairs)

    assert drift(kept.backbone) < 0.9 * drift(free.backbone)


def test_no_epochs_give_the_same_features(backbone):
    adapted, losses = adapt(backbone, IMAGES, blurred, Adaptation(epochs=0))
    assert losses == [] and torch.equal(adapted(IMAGES)[0], backbone(IMAGES)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cosine": "global"}, "location, flat"),
        ({"epochs": -1}, "epochs must not be negative"),
        ({"learning_rate": float("nan")}, "learning_rate must not be negative"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Adaptation(**changes)
