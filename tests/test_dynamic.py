"""The choice of the number of steps against scikit-learn's nearest neighbours and numpy's bins."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from diffnoise.dynamic import DynamicSteps, StepSelector
from diffnoise.features import Backbone, Features


def features(count: int, seed: int, spread: float = 1.0, width: int = 40) -> Tensor:
    """Rows whose distances to each other differ much; exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator) * torch.rand(count, 1, generator=generator) * spread
    return rows.half().float()


GOOD, NEW = features(600, 0), features(300, 1, spread=1.5)


def peer(bank: Tensor, queries: Tensor | None, neighbours: int = 20) -> np.ndarray:
    """Mean distances by scikit-learn; None: of the bank's rows, without themselves."""
    model = NearestNeighbors(n_neighbors=neighbours, metric="manhattan").fit(bank.double().numpy())
    return model.kneighbors(None if queries is None else queries.double().numpy())[0].mean(1)


def test_distances_are_those_of_scikit_learn():
    selector = StepSelector.fit(DynamicSteps(), GOOD.split(250))
    np.testing.assert_allclose(selector.distances(NEW), peer(GOOD, NEW), rtol=1e-5)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_bins_are_numpys(exclude_self):
    """Histogram edges of the good frames' distances, then digitize with closed right edges, as the authors' code has it."""
    selector = StepSelector.fit(DynamicSteps(exclude_self=exclude_self), [GOOD])
    edges = np.histogram(peer(GOOD, None if exclude_self else GOOD), 10)[1]
    np.testing.assert_allclose(selector.edges, edges, rtol=1e-5)
    expected = np.clip(np.digitize(peer(GOOD, NEW), edges, right=True), 2, 10)
    assert set(expected) == set(range(2, 11))
    np.testing.assert_array_equal(selector.bins(NEW), expected)


def test_quantile_bins_hold_equally_many_good_frames():
    selector = StepSelector.fit(DynamicSteps(binning="quantile", least_bin=1), [GOOD])
    assert selector.bins(GOOD).bincount(minlength=11).tolist() == [0] + [60] * 10


def test_outside_the_good_distances_are_the_outer_bins():
    selector = StepSelector.fit(DynamicSteps(), [GOOD])
    assert selector.starts(torch.stack([GOOD.mean(0), torch.full((40,), 50.0)])).tolist() == [20, 80]


def test_steps_of_the_bins_are_published():
    """T' of bins 2..10 with T_max = 80: the authors' code, and the paper's floor(b / |B| T_max)."""
    assert DynamicSteps().starts == (20, 20, 30, 40, 50, 60, 60, 70, 80)
    assert DynamicSteps(round_to=0).starts == (16, 24, 32, 40, 48, 56, 64, 72, 80)
    assert DynamicSteps(round_to=0, least_bin=1, bins=3).starts == (26, 53, 80)


def test_starts_are_those_of_the_bins():
    selector = StepSelector.fit(DynamicSteps(), [GOOD])
    expected = [selector.settings.starts[number - 2] for number in selector.bins(NEW)]
    assert selector.starts(NEW).tolist() == expected


def test_a_selector_comes_back_from_its_tensors_and_settings():
    selector = StepSelector.fit(DynamicSteps(neighbours=3), [GOOD])
    settings = DynamicSteps(**json.loads(json.dumps(dataclasses.asdict(selector.settings))))
    again = StepSelector(settings, **selector.state())
    assert settings == selector.settings and torch.equal(again.starts(NEW), selector.starts(NEW))
    assert selector.state()["bank"].dtype == torch.float16


def test_a_frame_is_judged_alone():
    selector = StepSelector.fit(DynamicSteps(), [GOOD])
    alone = torch.cat([selector.distances(row[None]) for row in NEW[:20]])
    assert torch.equal(alone, selector.distances(NEW)[:20])


def test_one_repeated_good_frame_makes_bins_all_the_same():
    selector = StepSelector.fit(DynamicSteps(), [GOOD[:1].expand(30, -1)])
    assert selector.starts(GOOD[:2]).tolist() == [20, 80]


def test_features_are_pooled_maps_of_the_backbone():
    backbone = Backbone(Features("resnet10t", (2,), "random"))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = DynamicSteps(pool=4)
    (maps,) = backbone(images)  # [2, 128, 8, 8]
    expected = maps.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)).flatten(1)
    torch.testing.assert_close(settings.embed(backbone, images), expected)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 21 good frames, not 20"):
        StepSelector.fit(DynamicSteps(exclude_self=True), [GOOD[:20]])
    for changes, message in (
        ({"binning": "log"}, "equal_width, quantile"),
        ({"neighbours": 0}, "neighbours must be at least 1"),
        ({"least_bin": 11}, "least_bin must lie in 1..bins = 1..10"),
        ({"t_max": 20, "least_bin": 1}, "nor make T' 0"),
        ({"round_to": -1}, "round_to must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            DynamicSteps(**changes)
