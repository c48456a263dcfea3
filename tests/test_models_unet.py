"""The UNets of AnoDDPM and ADM: their published sizes, classes, and the feature head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_models import awake, deviation, group_norm, image, randomise, small

from diffnoise.models import Output, UNetConfig, build, denoise, prepare
from diffnoise.models.blocks import ResidualBlock, double, halve, timestep_embedding

SHAPE: dict[str, Any] = {
    "channel_mult": (1, 1, 2, 2, 4, 4), "res_blocks": 2, "attention_levels": (3, 4, 5), "norm_groups": 32, "patch_size": 1,
}  # fmt: skip
ANODDPM = SHAPE | {"time_embedding": "add", "embedding_order": "sin_cos", "resample": "residual", "heads": 2}
ADM = SHAPE | {"resample": "residual", "head_channels": 64, "learn_variance": True, "num_classes": 999}
# Stable-diffusion latents of 256 pixels, 8 heads (Tebbe and Tayyub)
LATENT = ANODDPM | {"channel_mult": (1, 2, 2, 4, 4), "attention_levels": (0, 1, 2, 3), "heads": 8}


@pytest.mark.parametrize(
    ("config", "published"),
    (
        (UNetConfig(1, 128, **ANODDPM), 131_649_793),
        (UNetConfig(3, 128, **ANODDPM), 131_654_403),
        (UNetConfig(3, 64, **ANODDPM), 32_952_707),
        (UNetConfig(3, 32, **ANODDPM), 8_257_731),
        (UNetConfig(1, 128, **ANODDPM | {"attention_levels": (4, 5)}), 130_331_393),
        (UNetConfig(4, 192, **LATENT), 281_088_004),
        # 999 classes and none, where the published network has 1000
        (UNetConfig(3, 256, **ADM), 553_838_086),
        (UNetConfig(3, 256, **ADM, feature_channels=272), 553_838_086 + 140_560),
    ),
)
def test_parameter_counts_are_the_published_ones(config, published):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(config).parameters()) == published


# Several channels per group: in a group of one the time that is added before the norm would do nothing.
OPTIONS = (
    small(norm_groups=2, time_embedding="add", resample="residual", heads=2),
    small(3, 16, (1, 2, 2), res_blocks=2, attention_levels=(2,), norm_groups=8, resample="residual", num_classes=2),
    small(2, 16, (1, 2), num_classes=3, feature_channels=5, feature_block=1, patch_size=2, embedding_order="sin_cos"),
    small(
        1, 16, (1, 2, 1), num_classes=1, feature_channels=6, feature_block=4, learn_variance=True, time_embedding="add"
    ),
)


def test_time_can_be_sine_first():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0, 1, 57, 999])
    expected = embeddings.get_timestep_embedding(t, 32, flip_sin_to_cos=False, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_embedding(t, 32, sine_first=True), expected, rtol=0, atol=3e-4)


@pytest.mark.parametrize("resize", (halve, double))
def test_a_residual_block_that_adds_time_and_resizes_is_the_formula(resize):
    block = randomise(ResidualBlock(6, 10, 5, 2, 0.5, scale_shift=False, resize=resize))
    x, time = image(2, 6, 4, 6).double(), image(2, 5, seed=4).double()

    def resized(h):
        if resize is double:
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4

    def silu(h):
        return h / (1 + torch.exp(-h))

    h = F.conv2d(resized(silu(group_norm(x, block.norm_in))), block.conv_in.weight, block.conv_in.bias, padding=1)
    h = h + (time @ block.time.weight.T + block.time.bias)[:, :, None, None]
    h = F.conv2d(silu(group_norm(h, block.norm_out)), block.conv_out.weight, block.conv_out.bias, padding=1)
    skip = F.conv2d(resized(x), block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x, time), skip + h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", OPTIONS)
def test_the_gradient_reaches_every_parameter(config):
    model = awake(config)
    labels = {} if config.num_classes is None else {"class_labels": torch.arange(config.num_classes + 1)}
    batch = len(labels.get("class_labels", (0, 0)))
    output = model(image(batch, config.image_channels, 16, 16), torch.full((batch,), 10), **labels)
    outputs = [output.sample, output.features] if isinstance(output, Output) else [output]
    sum((o * image(*o.shape, seed=2)).sum() for o in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("config", OPTIONS)
def test_prepared_they_give_the_same_values(config):
    model, x_t, t = awake(config), image(3, config.image_channels, 16, 24), torch.tensor([10, 500, 10])
    given = [{}]
    if config.num_classes is not None:
        given.append({"class_labels": torch.tensor([0, config.num_classes, 0])})
    for labels in given:
        with torch.inference_mode():
            truth = awake(config).double()(x_t.double(), t, **labels)
        for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.03)):
            prepared = prepare(model, dtype)
            assert type(prepared).__name__ == "Plan"
            output = prepared(x_t, t, **labels)
            if config.feature_channels is None:
                assert deviation(output, truth) < bound
            else:
                assert deviation(output.sample, truth.sample) < bound
                assert deviation(output.features, truth.features) < bound


def test_no_class_is_the_last_row():
    config = small(num_classes=2)
    model, x_t, t = awake(config), image(1, 1, 16, 16), torch.tensor([10])
    for network in (model, prepare(model)):
        with torch.inference_mode():
            outputs = [network(x_t, t, class_labels=torch.tensor([label])) for label in range(3)]
            assert torch.equal(network(x_t, t), outputs[2])
        assert all((outputs[i] - outputs[i + 1]).abs().max() > 1e-3 for i in range(2))
    for network in (awake(small()), prepare(awake(small()))):
        with pytest.raises(ValueError, match="takes no class_labels"):
            network(x_t, t, class_labels=torch.tensor([0]))


@pytest.mark.parametrize("config", OPTIONS[2:])
def test_features_are_those_behind_their_block(config):
    model, (x_t, t) = awake(config).double(), (image(2, config.image_channels, 16, 24).double(), torch.tensor([3, 9]))
    seen = []
    model.up[config.feature_block][-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    prediction, variance, features = denoise(model, x_t, t, config.learn_variance)
    (h,) = seen
    normal = group_norm(h, model.feature_norm)
    expected = torch.einsum("fc,bchw->bfhw", model.feature_conv.weight[:, :, 0, 0], normal / (1 + torch.exp(-normal)))
    expected = expected + model.feature_conv.bias[:, None, None]
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    # Block 1 of 4, the last at the coarsest level, before it is doubled; block 4 of 6, the first at the finest.
    side = 16 // (2 * config.patch_size if config.feature_block == 1 else 1)
    assert features.shape == (2, config.feature_channels, side, side * 3 // 2)
    assert prediction.shape == x_t.shape and (variance is not None) == config.learn_variance


@pytest.mark.parametrize(
    ("call", "sentence"),
    (
        (lambda: small(resample="pool"), "resample must be one of conv, residual, not 'pool'"),
        (lambda: small(time_embedding="film"), "time_embedding must be one of scale_shift, add"),
        (lambda: small(feature_channels=3), r"feature_block must lie in 0\.\.3, but is 10"),
        (lambda: small(num_classes=0), "num_classes must be at least 1, but is 0"),
        (lambda: build(small(heads=3)), "heads must divide the 16 channels of its level, but is 3"),
    ),
)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
