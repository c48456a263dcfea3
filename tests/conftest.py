"""Tiny data and detectors that several test files share; everything is drawn from fixed seeds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffnoise as dn


def _torchvision_beside_any_torch() -> None:
    """timm imports torchvision, whose wheel from PyPI refuses to load beside another build of torch than its own.

    What it misses then are the schemas of two operators that nothing here calls.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(
                    f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )


_torchvision_beside_any_torch()
TINY = dn.UNetConfig(channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8)


def pytest_runtest_setup() -> None:
    """With tensors this small, several threads only wait for each other, on a busy machine for long."""
    torch.set_num_threads(1)


def texture(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    """A good image: a wavy texture with noise, uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 60 * np.sin(x / 3 + rng.uniform(0, 6)) + 30 * np.cos(y / 4 + rng.uniform(0, 6))
    return (128 + waves + rng.normal(0, 5, (height, width))).clip(0, 255).astype(np.uint8)


def spot(image: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The image with a white 5 x 5 square, and its mask, bool [H, W]."""
    rng = np.random.default_rng(seed)
    y, x = (int(rng.integers(0, length - 5)) for length in image.shape)
    mask = np.zeros(image.shape, bool)
    mask[y : y + 5, x : x + 5] = True
    return np.where(mask, np.uint8(255), image), mask


def build_category(root: Path, train: int = 10, good: int = 4, bad: int = 4) -> Path:
    """A category folder in MVTec layout; the images of the test side differ in size."""

    def write(path: str, pixels: np.ndarray) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)

    for i in range(train):
        write(f"train/good/{i:03}.png", texture(i))
    for i in range(good):
        write(f"test/good/{i:03}.png", texture(100 + i, 20 + 2 * i, 24))
    for i in range(bad):
        image, mask = spot(texture(200 + i, 20, 24 + 3 * i), i)
        write(f"test/spot/{i:03}.png", image)
        write(f"ground_truth/spot/{i:03}_mask.png", mask.astype(np.uint8) * 255)
    return root


def python_environment(threads: int = 1) -> dict[str, str]:
    """The environment of a Python process that finds this diffnoise and the tests."""
    folders = [str(Path(dn.__file__).parents[1]), str(Path(__file__).parent)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": str(threads)}


@pytest.fixture
def category(tmp_path: Path) -> Path:
    return build_category(tmp_path / "category")


@pytest.fixture
def tiny() -> Callable[..., dn.Detector]:
    """Makes an untrained detector with a tiny model whose weights are all random, so that its output is not zero."""

    def make(**settings: object) -> dn.Detector:
        torch.manual_seed(0)
        model = settings.pop("model", TINY)
        scoring = settings.pop("scoring", None) or dn.Scoring(starts=(100,), steps=2, filter_size=3)
        framing = settings.pop("framing", None) or dn.Framing(16)
        detector = dn.Detector(model, scoring=scoring, framing=framing, device="cpu", **settings)
        for parameter in detector.model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        return detector

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run folder, category folder) of a detector that was trained for some steps. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    data = build_category(folder / "category")
    torch.manual_seed(0)
    scoring = dn.Scoring(starts=(300,), steps=1, filter_size=3)
    detector = dn.Detector(
        TINY, dn.noise.Gaussian(), framing=dn.Framing(16), prediction="sample", scoring=scoring, device="cpu"
    )
    detector.fit(
        data,
        dn.Training(max_steps=100, warmup=5, learning_rate=5e-3, calibration_share=0.3, precision="fp32"),
        folder=folder / "run",
    )
    return folder / "run", data
