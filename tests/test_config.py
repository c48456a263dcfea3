from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import diffnoise as dn
from diffnoise.config import Config
from diffnoise.methods import PRESETS, preset
from diffnoise.models import build

# The betas' end by the papers; cosine schedules end at their limit.
ENDS = {"noise-study": 1e-2, "dynamic-noise": 1.95e-2, "kl-map": 2e-2, "dtu-net": 0.999, "small": 1e-2}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_its_configuration_and_its_model(name: str) -> None:
    config = preset(name)
    size = config.framing.size // (1 if config.codec.kind == "pixels" else 8)
    with torch.device("meta"):
        model = build(config.model)
        output = model(torch.empty(1, config.model.image_channels, size, size), torch.zeros(1, dtype=torch.int64))
    output = getattr(output, "sample", output)
    outputs = config.model.image_channels * (2 if config.model.learn_variance else 1)
    assert tuple(output.shape) == (1, outputs, size, size)
    assert max(config.scoring.scales) <= config.schedule.steps
    assert config.scoring.variance != "learned_range" or config.model.learn_variance
    assert config.schedule.betas[-1] == pytest.approx(ENDS.get(name.partition("/")[0], 2e-2))
    assert (config.features is None) == (config.scoring.features == "none" and config.scoring.dynamic is None)
    json.dumps(PRESETS[name])  # what a configuration file can hold


@pytest.mark.parametrize(
    ("name", "changes", "published"),
    [
        ("noise-study/gaussian", {"image_channels": 3}, 32_952_707),
        ("dynamic-noise", {}, 281_088_004),
        ("kl-map", {"channels": 256, "image_channels": 3, "num_classes": 1000}, 553_838_086 + 140_560),
        ("ddad", {"image_channels": 3}, 32_952_707),
        ("anoddpm", {}, 131_649_793),
        ("dtu-net/tsimplex", {}, 16_396_668),
        ("dtu-net/tsimplex", {"depth": 12, "image_channels": 3, "refine": True}, 28_863_812),
    ],
)
def test_presets_have_the_size_of_the_published_networks(name: str, changes: dict[str, Any], published: int) -> None:
    config = preset(name).updated({"model": changes})
    with torch.device("meta"):
        model = build(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(published, rel=1e-4)


def test_presets_follow_their_papers() -> None:
    gmm, anoddpm, kl, dynamic = (preset(name) for name in ("noise-study/gmm", "anoddpm", "kl-map", "dynamic-noise"))
    assert gmm.noise == dn.noise.GaussianMixture() and gmm.scoring.starts == (200,)
    assert gmm.scoring.steps == 200 and gmm.scoring.filter_size == 5
    assert preset("noise-study/simplex").scoring.filter_size == 11
    assert gmm.training.learning_rate == 1e-4 and gmm.training.batch_size == 6
    assert anoddpm.scoring.starts == (250,) and anoddpm.training.t_max == 800 and anoddpm.model.channels == 128
    assert kl.scoring.starts == (21, 202, 402) and kl.scoring.top_k == 64 and kl.model.learn_variance
    assert kl.scoring.weights == (pytest.approx(1 / 6),) * 6
    assert dynamic.scoring.dynamic is not None and dynamic.scoring.scales == (20, 30, 40, 50, 60, 70, 80)
    assert dynamic.scoring.weights == (0.85, 0.15) and dynamic.scoring.omega == 0
    weights = dynamic.scoring.guidance_weights(dynamic.schedule)
    assert weights[80] == pytest.approx(7 * (1 - 0.837663), abs=1e-5)
    tsimplex = preset("dtu-net/tsimplex").noise
    assert (tsimplex.octaves, tsimplex.persistence, tsimplex.frequency) == (6, 0.9, 64)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
def test_every_row_of_the_ablation_is_a_change_of_the_preset(dynamic: bool, scaled: bool, adapted: bool) -> None:
    """Tebbe and Tayyub 2024: dynamic or static steps, noiseless down-scaling (DS), domain adaptation (DA)."""
    scoring: dict[str, Any] = {"omega": 0.0 if scaled else 1.0} | ({} if dynamic else {"dynamic": None, "starts": [40]})
    changes: dict[str, Any] = {"scoring": scoring} | ({} if adapted else {"adaptation": None})
    config = preset("dynamic-noise/pixels").updated(changes)
    assert config.scoring.passes == ((None,) if dynamic else (40,)) and config.scoring.model_calls(40) == 10
    assert config.scoring.omega == 1 - scaled and (config.adaptation is not None) == adapted


def test_an_unknown_preset_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="anodpm.*anoddpm"):
        preset("anodpm")
    with pytest.raises(ValueError, match="choose one of small"):
        dn.Detector.from_preset("")


def test_changes_touch_only_what_they_name() -> None:
    config = Config()
    changed = config.updated(
        {
            "model": {"channels": 8, "channel_mult": [1, 2]},
            "noise": {"kind": "gmm", "components": 7},
            "schedule": {"kind": "cosine", "steps": 50},
            "prediction": "sample",
            "framing": {"size": 16},
            "scoring": {"starts": [3, 5], "clip": None},
            "training": {
                "max_steps": 3,
                "augment": "hflip,rotate=5",
                "loss": "l2+vlb+ms_ssim",
                "learning_rate_schedule": "step",
            },
        }
    )
    assert changed.model == dn.UNetConfig(channels=8, channel_mult=(1, 2))
    assert changed.noise == dn.noise.GaussianMixture(components=7)
    assert changed.schedule.steps == 50 and changed.prediction == "sample" and changed.framing.size == 16
    assert (
        changed.scoring.starts == (3, 5)
        and changed.scoring.clip is None
        and changed.scoring.filter == config.scoring.filter
    )
    assert changed.training.augment == dn.Augment(hflip=True, rotate=5.0) and changed.training.max_minutes == 15
    assert changed.training.loss == "l2+vlb+ms_ssim" and changed.training.learning_rate_schedule == "step"
    as_object = config.updated({"training": {"augment": {"hflip": True, "rotate": 5}}})
    assert as_object.training.augment == changed.training.augment
    assert config == config.updated({}) and config.framing.mode == "resize"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modell": {}}, "Unknown section modell.*model, "),
        ({"model": {"width": 3}}, "Unknown key width in section model; there are .*channels"),
        ({"model": 3}, "Section model .*object"),
        ({"model": {"channels": "8"}}, "channels .*'8'"),
        ({"model": {"channels": 8.5}}, "channels .*8.5"),
        ({"model": {"channels": 0}}, "channels"),
        ({"model": {"channels": True}}, "channels .*True"),
        ({"model": {"channel_mult": 2}}, "channel_mult"),
        ({"model": {"channel_mult": ["2"]}}, "channel_mult"),
        ({"model": {"learn_variance": 1}}, "learn_variance"),
        ({"noise": {"kind": "perlin"}}, "'perlin'.*gaussian"),
        ({"noise": {}}, 'noise .* replaced whole: add its "kind"'),
        ({"noise": {"kind": "gmm", "bumps": 3}}, "gmm.*bumps"),
        ({"noise": {"kind": "simplex", "octaves": "six"}}, "simplex"),
        ({"schedule": {"kind": "sine"}}, "sine"),
        ({"schedule": {"kind": "linear", "stop": 1}}, "linear.*stop"),
        ({"schedule": {"kind": "linear", "start": -1.0}}, "betas"),
        ({"schedule": {"kind": "cosine", "steps": 0}}, "at least one step"),
        ({"framing": {"size": 0}}, "at least 1 pixel"),
        ({"framing": {"mode": "stretch"}}, "mode"),
        ({"scoring": {"starts": []}}, "starts"),
        ({"scoring": {"starts": [1.5]}}, "starts"),
        ({"scoring": {"steps": None}}, "steps"),
        ({"scoring": {"map": "cubed"}}, "map"),
        ({"training": {"learning_rate": "fast"}}, "learning_rate .*'fast'"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"training": {"loss": "l2+gan"}}, "loss .*vlb.*'gan'"),
        ({"training": {"loss": ["l2"]}}, "loss .*'l2'"),
        ({"training": {"vlb_weight": "1"}}, "vlb_weight .*'1'"),
        ({"training": {"learning_rate_schedule": "stairs"}}, "'stairs'; choose one of cosine, linear, step, constant"),
        ({"training": {"decay_at": 75}}, "decay_at .*between 0 and 1"),
        ({"training": {"label_dropout": -1}}, "label_dropout .*between 0 and 1"),
        ({"training": {"augment": "spin"}}, "spin"),
        ({"training": {"augment": {"spin": 1}}}, "spin in section training.augment"),
        ({"training": {"augment": 3}}, "augment"),
        ({"training": {"max_minutes": None}}, "max_steps or max_minutes"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Config().updated(changes)
    assert "\n" not in str(caught.value)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction.*noise"):
        Config().updated({"prediction": "noise"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read.*JSON file"),
        ("{", "not valid JSON"),
        ("[1]", "JSON object"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=says) as caught:
        Config.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"scoring": {"steps": 5}}')
    assert Config().updated(Config.read(tmp_path / "config.json")).scoring.steps == 5
