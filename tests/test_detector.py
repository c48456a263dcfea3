from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, python_environment, spot, texture
from PIL import Image
from torch import Tensor, nn

import diffnoise as dn
from diffnoise.anomaly import image_score
from diffnoise.capture import bucket
from diffnoise.ops.reverse_step import COLUMNS

Make = Callable[..., dn.Detector]


def good(count: int = 4, height: int = 20, width: int = 24, seed: int = 50) -> Tensor:
    """Images [B, 1, H, W], uint8."""
    return torch.from_numpy(np.stack([texture(seed + i, height, width) for i in range(count)])).unsqueeze(1)


def inside(images: Tensor) -> list[Tensor]:
    return list(images.float() / 255 * 2 - 1)


def calibrated(detector: dn.Detector, images: Tensor | None = None) -> dn.Detector:
    detector.calibrate(inside(good() if images is None else images))
    return detector


def equal(left: object, right: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))  # type: ignore[call-overload]


SETTINGS = {
    "plain": {},
    "scales and samples": {"scoring": dn.Scoring(starts=(40, 120), steps=3, samples=2, top_k=5, filter_size=3)},
    "ddpm": {
        "scoring": dn.Scoring(
            starts=(6,), steps=6, sampler="ddpm", variance="fixed_large", filter="gaussian", filter_sigma=1.0
        )
    },
    "kl, gaussian": {"scoring": dn.Scoring(starts=(60, 90), map="kl", filter="none"), "noise": dn.noise.Gaussian()},
    "tiles, tsimplex": {"framing": dn.Framing(16, "tile"), "noise": dn.noise.Tsimplex(octaves=3)},
    "tiles, gmm, same": {
        "framing": dn.Framing(16, "tile"),
        "noise": dn.noise.GaussianMixture(),
        "scoring": dn.Scoring(starts=(50,), steps=2, eta=1.0, reverse_noise="same", map="absolute"),
    },
    "crop, learned": {
        "model": dn.UNetConfig(
            channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8, learn_variance=True
        ),
        "framing": dn.Framing(16, "crop"),
        "scoring": dn.Scoring(starts=(30,), map="kl", variance="learned_range"),
    },
}


@pytest.fixture(params=SETTINGS)
def detector(request: pytest.FixtureRequest, tiny: Make) -> dn.Detector:
    return calibrated(tiny(**SETTINGS[request.param]))


def test_a_score_never_depends_on_batch_order_or_threads(detector: dn.Detector) -> None:
    images = good(5, seed=70)
    together = detector.predict(images)
    assert len(together.pred_score.unique()) == 5 and bool(together.anomaly_map.std() > 0)
    for i in range(5):
        assert equal(detector.predict(images[i]), [value[i : i + 1] for value in together])
    assert equal(detector.predict(images.flip(0)), [value.flip(0) for value in together])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert equal(detector.predict(images), together)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_frames_in_batches_score_as_alone_to_rounding(detector: dn.Detector, batch: int) -> None:
    images = good(5, seed=70)
    alone, calibration = detector.predict(images), detector.calibration
    detector.execution = dn.Execution(batch=batch)
    assert detector.calibration is calibration
    together = detector.predict(images)
    scale = alone.anomaly_map.abs().max()
    for value, truth in ((together.anomaly_map, alone.anomaly_map), (together.pred_score, alone.pred_score)):
        assert float((value - truth).abs().max() / scale) < 1e-5
    assert float((together.reconstruction - alone.reconstruction).abs().max()) < 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("batch", [None, 3])
def test_half_precision_scores_as_float32_nearly(detector: dn.Detector, precision: str, batch: int | None) -> None:
    images = good(5, seed=70)
    truth = detector.predict(images)
    detector.execution = dn.Execution(precision, batch)  # type: ignore[arg-type]
    found = detector.predict(images)
    assert not torch.equal(found.anomaly_map, truth.anomaly_map)
    spread = truth.anomaly_map.std()
    assert float((found.anomaly_map - truth.anomaly_map).square().mean().sqrt() / spread) < 0.05
    assert float((found.reconstruction - truth.reconstruction).square().mean().sqrt()) < 0.02


def test_new_weights_are_used_at_once(tiny: Make) -> None:
    detector = calibrated(tiny())
    images = good(2, seed=70)
    before = detector.predict(images)
    with torch.no_grad():
        next(detector.model.parameters()).mul_(2)
    changed = detector.predict(images)
    assert not torch.equal(changed.anomaly_map, before.anomaly_map)
    with torch.no_grad():
        next(detector.model.parameters()).div_(2)
    assert torch.equal(detector.predict(images).anomaly_map, before.anomaly_map)


def test_a_detector_made_in_inference_mode_scores(tiny: Make) -> None:
    images = good(2, seed=70)
    expected = calibrated(tiny()).predict(images).anomaly_map
    with torch.inference_mode():
        assert torch.equal(calibrated(tiny()).predict(images).anomaly_map, expected)


def test_what_execution_takes() -> None:
    for wrong, words in (
        ({"batch": 0}, "batch must be a whole number from 1 on"),
        ({"batch": 2.5}, "batch must be a whole number from 1 on"),
        ({"precision": "int8"}, "float32, bfloat16, float16"),
    ):
        with pytest.raises(ValueError, match=words):
            dn.Execution(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "most", "size"), [(1, 8, 1), (2, 8, 2), (3, 8, 4), (5, 8, 8), (5, 6, 6), (6, 6, 6)])
def test_buckets(count: int, most: int, size: int) -> None:
    assert bucket(count, most) == size


def test_saved_and_loaded_it_gives_the_same_bits(detector: dn.Detector, tmp_path: Path) -> None:
    images = good(3, seed=70)
    before = detector.predict(images)
    detector.provenance = {"note": "x"}
    assert detector.save(tmp_path / "new" / "run") == tmp_path / "new" / "run" / "detector.safetensors"
    for path in (tmp_path / "new" / "run", str(tmp_path / "new" / "run" / "detector.safetensors")):
        loaded = dn.load(path, device="cpu")
        assert equal(loaded.predict(images), before)
        assert loaded.calibration == detector.calibration and loaded.provenance == {"note": "x"}
        assert (
            loaded.scoring == detector.scoring and loaded.framing == detector.framing and loaded.noise == detector.noise
        )
        assert torch.equal(loaded.schedule.betas, detector.schedule.betas) and loaded.prediction == detector.prediction


def test_a_fitted_detector_gives_the_same_bits_after_loading(tmp_path: Path) -> None:
    model = dn.UNetConfig(channels=16, channel_mult=(1, 2, 2), norm_groups=4, head_channels=8, attention_levels=(1,))
    detector = dn.Detector(model, framing=dn.Framing(32), scoring=dn.Scoring(starts=(50,), steps=3), device="cpu")
    detector.fit(good(6, 32, 32), dn.Training(max_steps=4, batch_size=2), folder=tmp_path)
    images = good(3, 32, 32, seed=90)
    assert equal(dn.load(tmp_path, device="cpu").predict(images), detector.predict(images))


def test_the_mean_of_many_pixels_does_not_depend_on_threads() -> None:
    maps = torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        for top_k in (1, 64, 40_000, 200_000):
            values = []
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                values.append(image_score(maps, top_k))
            assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
            exact = np.sort(maps.double().numpy().reshape(1, -1))[:, -top_k:].mean(1)
            np.testing.assert_allclose(values[0].numpy(), exact, rtol=2e-7)
    finally:
        torch.set_num_threads(threads)


def test_thresholds_do_not_depend_on_threads(tiny: Make) -> None:
    threads = torch.get_num_threads()
    try:
        calibrations = []
        for count in (1, 2):
            torch.set_num_threads(count)
            calibrations.append(calibrated(tiny(), good(30, 48, 48)).calibration)
    finally:
        torch.set_num_threads(threads)
    assert calibrations[0] == calibrations[1]


def test_the_command_line_scores_the_same_with_any_number_of_threads(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, data = trained
    tables = []
    for threads in (1, 2):
        output = tmp_path / str(threads)
        command = [
            sys.executable,
            "-m",
            "diffnoise",
            "score",
            str(run),
            str(data / "test"),
            "--output",
            str(output),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=python_environment(threads))
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["images"], shown["failed"], shown["output"]) == (8, 0, str(output))
        tables.append((output / "scores.csv").read_bytes())
    assert tables[0] == tables[1]
    expected = dn.load(run, device="cpu").predict_files(sorted((data / "test").rglob("*.png")))
    assert [float(row.split(",")[1]) for row in tables[0].decode().splitlines()[1:]] == [
        result.pred_score for result in expected
    ]


def test_files_and_arrays_of_every_type_agree(tiny: Make, tmp_path: Path) -> None:
    detector = calibrated(tiny())
    images = good(3, seed=70)
    expected = detector.predict(images)
    array = images.movedim(1, -1).numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, array, strict=True):
        Image.fromarray(pixels[..., 0]).save(path)
    same = (
        array,
        read_only,
        images.float() / 255,
        (images.float() / 255).numpy().transpose(0, 2, 3, 1),
        paths,
        [str(p) for p in paths],
    )
    for form in same:
        assert equal(detector.predict(form), expected)
    assert equal(detector.predict(array[0]), [value[:1] for value in expected])
    assert equal(detector.predict(array[0, ..., 0]), [value[:1] for value in expected])
    assert equal(detector.predict(paths[0]), [value[:1] for value in expected])
    for result, *values in zip(detector.predict_files(paths), *expected, strict=True):
        score, label, anomaly_map, mask, reconstruction = values
        assert result.error == "" and result.pred_score == float(score) and result.pred_label == int(label)
        assert torch.equal(result.anomaly_map, anomaly_map) and torch.equal(result.pred_mask, mask)
        assert torch.equal(result.reconstruction, reconstruction)
    deep = (images.int() * 257).to(torch.uint16)  # 65535 / 255 = 257: the same values up to rounding
    for form in (deep, deep.movedim(1, -1).numpy(), images.double() / 255):
        torch.testing.assert_close(detector.predict(form).anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-4)


def test_no_images_give_an_empty_batch(tiny: Make) -> None:
    batch = calibrated(tiny()).predict(torch.zeros(0, 1, 20, 24, dtype=torch.uint8))
    assert [tuple(value.shape)[0] for value in batch] == [0] * 5
    assert list(calibrated(tiny()).predict_files([])) == []


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.full((1, 1, 8, 8), math.nan), "NaN"),
        (torch.full((1, 1, 8, 8), math.inf), "infinity"),
        (np.full((8, 8), np.nan), "NaN"),
        (torch.full((1, 1, 8, 8), 1.5), "lie in"),
        (torch.full((1, 1, 8, 8), -0.1), "lie in"),
        (torch.zeros(1, 3, 8, 8), "shape"),
        (torch.zeros(8, 8), "shape"),
        (np.zeros((2, 2, 2, 2, 1)), "shape"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), "uint8"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.bool), "uint8"),
        ("missing.png", "missing.png does not exist"),
    ],
)
def test_unusable_images_are_refused(tiny: Make, images: object, says: str) -> None:
    with pytest.raises(dn.DataError, match=says):
        calibrated(tiny()).predict(images)


def test_images_of_different_sizes_come_back_in_their_own(tiny: Make, tmp_path: Path) -> None:
    sizes = [(16, 16), (9, 30), (24, 17), (40, 33), (16, 50), (5, 5)]
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(texture(i, height, width)).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    for mode in ("resize", "crop", "tile"):
        detector = calibrated(tiny(framing=dn.Framing(16, mode)))
        results = list(detector.predict_files(paths))
        for result, path, size in zip(results, paths, sizes, strict=True):
            assert result.path == path and result.error == ""
            for value in (result.image, result.anomaly_map, result.pred_mask, result.reconstruction):
                assert tuple(value.shape) == (1, *size)
            assert result.anomaly_map.dtype == torch.float32 and result.pred_mask.dtype == torch.bool
            assert equal(detector.predict(path)[2:3], [result.anomaly_map[None]])
        with pytest.raises(dn.DataError, match="predict_files"):
            detector.predict(paths)


def test_a_tile_of_a_large_image_has_the_noise_of_its_place(tiny: Make) -> None:
    """Away from its border, a tile's map is that of the same pixels in another cut of the image."""

    class Local(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return x_t * 0.5

    scoring = dn.Scoring(starts=(100,), steps=2, filter="none")
    maps = []
    for size in (16, 24):
        detector = tiny(model=Local(), channels=1, framing=dn.Framing(size, "tile"), scoring=scoring)
        detector.calibration = dn.detector.Calibration(((0.0, 1.0),), 0.0, 0.0, 1.0, 1)
        maps.append(detector.predict(good(1, 40, 56)).anomaly_map)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6)


class Own(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)
        )
        self.scale = scale

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.body(x_t) * self.scale


def test_a_model_of_your_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="channels="):
        dn.Detector(Own())
    detector = dn.Detector(
        Own(), channels=1, framing=dn.Framing(13), scoring=dn.Scoring(starts=(50,), steps=2), device="cpu"
    )
    images = good(6)
    weights = [p.clone() for p in detector.model.parameters()]
    detector.fit(images, dn.Training(max_steps=5, batch_size=2), folder=tmp_path)
    assert not all(map(torch.equal, weights, detector.model.parameters())) and not detector.model.training
    before = detector.predict(images)
    with pytest.raises(dn.CheckpointError, match="model="):
        dn.load(tmp_path)
    assert equal(dn.load(tmp_path, model=Own(), device="cpu").predict(images), before)
    with pytest.raises(dn.CheckpointError, match=r"detector.safetensors does not fit.*body"):
        dn.load(tmp_path, model=nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_a_model_of_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)

    def make() -> nn.Module:
        return diffusers.UNet2DModel(
            sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), attention_head_dim=8,
        )  # fmt: skip

    detector = dn.Detector(make(), framing=dn.Framing(16), scoring=dn.Scoring(starts=(50,), steps=2), device="cpu")
    assert detector.channels == 1
    images = good(6)
    detector.fit(images, dn.Training(max_steps=3, batch_size=2), folder=tmp_path)
    before = detector.predict(images)
    assert equal(dn.load(tmp_path, model=make(), device="cpu").predict(images), before)
    assert equal(detector.predict(images[2]), [value[2:3] for value in before])


class SometimesNaN(nn.Module):
    """NaN for dark images."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t * 0.5 if x_t.mean() > -0.5 else x_t * math.nan


def test_a_model_that_is_not_finite_is_never_good(tiny: Make, tmp_path: Path) -> None:
    detector = calibrated(tiny(model=SometimesNaN(), channels=1))
    dark = torch.zeros(1, 1, 20, 24, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"Image 1: the model's output is not finite.*train again"):
        detector.predict(torch.cat([good(1), dark]))
    for i, image in enumerate((good(1)[0, 0], dark[0, 0], good(2)[1, 0])):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i}.png")
    results = list(detector.predict_files(sorted(tmp_path.iterdir())))
    assert [bool(result.error) for result in results] == [False, True, False]
    assert str(tmp_path / "1.png") in results[1].error and "not finite" in results[1].error
    assert results[1].pred_score is None and results[1].pred_label is None and results[1].anomaly_map is None
    with pytest.raises(ValueError, match="not finite"):
        detector.calibrate(inside(torch.cat([good(2), dark])))
    with pytest.raises(RuntimeError, match="no thresholds"):  # and nothing half done is left
        detector.predict(good(1))


def test_thresholds_come_from_the_good_images_that_were_kept_out(trained: tuple[Path, Path]) -> None:
    run, data = trained
    detector = dn.load(run, device="cpu")
    calibration = detector.calibration
    paths = sorted((data / "train" / "good").iterdir())
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    kept_out = [paths[i] for i in order[:3]]
    assert calibration.good_images == 3 and detector.provenance["train_images"] == 7
    detector.calibration = replace(calibration, scales=((0.0, 1.0),))
    raw = detector.predict(kept_out).anomaly_map.double().numpy()
    mean, deviation = raw.mean(), raw.std()
    assert calibration.scales[0] == pytest.approx((mean, deviation), rel=1e-5)
    largest = np.sort(((raw - mean) / deviation).max((1, 2, 3)))
    assert calibration.image_threshold == pytest.approx(
        largest[-1], rel=1e-4
    )  # ceil(4 x 0.95) = 4: beyond the three, so the largest
    assert calibration.pixel_threshold == pytest.approx(largest[-1], rel=1e-4)


@pytest.mark.parametrize(("rate", "rank"), [(0.05, 12), (0.1, 12), (0.2, 11), (0.5, 7), (0.9, 2)])
def test_the_threshold_is_the_conformal_rank(tiny: Make, rate: float, rank: int) -> None:
    """ceil(13 (1 - rate)) of twelve scores, top_k = 7."""
    images = good(12)
    detector = calibrated(tiny(scoring=dn.Scoring(starts=(100,), steps=2, top_k=7, false_alarm_rate=rate)), images)
    batch = detector.predict(images)
    maps = batch.anomaly_map.double().numpy().reshape(12, -1)
    scores = np.sort(np.sort(maps)[:, -7:].mean(1))
    assert detector.calibration.image_threshold == pytest.approx(scores[rank - 1], rel=1e-5)
    assert detector.calibration.pixel_threshold == pytest.approx(np.sort(maps.max(1))[rank - 1], rel=1e-6)
    assert int(batch.pred_label.sum()) == 12 - rank
    assert torch.equal(batch.pred_mask, batch.anomaly_map > detector.calibration.pixel_threshold)
    assert maps.mean() == pytest.approx(0, abs=1e-5) and maps.std() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "kind"), [("resize", "squared"), ("tile", "absolute"), ("crop", "kl"), ("tile", "kl")]
)
def test_good_images_score_as_in_the_calibration(tiny: Make, mode: str, kind: str) -> None:
    """To the bit, or the image that sets a threshold could lie above it; in units whose mean over the good images is 0."""
    scoring = dn.Scoring(starts=(40, 300), samples=1, map=kind, filter="gaussian", filter_sigma=1.0)
    images = good(3, 20, 40)
    detector = calibrated(tiny(framing=dn.Framing(16, mode), scoring=scoring), images)
    batch = detector.predict(images)
    assert detector.calibration.image_threshold == float(batch.pred_score.max())
    assert detector.calibration.pixel_threshold == float(batch.anomaly_map.max())
    assert not batch.pred_label.any() and not batch.pred_mask.any()
    assert mode == "crop" or float(batch.anomaly_map.double().mean()) == pytest.approx(0, abs=1e-5)


def units(value: float = 1.0, scales: int = 1) -> dn.detector.Calibration:
    return dn.detector.Calibration(((0.0, value),) * scales, 0.0, 0.0, 1.0, 1)


def raw_maps(make: Make, images: Tensor, **scoring: object) -> Tensor:
    detector = make(scoring=dn.Scoring(**({"samples": 1} | scoring)))
    detector.calibration = units()
    return detector.predict(images)


def test_several_noise_scales_are_averaged_in_units_of_good_images(tiny: Make) -> None:
    images, common = good(2, seed=70), {"steps": 2, "filter_size": 3}
    detector = tiny(scoring=dn.Scoring(starts=(40, 300), samples=1, **common))
    calibrated(detector)
    singles, kept_out = (
        [raw_maps(tiny, i, starts=(s,), **common).anomaly_map.double() for s in (40, 300)] for i in (images, good())
    )
    expected = sum((m - k.mean()) / k.std(correction=0) for m, k in zip(singles, kept_out, strict=True)) / 2
    torch.testing.assert_close(detector.predict(images).anomaly_map.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["squared", "absolute", "kl"])
def test_several_samples_are_averaged(tiny: Make, kind: str) -> None:
    images = good(2, 16, 16, seed=70)
    common = {"starts": (100,), "steps": 2, "map": kind, "filter": "none"}
    averaged = raw_maps(tiny, images, samples=3, seed=5, **common)
    singles = [raw_maps(tiny, images, seed=seed, **common) for seed in (5, 6, 7)]
    assert not torch.equal(singles[0].anomaly_map, singles[1].anomaly_map)
    reconstruction = sum(s.reconstruction.double() for s in singles) / 3
    torch.testing.assert_close(averaged.reconstruction.double(), reconstruction, rtol=1e-5, atol=1e-6)
    difference = images.double() / 255 * 2 - 1 - reconstruction
    expected = {
        "squared": difference**2,
        "absolute": difference.abs(),
        "kl": sum(s.anomaly_map.double() for s in singles) / 3,
    }[kind]
    torch.testing.assert_close(averaged.anomaly_map.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_map_is_that_of_partial_diffusion_written_out(tiny: Make, sampler: str) -> None:
    """Noise at T' - 1, every step back by the formulas of the papers, squared difference; in float64."""
    start = 5
    image = good(1, 16, 16, seed=70)
    scoring = dn.Scoring(
        starts=(start,),
        steps=start,
        sampler=sampler,
        clip=None,
        map="squared",
        filter="none",
        variance="fixed_large",
        eta=0.0,
        samples=1,
    )
    detector = tiny(scoring=scoring, prediction="epsilon")
    detector.calibration = units()
    z, step = [], dn.ops.reverse_step

    x_0 = image.double() / 255 * 2 - 1
    t = torch.tensor([start - 1])
    eps = detector.noise((1, 1, 16, 16), t=t, seeds=torch.tensor([0])).double()
    ab = detector.schedule.alpha_bars
    x = ab[start - 1].sqrt() * x_0 + (1 - ab[start - 1]).sqrt() * eps
    for index in reversed(range(start)):
        with torch.no_grad():
            output = detector.model(x.float(), torch.tensor([index])).double()
        previous = ab[index - 1] if index else torch.tensor(1.0, dtype=torch.float64)
        predicted = (x - (1 - ab[index]).sqrt() * output) / ab[index].sqrt()
        if sampler == "ddim":
            x = previous.sqrt() * predicted + (1 - previous).sqrt() * output
            continue
        beta = detector.schedule.betas[index]
        x = (
            previous.sqrt() * beta / (1 - ab[index]) * predicted
            + (1 - beta).sqrt() * (1 - previous) / (1 - ab[index]) * x
        )
        if index:
            # The op's own Gaussian noise, the rest of the step being zero.
            table = torch.zeros(detector.schedule.steps, len(COLUMNS))
            table[:, 5] = 1
            zero = torch.zeros(1, 1, 16, 16)
            z.append(step(zero, zero, torch.tensor([index]), table, seeds=torch.tensor([0])))
            x = x + beta.sqrt() * z[-1].double()
    result = detector.predict(image)
    torch.testing.assert_close(result.reconstruction.double(), x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.anomaly_map.double(), (x_0 - x) ** 2, rtol=1e-3, atol=1e-5)
    if sampler == "ddpm":
        assert torch.cat(z).std() == pytest.approx(1, abs=0.1)


def test_filters_act_on_the_map(tiny: Make) -> None:
    from scipy import ndimage

    images, common = good(1, 16, 16, seed=70), {"starts": (100,), "steps": 2}
    plain = raw_maps(tiny, images, filter="none", **common).anomaly_map[0, 0].double().numpy()
    mean = raw_maps(tiny, images, filter="mean", filter_size=5, **common).anomaly_map[0, 0].double().numpy()
    gauss = raw_maps(tiny, images, filter="gaussian", filter_sigma=1.5, **common).anomaly_map[0, 0].double().numpy()
    np.testing.assert_allclose(mean, ndimage.uniform_filter(plain, 5, mode="mirror"), rtol=1e-4)
    np.testing.assert_allclose(gauss, ndimage.gaussian_filter(plain, 1.5, mode="mirror", truncate=4.0), rtol=1e-4)


def test_another_scoring_drops_the_calibration_and_says_so(tiny: Make, tmp_path: Path) -> None:
    detector = calibrated(tiny())
    detector.scoring = replace(detector.scoring, steps=3)
    assert detector.calibration is None
    with pytest.raises(RuntimeError, match="calibrate with good images after changing the scoring"):
        detector.predict(good(1))
    with pytest.raises(RuntimeError, match="thresholds"):
        next(detector.predict_files([]))
    detector.save(tmp_path)
    assert dn.load(tmp_path, device="cpu").calibration is None
    calibrated(detector).predict(good(1))


def test_predictions_may_be_nested(tiny: Make, tmp_path: Path) -> None:
    detector = calibrated(tiny())
    for i in range(6):
        Image.fromarray(texture(i)).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    expected = detector.predict(paths)
    for i, result in enumerate(detector.predict_files(paths)):
        assert equal(detector.predict(paths[i]), [value[i : i + 1] for value in expected])
        assert result.pred_score == float(expected.pred_score[i])
    results = detector.predict_files(paths)
    next(results)
    results.close()  # stopping early leaves no thread and no setting behind
    assert equal(detector.predict(paths), expected)


def test_a_trained_detector_finds_the_spots(trained: tuple[Path, Path]) -> None:
    run, _ = trained
    detector = dn.load(run, device="cpu")
    images, masks = zip(*(spot(texture(300 + i), i) for i in range(6)), strict=True)
    maps = detector.predict(np.stack(images)[..., None]).anomaly_map[:, 0].numpy()
    assert dn.metrics.pixel_auroc(list(maps), list(masks)) > 0.7


def test_impossible_detectors_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        dn.Detector(TINY, framing=dn.Framing(18))
    with pytest.raises(ValueError, match="starts"):
        dn.Detector(TINY, framing=dn.Framing(16), scoring=dn.Scoring(starts=(2000,)))
    with pytest.raises(ValueError, match="prediction"):
        dn.Detector(TINY, framing=dn.Framing(16), prediction="noise")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA.*cpu"):
            dn.Detector(TINY, framing=dn.Framing(16), device="cuda")


@pytest.mark.parametrize(
    "wrong",
    [
        {"starts": ()}, {"starts": (0,)}, {"steps": 0}, {"top_k": 0}, {"samples": 0}, {"false_alarm_rate": 0.0}, {"clip": 0.0}, {"eta": -1.0},
        {"omega": math.nan}, {"filter_size": 4}, {"filter": "gaussian", "filter_sigma": 0.0}, {"sampler": "euler"}, {"map": "cubed"},
        {"variance": "none"}, {"filter": "median"}, {"reverse_noise": "other"},
    ],
)  # fmt: skip
def test_impossible_scorings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        dn.Scoring(**wrong)


class Infinite(nn.Module):
    """Its infinity is clipped away in the predicted x_0, and so in a KL map."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        output = torch.zeros_like(x_t)
        output[..., 3, 3] = torch.inf
        return output


def test_an_infinite_output_is_not_hidden_by_the_clip_of_a_kl_map() -> None:
    detector = dn.Detector(Infinite(), channels=1, framing=dn.Framing(16), scoring=dn.Scoring(starts=(60,), map="kl"))
    with pytest.raises(ValueError, match="not finite"):
        detector.calibrate(inside(good()))


def test_a_learned_variance_needs_a_model_that_has_one() -> None:
    with pytest.raises(ValueError, match="learn_variance=True"):
        dn.Detector(TINY, framing=dn.Framing(16), scoring=dn.Scoring(sampler="ddpm", variance="learned_range"))
