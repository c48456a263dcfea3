from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, build_category, python_environment, texture
from torch import Tensor, nn

import diffnoise as dn
from diffnoise.batches import random_crops, step_indices, with_null_class
from diffnoise.checkpoint import load_checkpoint
from diffnoise.models import DiTConfig, DTUNetConfig, ModelConfig, Output, UViTConfig, build
from diffnoise.training import LOG_COLUMNS, NORM_BATCHES, Trainer

SCHEDULE = dn.Schedule.linear(1e-4, 1e-2, 1000)


def frames(count: int = 12, size: int = 16, seed: int = 0) -> Tensor:
    pixels = np.stack([texture(seed + i, size, size) for i in range(count)])
    return torch.from_numpy(pixels).float().div(127.5).sub(1).unsqueeze(1)


def make_trainer(folder: Path | None = None, **changes: object) -> Trainer:
    """A trainer of a tiny model; changes are its own arguments, the rest goes to `Training`."""
    torch.manual_seed(0)
    own = {
        "model": None,
        "noise": dn.noise.Gaussian(),
        "schedule": SCHEDULE,
        "prediction": "epsilon",
        "frames": frames(),
        "size": 16,
        "labels": None,
        "encode": None,
        "targets": None,
    }
    own |= {name: changes.pop(name) for name in list(changes) if name in own}
    own["model"] = own["model"] or dn.UNet(TINY)
    settings = {"max_steps": 12, "batch_size": 4, "warmup": 4, "learning_rate": 3e-3, "precision": "fp32"} | changes
    return Trainer(training=dn.Training(**settings), folder=folder, device=torch.device("cpu"), **own)


def parameters(module: nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy().copy() for p in module.parameters()]


def steps(trainer: Trainer, count: int) -> list[tuple[float, float, float]]:
    results = []
    for _ in range(count):
        results.append(trainer._one_step())
        trainer.step += 1
    return results


def state(trainer: Trainer) -> dict[str, Tensor]:
    everything = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    everything |= {f"ema.{k}": v for k, v in trainer.ema.state_dict().items()}
    for i, values in trainer._optimizer.state_dict()["state"].items():
        everything |= {f"optimizer.{i}.{k}": v for k, v in values.items()}
    return {name: value.clone() for name, value in everything.items()}


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name, value in left.items() if not torch.equal(value, right[name])]
    assert not different


def test_weights_move_as_adamw_says() -> None:
    trainer = make_trainer(weight_decay=0.1, gradient_clip=1e9)
    weights = parameters(trainer.model)
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for n in range(1, 7):
        rate = steps(trainer, 1)[0][2]
        for w, m, v, p in zip(weights, first, second, trainer.model.parameters(), strict=True):
            g = p.grad.double().numpy()
            w *= 1 - rate * 0.1
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
        for w, actual in zip(weights, parameters(trainer.model), strict=True):
            np.testing.assert_allclose(actual, w, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("decay", [0.9999, 0.3])
def test_the_average_of_the_weights_is_that_of_its_formula(decay: float) -> None:
    trainer = make_trainer(ema_decay=decay)
    average = None
    for n in range(12):
        steps(trainer, 1)
        now = parameters(trainer.model)
        d = min(decay, (1 + n) / (10 + n))
        average = now if average is None else [d * a + (1 - d) * w for a, w in zip(average, now, strict=True)]
    for expected, actual in zip(average, parameters(trainer.ema.module), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_by_their_global_norm() -> None:
    trainer = make_trainer(gradient_clip=0.05)
    clipped = 0
    for _ in range(5):
        _, norm, _ = steps(trainer, 1)[0]
        left = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in trainer.model.parameters()))
        assert left == pytest.approx(min(norm, 0.05), rel=1e-4)
        clipped += norm > 0.05
    assert clipped


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule: str) -> None:
    trainer = make_trainer(
        max_steps=40, warmup=10, learning_rate=2e-3, learning_rate_schedule=schedule, decay_at=0.6, model=Zeros()
    )
    rates = [rate for _, _, rate in steps(trainer, 40)]
    share = np.arange(40) / 40
    factor = {
        "cosine": (1 + np.cos(np.pi * share)) / 2,
        "linear": 1 - share,
        "step": np.r_[np.ones(24), np.full(16, 0.1)],
        "constant": np.ones(40),
    }[schedule]
    np.testing.assert_allclose(rates, 2e-3 * np.minimum(1, np.arange(1, 41) / 10) * factor, rtol=1e-12)


def test_every_epoch_visits_every_frame_once_in_its_own_order() -> None:
    seen = [i for step in range(7) for i in step_indices(7, 3, seed=0, step=step)]
    epochs = [seen[i : i + 7] for i in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert len(set(map(tuple, epochs))) == 3


class Zeros(nn.Module):
    """Answers zero, and keeps what it was asked."""

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor, self.weight, self.asked = factor, nn.Parameter(torch.zeros(1)), []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x_t.detach().clone(), t.clone()))
        return x_t.repeat(1, self.factor, 1, 1) * self.weight


def one_batch(trainer: Trainer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_0, eps, x_t and t in float64, of the step that was just done by a trainer with `Zeros`."""
    x_t, t = trainer.model.asked[-1]
    generator = torch.Generator().manual_seed(trainer.training.seed * 1_000_003)
    index = step_indices(12, trainer.training.batch_size, trainer.training.seed, step=0)
    x_0 = random_crops(frames(), index, 16, generator).double()
    ab = SCHEDULE.alpha_bars[t].view(-1, 1, 1, 1)
    return x_0, (x_t.double() - ab.sqrt() * x_0) / (1 - ab).sqrt(), x_t.double(), t


@pytest.mark.parametrize("loss", ["l2", "l1"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_the_distance_to_the_predicted_quantity(prediction: str, loss: str) -> None:
    trainer = make_trainer(model=Zeros(), prediction=prediction, loss=loss, batch_size=8)
    value = steps(trainer, 1)[0][0]
    x_0, eps, _, t = one_batch(trainer)
    assert abs(float(eps.mean())) < 0.1 and float(eps.std()) == pytest.approx(1, abs=0.05)
    ab = SCHEDULE.alpha_bars[t].view(-1, 1, 1, 1)
    target = {"epsilon": eps, "sample": x_0, "v_prediction": ab.sqrt() * eps - (1 - ab).sqrt() * x_0}[prediction]
    assert value == pytest.approx(float((target**2 if loss == "l2" else target.abs()).mean()), rel=1e-4)


def test_the_loss_of_a_learned_variance_adds_the_bound_in_bits() -> None:
    config = dn.UNetConfig(
        channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8, learn_variance=True
    )
    model = dn.UNet(config)  # its last layer starts at zero
    model.asked = []
    model.register_forward_pre_hook(lambda _, inputs: model.asked.append(inputs))
    trainer = make_trainer(model=model, vlb_weight=0.5, batch_size=8)
    value = steps(trainer, 1)[0][0]
    x_0, eps, x_t, t = one_batch(trainer)
    assert int(t.min()) > 0
    ab, ab_p, beta = (
        table.view(-1, 1, 1, 1) for table in (SCHEDULE.alpha_bars[t], SCHEDULE.alpha_bars[t - 1], SCHEDULE.betas[t])
    )
    small = beta * (1 - ab_p) / (1 - ab)
    variance = (beta * small).sqrt()  # v = 0 is half-way between the logarithms
    predicted = (x_t / ab.sqrt()).clamp(-1, 1)
    mean_difference = ab_p.sqrt() * beta / (1 - ab) * (x_0 - predicted)
    kl = 0.5 * (variance.log() - small.log() - 1 + (small + mean_difference**2) / variance)
    assert value == pytest.approx(float((eps**2).mean() + 0.5 * kl.mean() / math.log(2)), rel=1e-4)
    variance_weights = model.conv_out.weight.grad.unflatten(0, (2, -1))[1]
    assert bool(variance_weights.any())


class KnownMean(nn.Module):
    """Answers x_0 = 0 with an error that is known, and for each t a variance to learn."""

    config = SimpleNamespace(learn_variance=True)

    def __init__(self, steps: int, error: float) -> None:
        super().__init__()
        self.v, self.error = nn.Parameter(torch.zeros(steps)), error

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        answer = torch.full_like(x_t, self.error)
        return torch.cat([answer, self.v[t].view(-1, 1, 1, 1).expand_as(x_t)], 1)


@pytest.mark.parametrize(("error", "loss"), [(0.0, "l2"), (0.1, "l1+vlb")])
def test_a_learned_variance_finds_that_of_the_posterior_and_of_the_error(error: float, loss: str) -> None:
    schedule = dn.Schedule.linear(0.02, 0.2, 3)
    trainer = make_trainer(
        model=KnownMean(3, error),
        schedule=schedule,
        prediction="sample",
        loss=loss,
        frames=torch.zeros(4, 1, 16, 16),
        max_steps=150,
        learning_rate=0.1,
        weight_decay=0.0,
    )
    steps(trainer, 150)
    betas, alpha_bars = schedule.betas[1:], schedule.alpha_bars
    small = betas * (1 - alpha_bars[:-1]) / (1 - alpha_bars[1:])
    best = small + (alpha_bars[:-1].sqrt() * betas / (1 - alpha_bars[1:]) * error).square()
    expected = 2 * (best / small).log() / (betas / small).log() - 1
    assert error > 0 or expected.tolist() == [-1, -1]
    np.testing.assert_allclose(trainer.model.v.detach()[1:], expected, atol=0.02)


class WithFeatures(nn.Module):
    """A denoiser with a feature head on a grid of half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.sample, self.features = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 3, 2, 2)

    def forward(self, x_t: Tensor, t: Tensor) -> Output:
        return Output(self.sample(x_t), self.features(x_t))


def test_a_feature_head_is_taught_the_features_of_the_clean_images() -> None:
    seen = []

    def targets(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return torch.cat([images, images.square(), -images], 1)

    model = WithFeatures()
    asked = []
    model.register_forward_hook(lambda _, inputs, output: asked.append((*inputs, output)))
    trainer = make_trainer(
        model=model, targets=targets, augment=dn.Augment(vflip=True), max_steps=200, learning_rate=0.01
    )
    losses = [loss for loss, _, _ in steps(trainer, 200)]
    x_0, (x_t, t, output) = seen[0].double(), asked[0]
    assert float(x_0.abs().max()) <= 1 and x_0.shape == (4, 1, 16, 16)
    ab = SCHEDULE.alpha_bars[t].view(-1, 1, 1, 1)
    eps = (x_t.double() - ab.sqrt() * x_0) / (1 - ab).sqrt()
    halved = torch.cat([x_0, x_0.square(), -x_0], 1).unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5))
    expected = (output.sample - eps).square().mean() + (output.features - halved).square().mean()
    assert losses[0] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_a_feature_head_and_its_targets_need_each_other() -> None:
    with pytest.raises(ValueError, match="feature head; give targets"):
        steps(make_trainer(model=WithFeatures()), 1)
    with pytest.raises(ValueError, match="feature head, which this one lacks"):
        steps(make_trainer(targets=lambda images: images), 1)


def test_a_model_is_trained_on_the_latents_of_the_augmented_images() -> None:
    codec = nn.Conv2d(1, 3, 4, 4)
    seen = []

    def encode(images: Tensor) -> Tensor:
        seen.append(images)
        return codec(images)

    model = Zeros()
    trainer = make_trainer(model=model, encode=encode, prediction="sample", augment=dn.Augment(vflip=True))
    value = steps(trainer, 1)[0][0]
    assert model.asked[0][0].shape == (4, 3, 4, 4) and seen[0].shape == (4, 1, 16, 16)
    assert value == pytest.approx(float(codec(seen[0]).square().mean().detach()), rel=1e-5)
    assert all(parameter.grad is None for parameter in codec.parameters())


class Labelled(Zeros):
    """Keeps the labels, too; the mean brightness of its answer depends on them."""

    config = SimpleNamespace(num_classes=3)

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.labels = nn.Embedding(4, 1), []

    def forward(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.labels.append(class_labels)
        return super().forward(x_t, t) + self.embedding(class_labels).view(-1, 1, 1, 1)


TINY_TRANSFORMER = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 4}


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, num_classes=3, learn_variance=True),
        UViTConfig(**TINY_TRANSFORMER, num_classes=3, learn_variance=True),
        DTUNetConfig(**TINY_TRANSFORMER, num_classes=3, learn_variance=True),
        DiTConfig(**TINY_TRANSFORMER, num_classes=3, learn_variance=True),
    ],
    ids=lambda config: config.kind,
)
def test_every_family_is_taught_its_variance(config: ModelConfig) -> None:
    model = build(config)
    answers = []

    def keep(_: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        answers.append(output)

    model.register_forward_hook(keep)
    trainer = make_trainer(model=model, labels=torch.arange(12) % 3, label_dropout=0.0)
    steps(trainer, 2)
    of_prediction, of_variance = answers[-1].grad.chunk(2, 1)
    assert bool(of_prediction.any()) and bool(of_variance.any())


def test_frames_keep_their_labels_but_for_those_withheld() -> None:
    bright = torch.linspace(-1, 1, 9).view(9, 1, 1, 1).expand(9, 1, 16, 16)
    labels = torch.tensor([0, 1, 2] * 3)
    trainer = make_trainer(
        model=Labelled(), frames=bright, labels=labels, label_dropout=0.3, batch_size=9, max_steps=99
    )
    withheld = []
    for step in range(40):
        steps(trainer, 1)
        expected = labels[step_indices(9, 9, 0, step)]
        given = trainer.model.labels[-1]
        withheld += (given == 3).tolist()
        assert given.dtype == torch.int64 and bool(((given == expected) | (given == 3)).all())
    assert 0.22 < np.mean(withheld) < 0.38  # 360 draws have a deviation of 0.024


def test_labels_are_withheld_never_or_always() -> None:
    labels, generator = torch.arange(3).repeat(100), torch.Generator().manual_seed(0)
    assert torch.equal(with_null_class(labels, 3, 0.0, generator), labels)
    assert with_null_class(labels, 3, 1.0, generator).unique().tolist() == [3]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.zeros(11, dtype=torch.int64), r"int64 \[12\].*\[11\]"),
        (torch.zeros(12), "int64.*float32"),
        (torch.arange(12), r"0\.\.2 .*from 0 to 11"),
        (torch.arange(12) - 10, "from -10 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_trainer(model=Labelled(), labels=labels)


def test_labels_need_a_model_with_classes() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        make_trainer(labels=torch.zeros(12, dtype=torch.int64))


@pytest.mark.parametrize("t_max", [None, 7, 5000])
def test_steps_are_drawn_below_t_max(t_max: int | None) -> None:
    trainer = make_trainer(model=Zeros(), t_max=t_max, batch_size=64)
    steps(trainer, 5)
    drawn = torch.cat([t for _, t in trainer.model.asked])
    limit = min(t_max or 1000, 1000)
    assert int(drawn.min()) >= 0 and int(drawn.max()) < limit
    assert len(drawn.unique()) == 7 if t_max == 7 else int(drawn.max()) > 900


def error_on(trainer: Trainer, model: nn.Module, images: Tensor, prediction: str) -> tuple[float, float]:
    """Mean squared error of the model's prediction on images with new noise, and that of predicting zero."""
    model.eval()
    t = torch.linspace(20, 980, len(images)).long()
    eps = trainer.noise(images.shape, t=t, seeds=torch.arange(len(images)) + 10**9)
    ab = SCHEDULE.alpha_bars[t].float().view(-1, 1, 1, 1)
    x_t = ab.sqrt() * images + (1 - ab).sqrt() * eps
    target = {"epsilon": eps, "sample": images, "v_prediction": ab.sqrt() * eps - (1 - ab).sqrt() * images}[prediction]
    with torch.no_grad():
        output = model(x_t, t)[:, : images.shape[1]]
    return float((output - target).square().mean()), float(target.square().mean())


@pytest.mark.parametrize(
    ("prediction", "loss", "noise", "learn_variance"),
    [
        ("epsilon", "l2", "gaussian", False),
        ("epsilon", "l2", "simplex", False),
        ("epsilon", "l1", "gmm", False),
        ("sample", "l2", "gaussian", False),
        ("v_prediction", "l2", "gaussian", True),
    ],
)
def test_a_trained_model_beats_zero_on_images_it_has_not_seen(
    prediction: str, loss: str, noise: str, learn_variance: bool
) -> None:
    config = dn.UNetConfig(
        channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8, learn_variance=learn_variance
    )
    trainer = make_trainer(
        model=dn.UNet(config),
        prediction=prediction,
        loss=loss,
        noise=dn.noise.from_config({"kind": noise}),
        max_steps=120,
        batch_size=8,
    )
    losses = [loss for loss, _, _ in steps(trainer, 120)]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:5])
    for model in (trainer.model, trainer.ema.module):
        trained, zero = error_on(trainer, model, frames(16, seed=1000), prediction)
        assert trained < 0.8 * zero


def test_mixed_precision_computes_nearly_the_same_and_keeps_float32_weights() -> None:
    full, mixed = make_trainer(), make_trainer(precision="bf16")
    losses = [[loss for loss, _, _ in steps(trainer, 12)] for trainer in (full, mixed)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[1] != losses[0]
    assert all(value.dtype in (torch.float32, torch.int64) for value in state(mixed).values())


def test_images_of_different_sizes_give_crops_from_everywhere() -> None:
    coordinates = [
        torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).float()
        for h, w in ((16, 16), (20, 40))
    ]
    corners = set()
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        for crop in random_crops(coordinates, step_indices(2, 8, 0, step), 16, generator):
            y, x = map(int, crop[:, 0, 0])
            assert torch.equal(crop, coordinates[1][:, y : y + 16, x : x + 16])
            corners.add((y, x))
    assert {y for y, _ in corners} == set(range(5)) and {x for _, x in corners} == set(range(25))


def test_augmented_training_is_a_function_of_seed_and_step() -> None:
    augment = dn.Augment.parse("hflip,vflip,rot90,rotate=10,shift=0.05,brightness=0.1,contrast=0.1")
    first, again, other, plain = (
        make_trainer(model=Zeros(), **s)
        for s in ({"augment": augment}, {"augment": augment}, {"augment": augment, "seed": 1}, {})
    )
    for trainer in (first, again, other, plain):
        torch.manual_seed(hash(id(trainer)) % 1000)
        steps(trainer, 3)
    for (a, _), (b, _), (c, _), (d, _) in zip(
        first.model.asked, again.model.asked, other.model.asked, plain.model.asked, strict=True
    ):
        assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)


def test_dropout_is_a_function_of_seed_and_step_and_leaves_the_callers_generator_alone() -> None:
    config = dn.UNetConfig(channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8, dropout=0.5)
    states = []
    for seed in (1, 2):
        torch.manual_seed(0)
        trainer = make_trainer(model=dn.UNet(config))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer.run()
        assert torch.equal(torch.get_rng_state(), before)
        states.append(state(trainer))
    assert_identical(*states)


@pytest.mark.parametrize("classes", [False, True])
def test_stopped_and_resumed_is_bit_for_bit_uninterrupted(tmp_path: Path, classes: bool) -> None:
    config = TINY
    settings = {
        "augment": dn.Augment(hflip=True, shift=0.1),
        "frames": [f.expand(1, 16, 16) for f in frames(5)],
        "max_steps": 10,
    }
    if classes:
        config = replace(TINY, num_classes=2, learn_variance=True)
        settings |= {"labels": torch.tensor([0, 1, 1, 0, 1]), "label_dropout": 0.3, "loss": "l1+vlb+ssim"}
        settings |= {"learning_rate_schedule": "step"}

    def make(folder: Path | None) -> Trainer:
        torch.manual_seed(0)
        return make_trainer(folder, model=dn.UNet(config), **settings)

    whole = make(None)
    whole.run()
    first = make(tmp_path)
    steps(first, 4)
    first.save()
    second = make(tmp_path)
    steps(second, 2)  # must not matter
    second.resume()
    assert second.step == 4
    assert_identical(state(second), state(first))
    second.run()
    assert_identical(state(second), state(whole))


DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from conftest import build_category
from test_training import KILLED_TRAINING, train
from diffnoise.checkpoint import load_checkpoint

torch.set_num_threads(1)
folder, rng = Path(sys.argv[1]), random.Random(1)
data = build_category(folder / "data")
train(data, folder / "whole", False)  # and torch's late imports, which no child needs to repeat
killed, steps = 0, []
while True:
    child = os.fork()
    if child == 0:
        train(data, folder / "killed", True)
        os._exit(0)
    time.sleep(rng.uniform(0.2, 0.8) * (1 + killed / 4))  # however slow the machine, it ends
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    killed += 1
    if (folder / "killed" / "checkpoint.safetensors").exists():
        steps.append(load_checkpoint(folder / "killed" / "checkpoint.safetensors", "training")[1]["step"])
    assert killed < 50
print(json.dumps({"killed": killed, "steps": steps}))
"""

KILLED_TRAINING = dn.Training(
    max_steps=60, batch_size=4, warmup=5, save_seconds=0.0, precision="fp32", augment=dn.Augment(hflip=True, shift=0.1)
)


def train(data: Path, folder: Path, resume: bool) -> None:
    torch.manual_seed(0)
    detector = dn.Detector(
        dn.UNetConfig(channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8, dropout=0.1),
        framing=dn.Framing(16, "tile"),
        scoring=dn.Scoring(starts=(50,), steps=1, filter_size=3),
        device="cpu",
    )
    detector.fit(data, KILLED_TRAINING, folder=folder, resume=resume)


def test_killed_at_random_moments_and_resumed_is_bit_for_bit_uninterrupted(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)], capture_output=True, text=True, env=python_environment()
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["killed"] >= 3 and len(set(report["steps"])) >= 3  # it was really stopped at different steps
    assert report["steps"] == sorted(report["steps"])  # nothing that was done is ever lost
    for kind, name in (("training", "checkpoint.safetensors"), ("detector", "detector.safetensors")):
        whole, killed = (load_checkpoint(tmp_path / folder / name, kind) for folder in ("whole", "killed"))
        assert_identical(whole[0], killed[0])
        if kind == "detector":
            assert whole[1]["calibrations"] == killed[1]["calibrations"]
    with (tmp_path / "killed" / "train.csv").open() as file:
        logged = [row["step"] for row in csv.DictReader(file)]
    assert logged == ["20", "40", "60"]  # no row twice, none missing, none torn
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".")]


def test_the_log_has_its_columns_and_true_values(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=50, warmup=10)
    losses = []
    one_step = trainer._one_step
    trainer._one_step = lambda: (losses.append(result := one_step()), result)[1]
    trainer.run()
    with (tmp_path / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (
        tuple(rows[0])
        == LOG_COLUMNS
        == ("step", "loss", "gradient_norm", "learning_rate", "images_per_second", "seconds")
    )
    assert [row["step"] for row in rows] == ["20", "40", "50"]
    for row, (start, stop) in zip(rows, ((0, 20), (20, 40), (40, 50)), strict=True):
        assert float(row["loss"]) == pytest.approx(np.mean([loss for loss, _, _ in losses[start:stop]]), rel=1e-5)
        assert float(row["gradient_norm"]) == pytest.approx(losses[stop - 1][1], rel=1e-3)
        assert float(row["learning_rate"]) == pytest.approx(losses[stop - 1][2], rel=1e-3)
        assert float(row["images_per_second"]) > 0
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[-1] > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"batch_size": 5}, "batch_size"),
        ({"augment": dn.Augment(hflip=True)}, "augment"),
        ({"seed": 1}, "seed"),
        ({"noise": dn.noise.Simplex()}, "noise"),
        ({"prediction": "sample"}, "prediction"),
        ({"schedule": dn.Schedule.linear(1e-4, 2e-2, 1000)}, "schedule"),
        ({"frames": frames(11)}, "images"),
        ({"loss": "l2+vlb"}, "loss"),
        ({"learning_rate_schedule": "constant"}, "learning_rate_schedule"),
        ({"encode": lambda images: images}, "latents"),
        (
            {
                "model": dn.UNet(
                    dn.UNetConfig(channels=16, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8)
                )
            },
            "model",
        ),
    ],
)
def test_resume_with_other_settings_refuses(tmp_path: Path, change: dict[str, object], says: str) -> None:
    trainer = make_trainer(tmp_path)
    steps(trainer, 2)
    trainer.save()
    with pytest.raises(dn.CheckpointError, match=says) as caught:
        make_trainer(tmp_path, **change).resume()
    message = str(caught.value)
    assert str(tmp_path / "checkpoint.safetensors") in message and "another folder" in message and "\n" not in message


def test_the_limit_may_be_raised_on_resume(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_steps=3).run()
    trainer = make_trainer(tmp_path, max_steps=5, save_seconds=1.0)
    trainer.resume()
    trainer.run()
    assert trainer.step == 5


class Diverging(nn.Module):
    """Right for some steps; then its output, or only its gradient, is not a number."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.calls, self.weight = where, 0, nn.Parameter(torch.ones(1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= 5:
            return x_t * self.weight
        if self.where == "output":
            return x_t * self.weight * math.nan
        # sqrt has an infinite slope at 0, times 0: NaN
        return x_t * self.weight + (self.weight * 0).square().sqrt()


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_spares_the_checkpoint(tmp_path: Path, where: str) -> None:
    trainer = make_trainer(tmp_path, model=Diverging(where), save_seconds=0.0)
    with pytest.raises(RuntimeError, match=r"at step 5.*lower learning_rate.*checkpoint"):
        trainer.run()
    tensors, meta = load_checkpoint(tmp_path / "checkpoint.safetensors", "training")
    assert meta["step"] == 5
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
    assert bool(torch.isfinite(trainer.model.weight).all())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes a quarter of a second."""
    now = itertools.count(1000.0, 0.25)
    monkeypatch.setattr("diffnoise.training.time", SimpleNamespace(monotonic=lambda: next(now)))


def test_max_minutes_ends_the_training_in_time(tmp_path: Path, clock: None) -> None:
    trainer = make_trainer(tmp_path, max_steps=None, max_minutes=0.05, batch_size=1)
    trainer.run()
    # The clock is read twice before the first step, and once after each.
    assert trainer.step == 11 and trainer.seconds == 3.0
    meta = load_checkpoint(tmp_path / "checkpoint.safetensors", "training")[1]
    assert meta["step"] == 11 and meta["seconds"] == 3.0


def test_the_time_before_a_stop_counts(tmp_path: Path, clock: None) -> None:
    trainer = make_trainer(tmp_path, max_steps=None, max_minutes=10.0)
    steps(trainer, 1)
    trainer.seconds = 599.0
    trainer.save()
    resumed = make_trainer(tmp_path, max_steps=None, max_minutes=10.0)
    resumed.resume()
    resumed.run()
    assert resumed.step == 4 and resumed.seconds == 600.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_steps": None},
        {"max_steps": 0},
        {"max_minutes": 0.0},
        {"max_minutes": math.nan},
        {"batch_size": 0},
        {"loss": "l3"},
        {"vlb_weight": -1.0},
        {"learning_rate_schedule": "exponential"},
        {"decay_at": 1.5},
        {"label_dropout": -0.1},
        {"precision": "fp8"},
        {"calibration_share": 1.0},
        {"learning_rate": -1.0},
        {"t_max": 0},
        {"ema_decay": 1.5},
        {"gradient_clip": 0.0},
        {"warmup": -1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dn.Training(**({"max_steps": 1} | wrong))


@pytest.mark.parametrize("mode", ["resize", "crop", "tile"])
def test_fit_on_images_of_different_sizes(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    for i, (height, width) in enumerate(((16, 16), (9, 30), (24, 17), (40, 33), (16, 50))):
        Image.fromarray(texture(i, height, width)).save(tmp_path / f"{i}.png")
    detector = dn.Detector(
        TINY, framing=dn.Framing(16, mode), scoring=dn.Scoring(starts=(50,), steps=1, filter_size=3), device="cpu"
    )
    detector.fit(tmp_path, dn.Training(max_steps=3, batch_size=4, calibration_share=0.3), folder=tmp_path / "run")
    assert detector.calibration.good_images == 2 and detector.provenance["train_images"] == 3
    assert (tmp_path / "run" / "detector.safetensors").is_file()


def test_one_image_is_too_few() -> None:
    detector = dn.Detector(TINY, framing=dn.Framing(16), device="cpu")
    with pytest.raises(dn.DataError, match="at least 2 good images"):
        detector.fit(torch.zeros(1, 1, 16, 16), dn.Training(max_steps=1))


def test_fit_of_a_finished_run_gives_the_same_detector(tmp_path: Path) -> None:
    data = build_category(tmp_path / "data")

    def fit(resume: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        detector = dn.Detector(
            TINY, framing=dn.Framing(16), scoring=dn.Scoring(starts=(50,), steps=1, filter_size=3), device="cpu"
        )
        detector.fit(data, dn.Training(max_steps=5, batch_size=4), folder=tmp_path / "run", resume=resume)
        return load_checkpoint(tmp_path / "run" / "detector.safetensors", "detector")[0]

    assert_identical(fit(False), fit(True))


def test_batch_norms_of_the_averaged_network_have_statistics_of_its_weights() -> None:
    config = DTUNetConfig(image_size=16, patch_size=4, width=32, depth=2, heads=2)
    torch.manual_seed(0)
    frames = torch.rand(6, 1, 16, 16) * 2 - 1
    training = dn.Training(max_steps=6, batch_size=3, warmup=0, learning_rate=1e-2, ema_decay=0.99, precision="fp32")
    model = build(config)
    trainer = Trainer(
        model, dn.noise.Gaussian(), dn.Schedule.linear(), "epsilon", training, frames, 16, None, torch.device("cpu")
    )
    trainer.run()
    network = trainer.averaged()
    name, norm = next((n, m) for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for step in range(NORM_BATCHES):
            example = trainer._example(step)
            network(example.x_t, example.t)
    # The first batch norm sees what no other one has changed: the convolution of x_t with the averaged weights.
    expected = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dict(model.named_modules())[name].running_mean, norm.running_mean, rtol=1e-2)
    assert trainer.averaged() is network and norm.momentum == 0.1 and not network.training
