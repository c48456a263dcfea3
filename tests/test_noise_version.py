"""Noise values never change within a noise version, and whatever is written says which one it has."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import opensimplex
import pytest
import torch
from golden import make
from test_noise import DROPPED_OF_SIX, channel_seed, uniform, words
from torch import Tensor

import diffnoise as dn
from diffnoise import cli
from diffnoise.checkpoint import load_checkpoint, save_checkpoint
from diffnoise.noise import KINDS, NOISE_VERSION, from_config
from diffnoise.ops import _philox

ROOT = Path(__file__).parent.parent
GOLDEN, META = make.read() if make.PATH.exists() else ({}, {"noise_version": None, "noises": []})
NOISES = list(enumerate(META["noises"]))
every_noise = pytest.mark.parametrize(("i", "config"), NOISES, ids=[f"{config['kind']}-{i}" for i, config in NOISES])
REMEDY = (
    f"Noise values of version {NOISE_VERSION} have changed. If that is meant, raise NOISE_VERSION in diffnoise/noise.py, run "
    "tests/golden/make.py and say so in CHANGELOG.md; files made with the old version will then be refused."
)


def agree(values: Tensor, golden: Tensor, tolerance: float) -> None:
    difference = float((values.double() - golden).abs().max())
    assert difference <= tolerance, f"{REMEDY} The largest difference is {difference:.1e}."


# Golden values.


def test_there_are_golden_values_of_this_version():
    assert META["noise_version"] == NOISE_VERSION, (
        f"tests/golden holds no values of noise version {NOISE_VERSION}: run tests/golden/make.py and keep the older files."
    )
    assert make.PATH.stat().st_size < 200_000


def test_every_kind_and_option_is_there():
    assert {config["kind"] for _, config in NOISES} == set(KINDS)
    for kind in ("simplex", "tsimplex", "tsg"):
        options = {(config["shift"], config["normalize"]) for _, config in NOISES if config["kind"] == kind}
        assert {(False, "none"), (True, "unit")} <= options
    assert {config["dims"] for _, config in NOISES if "dims" in config} == {2, 3, 4}
    assert {config["coordinates"] for _, config in NOISES if config["kind"] == "kts"} == {"global", "local"}
    assert {config["profile"] for _, config in NOISES if config["kind"] == "kts"} == {"gaussian", "exponential"}
    assert {config["signed"] for _, config in NOISES if config["kind"] == "gmm"} == {True, False}
    assert GOLDEN["origins"].min() < -1e8 and GOLDEN["origins"].max() > 1e7
    for i, _ in NOISES:
        assert GOLDEN[str(i)].shape == make.SHAPE and GOLDEN[str(i)].dtype == torch.float64
        assert bool(GOLDEN[str(i)].isfinite().all()) and float(GOLDEN[str(i)].std()) > 0.1


@every_noise
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_kernels_make_the_golden_values(i: int, config: dict[str, Any], dtype: torch.dtype) -> None:
    agree(make.noise(config, GOLDEN, dtype), GOLDEN[str(i)], 1e-5)


@every_noise
def test_references_make_the_golden_values(i: int, config: dict[str, Any]) -> None:
    with make.references():
        agree(make.noise(config, GOLDEN, torch.float64), GOLDEN[str(i)], 1e-9)
        agree(make.noise(config, GOLDEN, torch.float32), GOLDEN[str(i)], 1e-5)


def test_the_noise_of_reverse_steps_is_golden():
    agree(make.reverse_noise(GOLDEN, torch.float32), GOLDEN["reverse"], 1e-5)
    with make.references():
        agree(make.reverse_noise(GOLDEN, torch.float64), GOLDEN["reverse"], 1e-9)
    assert float((GOLDEN["reverse"] - GOLDEN["0"]).abs().max()) > 1, "a stream of its own"


def addresses() -> list[tuple[int, int, int, int, int, tuple[int, ...]]]:
    """(seed, t, channel, y, x, index) of some of the golden pixels."""
    batch, channels, height, width = make.SHAPE
    rows = zip(*(GOLDEN[name].tolist() for name in ("seeds", "t", "origins")), strict=True)
    return [
        (seed, t, channel, top + y, left + x, (sample, channel, y, x))
        for sample, (seed, t, (top, left)) in enumerate(rows)
        for channel in range(channels)
        for y in (0, 3, height - 1)
        for x in (0, 1, 6, width - 1)
    ]


def gaussian(seed: int, t: int, channel: int, y: int, x: int, stream: int = 0) -> float:
    """Box and Muller's transform of Philox words, which are checked against Random123's known answers in test_noise."""
    w = words(seed, t, channel, y, x // 4, stream)
    first, second = w[:2] if x % 4 < 2 else w[2:]
    angle = 2 * math.pi * uniform(second)
    return math.sqrt(-2 * math.log(uniform(first) + 2**-24)) * (math.cos(angle), math.sin(angle))[x % 2]


seeded = functools.cache(opensimplex.OpenSimplex)


def simplex(config: dict[str, Any], seed: int, t: int, channel: int, y: int, x: int) -> float:
    """The fractal sum over the opensimplex package, with the shifts drawn from Philox where there are any."""
    model = from_config({"kind": "tsimplex", **{k: v for k, v in config.items() if k not in ("kind", "steps")}})
    lattice_seed = channel_seed(model, seed, channel)
    package = seeded(lattice_seed)
    noise = {2: package.noise2, 3: package.noise3, 4: package.noise4}[model.dims]
    point = np.array({2: (x, y), 3: (x, y, t), 4: (x, y, channel, t)}[model.dims]) / model.frequency
    total = 0.0
    for k in range(model.octaves):
        drawn = words(lattice_seed, 0, 0, k, 0, _philox.STREAM_SHIFT)[: model.dims]
        shift = 256 * np.array([uniform(word) for word in drawn]) if model.shift else 0
        total += model.persistence**k * noise(*(point * 2**k + shift))
    return model.gain * total


@pytest.mark.parametrize(("i", "config"), [(i, config) for i, config in NOISES if config["kind"] not in ("gmm", "kts")])
def test_golden_values_are_true(i: int, config: dict[str, Any]) -> None:
    """Against the opensimplex package, which leaves out a few far lattice points, and Philox in Python's integers.

    test_noise compares mixtures with SciPy and KTs with the opensimplex package.
    """
    kind, golden = config["kind"], GOLDEN[str(i)]
    for seed, t, channel, y, x, index in addresses():
        alpha = {"gaussian": 0.0, "tsg": 1 - t / config.get("steps", 1)}.get(kind, 1.0)
        expected = (1 - alpha) * gaussian(seed, t, channel, y, x) if alpha < 1 else 0.0
        tolerance = 1e-12
        if alpha > 0:
            expected += alpha * simplex(config, seed, t, channel, y, x)
            # Twice as much for two octaves more and a gain of 2 to 3; where coordinates reach 1e8 they have 8 digits left.
            tolerance = 3 * max(DROPPED_OF_SIX[config.get("dims", 4)], 1e-7)
        assert float(golden[index]) == pytest.approx(expected, abs=tolerance)


def test_the_golden_noise_of_reverse_steps_is_true():
    for seed, t, channel, y, x, index in addresses():
        expected = gaussian(seed, t, channel, y, x, _philox.STREAM_REVERSE)
        assert float(GOLDEN["reverse"][index]) == pytest.approx(expected, abs=1e-12)


def test_the_golden_file_of_a_version_is_never_changed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(make, "PATH", tmp_path / "noise.safetensors")
    monkeypatch.setattr(make, "MODELS", [dn.noise.Gaussian()])
    assert make.main() == 0
    before = make.PATH.read_bytes()
    monkeypatch.setattr(make, "MODELS", [dn.noise.GaussianMixture(), dn.noise.Gaussian()])
    assert make.main() == 0, "more values may be added"
    added = make.PATH.read_bytes()
    assert len(added) > len(before)
    monkeypatch.setattr(make, "MODELS", [dn.noise.Gaussian()])
    assert make.main() == 1 and "raise NOISE_VERSION" in capsys.readouterr().out
    monkeypatch.setattr(make, "MODELS", [dn.noise.GaussianMixture(), dn.noise.Gaussian()])
    monkeypatch.setitem(make.ADDRESSES, "seeds", make.ADDRESSES["seeds"] + 1)
    assert make.main() == 1 and "raise NOISE_VERSION" in capsys.readouterr().out
    assert make.PATH.read_bytes() == added


# Where the version is recorded.


@pytest.fixture
def run(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the trained detector's folder."""
    for name in ("detector", "checkpoint"):
        (tmp_path / f"{name}.safetensors").write_bytes((trained[0] / f"{name}.safetensors").read_bytes())
    return tmp_path


def make_other_version(path: Path, kind: str, version: str | None = "0") -> None:
    """Rewrite a checkpoint as one of another noise version (None: of one that did not say)."""
    tensors, meta = load_checkpoint(path, kind)
    meta = {k: v for k, v in meta.items() if k not in ("kind", "format_version", "noise_version")}
    save_checkpoint(path, kind, tensors, meta | {"noise_version": version})


@pytest.mark.parametrize(("kind", "name"), (("detector", "detector"), ("training", "checkpoint")))
def test_checkpoints_record_it(run: Path, kind: str, name: str) -> None:
    path = run / f"{name}.safetensors"
    assert load_checkpoint(path, kind)[1]["noise_version"] == NOISE_VERSION
    for version in ("0", None):
        make_other_version(path, kind, version)
        with pytest.raises(
            dn.CheckpointError, match=f"noise version {version}, .*makes noise version {NOISE_VERSION};"
        ) as caught:
            load_checkpoint(path, kind)
        assert str(path) in str(caught.value) and str(caught.value).endswith(".")
        assert load_checkpoint(path, kind, any_noise_version=True)[1]["noise_version"] == version
        save_checkpoint(path, kind, *without_versions(path, kind))


def without_versions(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, meta = load_checkpoint(path, kind, any_noise_version=True)
    return tensors, {k: v for k, v in meta.items() if k not in ("kind", "format_version", "noise_version")}


def test_a_detector_of_another_version_has_to_be_calibrated_again(run: Path, trained: tuple[Path, Path]) -> None:
    """Thresholds that were set with other noise are refused, not used in silence; the weights can be kept."""
    before = dn.load(run)
    make_other_version(run / "detector.safetensors", "detector")
    with pytest.raises(dn.CheckpointError, match="any_noise_version=True.* and calibrate it again, or train again"):
        dn.load(run)
    detector = dn.load(run, any_noise_version=True)
    images = sorted((trained[1] / "test/good").iterdir())
    with pytest.raises(RuntimeError, match="no thresholds yet"):
        detector.predict(images[0])
    good = [dn.data.read_image(path, 1) for path in images]
    detector.calibrate(good)
    before.calibrate(good)
    assert detector.calibration == before.calibration
    detector.save(run)
    assert dn.load(run).calibration == before.calibration
    assert dn.load(run, any_noise_version=True).calibration == before.calibration


def test_score_refuses_a_detector_of_another_version(run: Path, trained: tuple[Path, Path], capsys) -> None:
    make_other_version(run / "detector.safetensors", "detector")
    assert cli.main(["score", str(run), str(trained[1]), "--output", str(run / "out")]) == 1
    assert "was made with noise version 0" in capsys.readouterr().err
    assert not (run / "out").exists()


def test_a_training_of_another_version_is_not_resumed(run: Path, tiny: Callable[..., dn.Detector]) -> None:
    make_other_version(run / "checkpoint.safetensors", "training")
    with pytest.raises(dn.CheckpointError, match="noise version 0, .* or train into another folder"):
        tiny().fit(torch.zeros(4, 1, 16, 16), dn.Training(max_steps=1), folder=run, resume=True)


def test_results_record_it(run: Path, trained: tuple[Path, Path], capsys) -> None:
    assert dn.load(run).provenance["versions"]["noise"] == NOISE_VERSION
    for command in (["score", str(run), str(trained[1] / "test")], ["eval", str(run), str(trained[1])]):
        folder = run / command[0]
        assert cli.main([*command, "--output", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["noise_version"] == NOISE_VERSION
        with (folder / "scores.csv").open(newline="") as file:
            assert {row["noise_version"] for row in csv.DictReader(file)} == {NOISE_VERSION}
        assert f"noise version {NOISE_VERSION}" in (folder / "report.html").read_text()
    assert json.loads((ROOT / "benchmarks/results/noise_study.json").read_text())["noise_version"] == NOISE_VERSION


def test_the_demo_detector_is_of_this_version():
    from diffnoise import demo

    assert load_checkpoint(demo.DETECTOR / "detector.safetensors", "detector")[1]["noise_version"] == NOISE_VERSION
