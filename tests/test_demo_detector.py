"""The detector that comes with the package, on crops of the package's photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffnoise as dn
from diffnoise import demo
from diffnoise.demo.defects import PHOTOGRAPHS

BOUND = {"bfloat16": 5e-3, "float16": 1e-3}  # of scores relative to themselves, of maps relative to the largest value


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """One good crop and one with a defect of each photograph, uint8 [6, 1, 128, 128]."""
    folder = demo.build(tmp_path_factory.mktemp("demo") / "data") / "test"
    paths: list[Path] = []
    for name, defect in zip(PHOTOGRAPHS, ("hole", "patch", "smear"), strict=True):
        paths += [sorted((folder / kind).glob(f"{name}_*"))[0] for kind in ("good", defect)]
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).unsqueeze(1)


@pytest.fixture(scope="module")
def truth(images: torch.Tensor) -> dn.detector.PredictionBatch:
    return dn.load(demo.DETECTOR, device="cpu").predict(images)


@pytest.mark.parametrize("precision", BOUND)
@pytest.mark.parametrize("batch", (None, 6))
def test_half_precision_keeps_scores_and_maps_of_real_photographs(images, truth, precision, batch):
    detector = dn.load(demo.DETECTOR, device="cpu", execution=dn.Execution(precision, batch))
    found = detector.predict(images)
    assert not torch.equal(found.anomaly_map, truth.anomaly_map)
    assert float(((found.pred_score - truth.pred_score) / truth.pred_score).abs().max()) < BOUND[precision]
    largest = truth.anomaly_map.abs().max()
    assert float((found.anomaly_map - truth.anomaly_map).abs().max() / largest) < BOUND[precision]
    assert torch.equal(found.pred_label, truth.pred_label)
