"""Classifier-free guidance against its formula."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_models import awake, deviation, image, small
from torch import Tensor

from diffnoise.models import ClassGuided, Output, denoise, prepare
from diffnoise.reverse import reverse_process
from diffnoise.schedule import Schedule

X_T, T = image(3, 2, 8, 8), torch.tensor([5, 70, 500])
CONFIG = small(2, 16, norm_groups=4, num_classes=3, learn_variance=True, feature_channels=4, feature_block=2)


@pytest.mark.parametrize("weight", (0.5, 3.0, -1.0))
def test_guidance_is_its_formula(weight):
    model = awake(CONFIG)
    with torch.inference_mode():
        of_class = model(X_T, T, class_labels=torch.tensor([1, 1, 1]))
        of_none = model(X_T, T, class_labels=torch.tensor([3, 3, 3]))
        prediction, variance, features = denoise(ClassGuided(model, 1, weight), X_T, T, learned_variance=True)
    expected = (1 + weight) * of_class.sample[:, :2] - weight * of_none.sample[:, :2]
    torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert torch.equal(variance, of_class.sample[:, 2:]) and torch.equal(features, of_class.features)


@pytest.mark.parametrize("wrap", (lambda output: output, lambda output: SimpleNamespace(sample=output)))
def test_weight_zero_asks_once(wrap):
    asked: list[Any] = []

    def model(x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Any:
        asked.append(class_labels)
        return wrap(x_t * (2 if class_labels is None else 3))

    assert torch.equal(denoise(ClassGuided(model, 2), X_T, T).prediction, 3 * X_T)
    assert len(asked) == 1 and torch.equal(asked[0], torch.tensor([2, 2, 2]))
    guided = denoise(ClassGuided(model, 2, 1.0), X_T, T).prediction
    torch.testing.assert_close(guided, 2 * 3 * X_T - 2 * X_T)
    assert len(asked) == 3 and asked[2] is None


def test_what_is_prepared_is_guided_the_same():
    model = awake(CONFIG)
    prepared = prepare(ClassGuided(model, 2, 1.5))
    assert isinstance(prepared, ClassGuided) and type(prepared.model).__name__ == "Plan"
    with torch.inference_mode():
        truth, found = ClassGuided(model, 2, 1.5)(X_T, T), prepared(X_T, T)
        assert isinstance(found, Output)
        assert deviation(found.sample, truth.sample.double()) < 1e-5
        assert deviation(prepare(ClassGuided(model, 2, 1.5), torch.bfloat16)(X_T, T).sample, truth.sample) < 0.03


def test_it_runs_backwards():
    model, schedule = awake(small(2, 16, norm_groups=4, num_classes=3)), Schedule.linear(1e-4, 2e-2, 50)
    x_t, table = image(2, 2, 8, 8), schedule.ddpm_table("fixed_small")
    with torch.inference_mode():
        results = [reverse_process(ClassGuided(model, 0, w), x_t, [9, 8, 7], table) for w in (0.0, 2.0)]
    assert results[0].isfinite().all() and (results[0] - results[1]).abs().max() > 1e-3
