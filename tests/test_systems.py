"""The papers' systems, tiny: what stands around the denoiser, against the formulas and through saving and loading."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, build_category, texture
from PIL import Image
from test_codec import autoencoder
from torch import Tensor

import diffnoise as dn
from diffnoise.adaptation import Adaptation
from diffnoise.checkpoint import CheckpointError
from diffnoise.cli import main
from diffnoise.codec import AutoencoderKL
from diffnoise.dynamic import DynamicSteps
from diffnoise.features import Backbone, Features, stacked
from diffnoise.methods import preset
from diffnoise.metrics import otsu_threshold

Make = Callable[..., dn.Detector]
SIZE = 32
RANDOM = Features("resnet10t", (1, 2), "random")
ONE_STEP = dn.Scoring(starts=(200,), samples=1, clip=None, filter="none", normalization="none")


def images(count: int, channels: int = 1, seed: int = 0) -> Tensor:
    """uint8 [B, C, SIZE, SIZE]."""
    planes = [texture(seed + i, SIZE, SIZE) for i in range(count * channels)]
    return torch.from_numpy(np.stack(planes)).unflatten(0, (count, channels))


def inside(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 * 2 - 1


@pytest.fixture
def make(tiny: Make) -> Make:
    """A detector with random weights, calibrated on four images."""

    def made(**settings: object) -> dn.Detector:
        torch.manual_seed(1)
        settings = {"framing": dn.Framing(SIZE), "noise": dn.noise.Gaussian()} | settings
        detector = tiny(**settings)
        if detector.scoring.dynamic is None:
            detector.calibrate(list(inside(images(4, detector.channels, seed=40))))
        return detector

    return made


def noised(detector: dn.Detector, z_0: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, eps_theta and alpha_bar_t."""
    t = torch.full((len(z_0),), start - 1)
    eps = detector.noise(z_0.shape, t=t, seeds=torch.full_like(t, detector.scoring.seed))
    x_t = dn.add_noise(z_0, eps, t, detector.schedule, detector.scoring.omega)
    with torch.no_grad():
        return x_t, detector.model(x_t, t), detector.schedule.alpha_bars[start - 1].float()


def predicted(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def guided(x_t: Tensor, eps: Tensor, alpha_bar: Tensor, y: Tensor, eta: float) -> Tensor:
    """x_0 as DDAD writes it: from epsilon corrected by the difference of the target, noised alike, to x_t."""
    y_t = alpha_bar.sqrt() * y + (1 - alpha_bar).sqrt() * eps
    return predicted(x_t, eps - eta * (1 - alpha_bar).sqrt() * (y_t - x_t), alpha_bar)


def test_guidance_pulls_toward_the_image(make: Make) -> None:
    detector = make(scoring=replace(ONE_STEP, guidance=3.0))
    pixels = images(2)
    x_0 = inside(pixels)
    x_t, eps, alpha_bar = noised(detector, x_0, 200)
    expected = guided(x_t, eps, alpha_bar, x_0, 3.0)
    result = detector.predict(pixels)
    torch.testing.assert_close(result.reconstruction, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.anomaly_map, (x_0 - expected).square(), rtol=1e-3, atol=1e-4)
    assert detector.guidance_weights == {200: pytest.approx(3 * (1 - float(alpha_bar)))}


def test_the_finer_of_two_reconstructions_is_pulled_toward_the_coarser(make: Make) -> None:
    """DiffusionAD's norm-guided denoising: eps - sqrt(1 - alpha_bar) w (pred - x_t), pred noised from the coarser reconstruction."""
    detector = make(scoring=replace(ONE_STEP, starts=(400, 200), target="coarser", guidance=1.0))
    x_0 = inside(images(2))
    coarse = predicted(*noised(detector, x_0, 400))
    expected = guided(*noised(detector, x_0, 200), coarse, 1.0)
    result = detector.predict(images(2))
    torch.testing.assert_close(result.reconstruction, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.anomaly_map, (x_0 - expected).square(), rtol=1e-3, atol=1e-4)


def latent(tmp_path: Path, **settings: object) -> dict[str, object]:
    codec = AutoencoderKL(autoencoder(latent_channels=4), 3)
    return {"codec": codec, "model": replace(TINY, image_channels=4), "channels": 3} | settings


def test_diffusion_takes_place_in_latents(make: Make, tmp_path: Path) -> None:
    detector = make(**latent(tmp_path, scoring=replace(ONE_STEP, omega=0.0, map="absolute")))
    vae, x_0 = detector.codec.model, inside(images(2, 3))
    with torch.no_grad():
        z_0 = vae.encode(x_0).latent_dist.mean * vae.config.scaling_factor
        z = predicted(*noised(detector, z_0, 200))
        decoded = vae.decode(z / vae.config.scaling_factor).sample
    error = (z - z_0).abs().mean(1, keepdim=True)
    expected = F.interpolate(error, (SIZE, SIZE), mode="bilinear", align_corners=True)
    result = detector.predict(images(2, 3))
    torch.testing.assert_close(result.reconstruction, decoded, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.anomaly_map, expected, rtol=1e-3, atol=1e-3)


def test_features_and_pixels_are_weighed_in_units_of_good_images(make: Make) -> None:
    scoring = replace(ONE_STEP, features="reconstruction", feature_weight=0.15, normalization="range", map="absolute")
    detector = make(features=RANDOM, scoring=scoring)
    backbone = detector.backbone
    assert backbone is not None

    def evidence(pixels: Tensor) -> list[Tensor]:
        x_0 = inside(pixels)
        x = predicted(*noised(detector, x_0, 200))
        distance = torch.zeros(len(x_0), 1, SIZE, SIZE)
        with torch.no_grad():
            for a, b in zip(backbone(x_0), backbone(x), strict=True):
                cosine = (a * b).sum(1) / (a.square().sum(1).sqrt() * b.square().sum(1).sqrt())
                distance += F.interpolate(1 - cosine[:, None], (SIZE, SIZE), mode="bilinear", align_corners=True)
        return [(x_0 - x).abs(), distance]

    expected = torch.zeros(2, 1, SIZE, SIZE)
    good, new = evidence(images(4, seed=40)), evidence(images(2))
    for weight, on_good, on_new in zip((0.85, 0.15), good, new, strict=True):
        expected += weight * (on_new - on_good.min()) / (on_good.max() - on_good.min())
    torch.testing.assert_close(detector.predict(images(2)).anomaly_map, expected, rtol=1e-3, atol=1e-3)


def head_model() -> dn.UNetConfig:
    return replace(TINY, learn_variance=True, feature_channels=sum(Backbone(RANDOM).channels), feature_block=1)


def test_the_feature_head_is_compared_with_the_features_of_the_image(make: Make) -> None:
    scoring = dn.Scoring(
        starts=(100, 200), samples=1, map="kl", variance="learned_range", features="head", filter="none",
        normalization="none", feature_weight=0.999,
    )  # fmt: skip
    detector = make(model=head_model(), features=RANDOM, scoring=scoring)
    x_0, expected = inside(images(2)), torch.zeros(2, 1, SIZE, SIZE)
    for start in scoring.starts:
        t = torch.full((2,), start - 1)
        eps = detector.noise(x_0.shape, t=t, seeds=torch.zeros_like(t))
        with torch.no_grad():
            output = detector.model(dn.add_noise(x_0, eps, t, detector.schedule), t)
            own = stacked(detector.backbone(x_0), output.features.shape[-1])
        error = (output.features - own).square().mean(1, keepdim=True)
        expected += F.interpolate(error, (SIZE, SIZE), mode="bilinear", align_corners=False) / 2
    kl = make(model=head_model(), features=RANDOM, scoring=replace(scoring, features="none")).predict(images(2))
    mixed = 0.999 * expected + 0.001 * kl.anomaly_map
    torch.testing.assert_close(detector.predict(images(2)).anomaly_map, mixed, rtol=1e-3, atol=1e-3)


def test_the_divergence_is_the_closed_formula(make: Make) -> None:
    """KL = (ln(v / b) - 1 + b / v) / 2 + beta^2 (eps - eps_theta)^2 / (2 v alpha (1 - alpha_bar)), b the posterior's variance, v the model's."""
    scoring = dn.Scoring(
        starts=(100, 200), samples=1, map="kl", variance="learned_range", clip=None, filter="none", normalization="none"
    )
    detector = make(model=replace(TINY, learn_variance=True), scoring=scoring)
    x_0, expected = inside(images(2)), torch.zeros(2, 1, SIZE, SIZE)
    for start in scoring.starts:
        t = torch.full((2,), start - 1)
        eps = detector.noise(x_0.shape, t=t, seeds=torch.zeros_like(t))
        with torch.no_grad():
            predicted_eps, v = detector.model(dn.add_noise(x_0, eps, t, detector.schedule), t).double().chunk(2, 1)
        beta, alpha_bar = detector.schedule.betas[start - 1], detector.schedule.alpha_bars[start - 1]
        b = beta * (1 - detector.schedule.alpha_bars[start - 2]) / (1 - alpha_bar)
        share = (v + 1) / 2
        v = torch.exp(share * beta.log() + (1 - share) * b.log())
        error = beta**2 * (eps - predicted_eps).square() / (2 * v * (1 - beta) * (1 - alpha_bar))
        expected += ((v / b).log() - 1 + b / v).float() / 4 + error.float() / 2
    torch.testing.assert_close(detector.predict(images(2)).anomaly_map, expected, rtol=1e-3, atol=1e-6)


def fitted(make: Make, **settings: object) -> dn.Detector:
    detector = make(**settings)
    count = 12
    return detector.fit(images(count, detector.channels, 80), dn.Training(max_steps=2, batch_size=2, t_max=1000))


DYNAMIC = DynamicSteps(layers=(2,), pool=4, neighbours=3)
S1 = replace(ONE_STEP, starts=(80,), steps=4, omega=0.0, guidance=7.0, map="absolute", normalization="range",
             features="reconstruction", feature_weight=0.15, dynamic=DYNAMIC, filter="gaussian", filter_sigma=2.0)  # fmt: skip


@pytest.fixture
def dynamic(make: Make, tmp_path: Path) -> dn.Detector:
    return fitted(make, **latent(tmp_path, scoring=S1, features=RANDOM, adaptation=Adaptation(layers=(1, 2))))


def test_steps_are_chosen_for_every_frame(dynamic: dn.Detector) -> None:
    pixels = torch.cat([images(3, 3, 80), images(3, 3), torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8)])
    selector, backbone = dynamic.selector, dynamic.backbone
    assert selector is not None and backbone is not None
    chosen = selector.starts(DYNAMIC.embed(backbone, inside(pixels))).tolist()
    assert chosen[-1] == 80 and len(set(chosen)) > 1
    result = dynamic.predict(pixels)
    for start in set(chosen):
        plain = copy.copy(dynamic)
        plain.scoring = replace(S1, dynamic=None, starts=(start,))
        plain.calibration = dynamic.calibration
        index = [i for i, each in enumerate(chosen) if each == start]
        torch.testing.assert_close(plain.predict(pixels[index]).anomaly_map, result.anomaly_map[index])
    dynamic.execution = dn.Execution(batch=4)
    together = dynamic.predict(pixels)
    torch.testing.assert_close(together.anomaly_map, result.anomaly_map, rtol=1e-3, atol=1e-3)


def test_every_part_is_saved_with_the_detector(dynamic: dn.Detector, tmp_path: Path) -> None:
    assert dynamic.provenance["adaptation_losses"][0] > 0
    dynamic.save(tmp_path)
    loaded = dn.load(tmp_path, device="cpu")
    assert loaded.scoring == S1 and loaded.adaptation == Adaptation(layers=(1, 2))
    for ours, theirs in zip(dynamic.predict(images(3, 3)), loaded.predict(images(3, 3)), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="fit again"):
        loaded.scoring = replace(S1, dynamic=replace(DYNAMIC, bins=5))


def test_a_head_is_trained_saved_and_loaded(make: Make, tmp_path: Path) -> None:
    scoring = dn.Scoring(
        starts=(21, 202), samples=1, map="kl", variance="learned_range", features="head", filter="none"
    )
    detector = make(model=head_model(), features=RANDOM, scoring=scoring)
    detector.fit(images(8), dn.Training(max_steps=2, batch_size=2))
    detector.save(tmp_path)
    assert torch.equal(
        dn.load(tmp_path, device="cpu").predict(images(2)).anomaly_map, detector.predict(images(2)).anomaly_map
    )
    with pytest.raises(ValueError, match="feature head predicts"):
        make(model=head_model(), features=replace(RANDOM, layers=(2,)), scoring=scoring)


def test_masks(make: Make) -> None:
    detector = make(scoring=replace(ONE_STEP, mask="otsu"))
    maps = detector.predict(images(2))
    for anomaly_map, mask in zip(maps.anomaly_map, maps.pred_mask, strict=True):
        assert torch.equal(mask, anomaly_map > otsu_threshold(anomaly_map))
    detector = make(scoring=replace(ONE_STEP, mask=0.5))
    maps = detector.predict(images(2))
    assert torch.equal(maps.pred_mask, maps.anomaly_map > 0.5) and bool(maps.pred_mask.any())


def test_one_detector_for_several_categories(make: Make, tmp_path: Path) -> None:
    data = {"coarse": images(6, seed=0), "fine": 255 - images(6, seed=20)}
    detector = make(model=replace(TINY, num_classes=2))
    with pytest.raises(ValueError, match="num_classes of at least as many, not 0"):
        make().fit(data, dn.Training(max_steps=1))
    detector.fit(data, dn.Training(max_steps=3, batch_size=4, calibration_share=0.3))
    with pytest.raises(RuntimeError, match="coarse, fine"):
        detector.predict(images(1))
    with pytest.raises(ValueError, match="'other'.*coarse, fine"):
        detector.of("other")
    with pytest.raises(ValueError, match="Thresholds belong to a category"):
        detector.calibrate(list(inside(images(2))))
    with pytest.raises(ValueError, match="a view of one category, fine"):
        detector.of("fine").fit(images(4))
    with pytest.raises(ValueError, match="not 2"):
        detector.fit(data | {"third": images(4)})
    assert detector.of("fine").calibration is not None  # a refusal leaves all as it was
    detector.save(tmp_path)
    loaded = dn.load(tmp_path, device="cpu")
    assert loaded.categories == ("coarse", "fine")
    maps = [loaded.of(name).predict(images(1, seed=60)).anomaly_map for name in data]
    assert not torch.equal(*maps)
    assert loaded.of("fine").calibration == detector.of("fine").calibration != detector.of("coarse").calibration
    for name, number in (("coarse", 0), ("fine", 1)):
        each = loaded.of(name)
        x_0 = inside(images(1, seed=60))
        t = torch.tensor([each.scoring.starts[0] - 1])
        eps = each.noise(x_0.shape, t=t, seeds=torch.zeros_like(t))
        x_t = dn.add_noise(x_0, eps, t, each.schedule)
        each.scoring = replace(ONE_STEP, starts=each.scoring.starts)
        each.calibrate([x_0[0]])
        with torch.no_grad():
            out = each.model(x_t, t, class_labels=torch.tensor([number]))
        expected = predicted(x_t, out, each.schedule.alpha_bars[int(t)].float())
        torch.testing.assert_close(each.predict(images(1, seed=60)).reconstruction, expected, rtol=1e-4, atol=1e-4)


def test_categories_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bolts", "nuts"):
        build_category(tmp_path / "data" / name, train=4, good=1, bad=1)
    config = tmp_path / "config.json"
    config.write_text(
        '{"model": {"channels": 8, "channel_mult": [1, 2], "norm_groups": 4, "patch_size": 2, "head_channels": 8}}'
    )
    run = str(tmp_path / "run")
    arguments = ["train", str(tmp_path / "data"), "--output", run, "--config", str(config), "--image-size", "16"]
    assert main([*arguments, "--max-steps", "2", "--batch-size", "2", "--device", "cpu", "--json"]) == 0
    assert '"nuts"' in capsys.readouterr().out
    assert main(["eval", run, str(tmp_path / "data" / "nuts"), "--json"]) == 0
    image = str(tmp_path / "data" / "nuts" / "test" / "good" / "000.png")
    assert main(["score", run, image, "--output", str(tmp_path / "out"), "--json"]) == 1
    assert "--category" in capsys.readouterr().err
    assert main(["score", run, image, "--category", "bolts", "--output", str(tmp_path / "out"), "--json"]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "reconstruction"}, "needs a feature extractor"),
        ({"dynamic": DYNAMIC}, "feature extractor"),
    ],
)
def test_what_is_missing_is_named(tiny: Make, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(scoring=replace(ONE_STEP, **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"map": "kl", "guidance": 1.0}, 'The map "kl" goes with starts as they are'),
        ({"map": "kl", "dynamic": DYNAMIC}, 'The map "kl" goes with starts as they are'),
        ({"target": "coarser"}, 'The target "coarser" needs two starts'),
        ({"target": "coarser", "starts": (200, 400), "guidance": 1.0}, "the larger one first"),
        ({"features": "head"}, 'go with the map "kl"'),
        ({"feature_weight": 1.0}, "feature_weight must lie between 0 and 1"),
        ({"mask": "best"}, "mask must be"),
        ({"mask": float("nan")}, "mask must be"),
        ({"mask": True}, "mask must be"),
        ({"guidance": float("nan")}, "guidance must be finite"),
        ({"class_guidance": -1.0}, "class_guidance must be finite and not negative"),
        ({"normalization": "rank"}, "normalization must be one of"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ONE_STEP, **settings)


def test_what_cannot_work_is_refused_before_the_training(make: Make, tiny: Make, tmp_path: Path) -> None:
    head = dn.Scoring(starts=(100,), map="kl", features="head")
    with pytest.raises(ValueError, match="need a UNet with feature_channels"):
        make(features=RANDOM, scoring=head)
    with pytest.raises(ValueError, match="adaptation adapts a feature extractor"):
        make(adaptation=Adaptation())
    with pytest.raises(ValueError, match="layers \\(1, 2, 3\\) of adaptation reach beyond the extractor's 2"):
        make(features=RANDOM, adaptation=Adaptation())
    with pytest.raises(ValueError, match="class_guidance needs a model with num_classes"):
        make(scoring=replace(ONE_STEP, class_guidance=1.0))
    with pytest.raises(ValueError, match="class_guidance needs several categories"):
        make(model=replace(TINY, num_classes=2), scoring=replace(ONE_STEP, class_guidance=1.0)).fit(images(4))
    with pytest.raises(ValueError, match="set the scoring's clip to None"):
        make(**latent(tmp_path, scoring=replace(ONE_STEP, clip=1.0)))
    with pytest.raises(ValueError, match="set the model's image_channels to 4"):
        make(**latent(tmp_path, model=TINY, scoring=ONE_STEP))
    few = tiny(features=RANDOM, scoring=replace(ONE_STEP, dynamic=DYNAMIC), framing=dn.Framing(SIZE))
    with pytest.raises(dn.DataError, match="3 neighbours need at least 3 good images to learn from, not 2"):
        few.fit(images(3), dn.Training(max_steps=1))


def test_an_extractor_without_padding_is_adapted_to_real_reconstructions(make: Make) -> None:
    """Its first layer keeps the reconstruction itself for the gradient, which an inference tensor would refuse."""
    features = Features("resnet18", (1, 2), "random", "none")
    scoring = replace(ONE_STEP, features="reconstruction")
    detector = make(features=features, scoring=scoring, channels=3, model=replace(TINY, image_channels=3),
                    adaptation=Adaptation(layers=(1, 2)))  # fmt: skip
    detector.fit(images(4, 3), dn.Training(max_steps=1, batch_size=2))
    assert detector.provenance["adaptation_losses"][0] > 0


def test_a_training_is_not_resumed_with_another_teacher(make: Make, tmp_path: Path) -> None:
    scoring = dn.Scoring(starts=(21,), samples=1, map="kl", variance="learned_range", features="head", filter="none")
    training = dn.Training(max_steps=1, batch_size=2)
    make(model=head_model(), features=RANDOM, scoring=scoring).fit(images(4), training, folder=tmp_path)
    other = make(model=head_model(), features=replace(RANDOM, normalize="none"), scoring=scoring)
    with pytest.raises(CheckpointError, match="other settings \\(surroundings\\)"):
        other.fit(images(4), training, folder=tmp_path, resume=True)


def test_a_preset_brings_its_training(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    config = preset("kl-map/pixel").updated(
        {"model": {"channels": 8, "norm_groups": 4, "head_channels": 8}, "framing": {"size": 32}}
    )
    detector = dn.Detector.from_config(config, "cpu", 1)
    assert detector.training == config.training and detector.training.loss == "l2+vlb"
    detector.training = replace(detector.training, max_minutes=None, max_steps=1)
    detector.fit(images(4))
    assert (
        detector.provenance["training"]["learning_rate"] == 1e-4 and detector.provenance["training"]["loss"] == "l2+vlb"
    )
    assert dn.Detector.from_preset("small", "cpu", channels=3).channels == 3


def test_a_codec_of_your_own_is_not_saved(make: Make, tmp_path: Path) -> None:
    class Half:
        channels, factor = 4, 2

        def encode(self, images: Tensor) -> Tensor:
            return F.pixel_unshuffle(images, 2)

        def decode(self, latents: Tensor) -> Tensor:
            return F.pixel_shuffle(latents, 2)

    detector = make(codec=Half(), model=replace(TINY, image_channels=4), channels=1, scoring=ONE_STEP)
    assert detector.predict(images(1)).anomaly_map.shape == (1, 1, SIZE, SIZE)
    with pytest.raises(CheckpointError, match="codec of your own"):
        detector.save(tmp_path)
    Image.fromarray(images(1)[0, 0].numpy()).save(tmp_path / "a.png")
    assert next(iter(detector.predict_files([tmp_path / "a.png"]))).pred_score is not None
