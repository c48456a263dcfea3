"""The UNet and its blocks against written-out formulas and diffusers, and the adapter for other models."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnoise.models import UNet, UNetConfig, config_from_dict, denoise, prepare
from diffnoise.models.blocks import Attention, ResidualBlock, Upsample, timestep_embedding


def small(
    image_channels: int = 1, channels: int = 8, channel_mult: tuple[int, ...] = (1, 2), **rest: Any
) -> UNetConfig:
    """Independent of the package's defaults, which follow what trains best."""
    rest = {"res_blocks": 1, "head_channels": 8, "norm_groups": 4, "patch_size": 1} | rest
    return UNetConfig(image_channels=image_channels, channels=channels, channel_mult=channel_mult, **rest)


SMALL = small(channel_mult=(1, 2, 2, 4))


def awake(config: UNetConfig, seed: int = 0) -> UNet:
    """A UNet whose zero-initialised layers hold random numbers, so that everything shows in the output."""
    torch.manual_seed(seed)
    model = UNet(config)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def image(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("config", "height", "width"),
    (
        (SMALL, 224, 224),
        (SMALL, 8, 8),
        (SMALL, 40, 24),
        (small(channel_mult=(1,)), 7, 9),
        (small(res_blocks=3, attention_levels=(0, 1), head_channels=4), 14, 30),
        (small(channel_mult=(2, 1, 3), patch_size=4, norm_groups=5), 224, 48),
        (small(head_channels=16, patch_size=7), 224, 224),
    ),
)
@pytest.mark.parametrize("learn_variance", (False, True))
@pytest.mark.parametrize("channels", (1, 2, 3))
def test_output_shapes(config, height, width, channels, learn_variance):
    config = dataclasses.replace(config, image_channels=channels, learn_variance=learn_variance)
    assert height % config.size_multiple == width % config.size_multiple == 0
    with torch.inference_mode():
        output = awake(config)(image(1, channels, height, width), torch.tensor([7]))
    assert output.shape == (1, channels * (2 if learn_variance else 1), height, width)
    assert output.isfinite().all() and output.std() > 0


def test_an_untrained_unet_predicts_zero():
    """The last convolution starts at zero (Dhariwal and Nichol)."""
    assert not UNet(SMALL)(image(2, 1, 16, 16), torch.tensor([0, 999])).any()


@pytest.mark.parametrize("patch_size", (1, 2))
@pytest.mark.parametrize("attention_levels", ((), (1,)))
def test_the_gradient_reaches_every_parameter(attention_levels, patch_size):
    config = small(
        image_channels=2, channel_mult=(1, 2), res_blocks=2, attention_levels=attention_levels,
        head_channels=4, norm_groups=2, patch_size=patch_size, learn_variance=True,
    )  # fmt: skip
    model = awake(config).train()
    output = model(image(3, 2, 16, 16), torch.tensor([0, 10, 999]))
    (output * image(*output.shape, seed=2)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("what", ("x_t", "t", "neighbour"))
def test_what_the_output_depends_on(what):
    model, x_t, t = awake(SMALL), image(2, 1, 16, 24), torch.tensor([10, 500])
    with torch.inference_mode():
        before = model(x_t, t)
        if what == "t":
            after = model(x_t, torch.tensor([10, 501]))
        else:
            changed = x_t.clone()
            changed[1 if what == "neighbour" else 0, 0, 15, 23] += 1
            after = model(changed, t)
    difference = (before - after).abs().flatten(1).amax(1)
    first, second = (difference > 1e-4).tolist()
    assert (first, second) == ((True, False) if what == "x_t" else (False, True))
    if what == "x_t":  # attention in the middle carries the corner everywhere
        assert float(((before - after)[0] != 0).double().mean()) > 0.95


def test_channels_last_gives_the_same_values():
    config = small(channel_mult=(1, 2), attention_levels=(1,), patch_size=2)
    model, x_t, t = awake(config), image(2, 1, 32, 48), torch.tensor([10, 500])
    with torch.inference_mode():
        expected = model(x_t, t)
        model.to(memory_format=torch.channels_last)
        found = model(x_t.contiguous(memory_format=torch.channels_last), t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_half_types():
    model, x_t, t = awake(SMALL), image(1, 1, 16, 16), torch.tensor([10])
    with torch.inference_mode():
        expected = model(x_t, t)
        found = model.to(torch.bfloat16)(x_t.to(torch.bfloat16), t)
    assert found.dtype == torch.bfloat16
    assert float((found.float() - expected).abs().max()) < 0.05 * float(expected.abs().max())


# Blocks.


@pytest.mark.parametrize("channels", (8, 32, 130))
def test_timestep_embedding_is_that_of_diffusers(channels):
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0, 1, 57, 999])
    expected = embeddings.get_timestep_embedding(t, channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    found = timestep_embedding(t, channels)
    assert found.shape == (4, channels) and found.dtype == torch.float32
    half = channels // 2
    frequencies = 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = t.double().unsqueeze(1) * frequencies
    exact = torch.cat([angles.cos(), angles.sin()], 1)
    for i in range(4):
        # An angle is known to 2^-23 of itself in float32, in diffusers as here.
        tolerance = 5e-7 + float(t[i]) * 2**-22
        torch.testing.assert_close(found[i], expected[i], rtol=0, atol=tolerance)
        torch.testing.assert_close(found[i].double(), exact[i], rtol=0, atol=tolerance)


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Written out: mean 0 and variance 1 over the channels of a group and all pixels, then scale and shift per channel."""
    grouped = x.unflatten(1, (norm.num_groups, -1))
    mean, variance = grouped.mean((2, 3, 4), keepdim=True), grouped.var((2, 3, 4), correction=0, keepdim=True)
    normal = ((grouped - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
    return normal * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("head_channels", (4, 12))
def test_attention_is_a_softmax(head_channels):
    attention = randomise(Attention(12, head_channels, groups=3))
    x = image(2, 12, 3, 5).double()
    tokens = group_norm(x, attention.norm).flatten(2)  # [B, C, N]
    q, k, v = (attention.qkv.weight[:, :, 0, 0] @ tokens + attention.qkv.bias[:, None]).chunk(3, 1)
    heads = []
    for first in range(0, 12, head_channels):
        of_head = slice(first, first + head_channels)
        logits = torch.einsum("bcn,bcm->bnm", q[:, of_head], k[:, of_head]) / head_channels**0.5
        weights = logits.exp() / logits.exp().sum(2, keepdim=True)
        heads.append(torch.einsum("bnm,bcm->bcn", weights, v[:, of_head]))
    mixed = attention.projection.weight[:, :, 0, 0] @ torch.cat(heads, 1) + attention.projection.bias[:, None]
    torch.testing.assert_close(attention(x), x + mixed.view_as(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("inputs", "outputs"), ((6, 6), (6, 10)))
def test_residual_block_is_the_formula(inputs, outputs):
    block = randomise(ResidualBlock(inputs, outputs, time_channels=5, groups=2, dropout=0.5))
    x, time = image(2, inputs, 4, 6).double(), image(2, 5, seed=4).double()

    def silu(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    h = F.conv2d(silu(group_norm(x, block.norm_in)), block.conv_in.weight, block.conv_in.bias, padding=1)
    scale, shift = (time @ block.time.weight.T + block.time.bias)[:, :, None, None].chunk(2, 1)
    h = silu(group_norm(h, block.norm_out) * (1 + scale) + shift)
    h = F.conv2d(h, block.conv_out.weight, block.conv_out.bias, padding=1)
    skip = x if inputs == outputs else F.conv2d(x, block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x, time), skip + h, rtol=1e-10, atol=1e-10)


def test_blocks_start_as_the_identity():
    x = image(2, 8, 4, 4)
    assert torch.equal(Attention(8, 4, 2)(x), x)
    assert torch.equal(ResidualBlock(8, 8, 5, 2, 0.0)(x, image(2, 5)), x)


def test_upsample_repeats_pixels_before_it_convolves():
    up = randomise(Upsample(3))
    x = image(1, 3, 4, 5).double()
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up(x), F.conv2d(doubled, up.weight, up.bias, padding=1), rtol=1e-12, atol=1e-12)


def test_a_patch_folds_pixels_into_channels():
    """The network behind patch_size=2 is that of four-channel images of half the size."""
    folded = awake(small(patch_size=2))
    plain = UNet(small(image_channels=4)).eval()
    plain.load_state_dict(folded.state_dict())
    x_t, t = image(2, 1, 16, 24), torch.tensor([3, 400])
    quarters = torch.cat([x_t[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1)
    with torch.inference_mode():
        output, expected = folded(x_t, t), plain(quarters, t)
    for i, (y, x) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        torch.testing.assert_close(output[:, 0, y::2, x::2], expected[:, i], rtol=1e-5, atol=1e-6)


def parameters_by_hand(config: UNetConfig) -> int:
    """Weights and biases, layer by layer, of the architecture that the README and Dhariwal and Nichol describe."""

    def conv(i: int, o: int, kernel: int = 3) -> int:
        return i * o * kernel**2 + o

    def residual(i: int, o: int) -> int:
        return 2 * i + conv(i, o) + conv(time, 2 * o, 1) + 2 * o + conv(o, o) + (conv(i, o, 1) if i != o else 0)

    def attention(c: int) -> int:
        return 2 * c + conv(c, 3 * c, 1) + conv(c, c, 1)

    time, widths = 4 * config.channels, [config.channels * m for m in config.channel_mult]
    total = (
        conv(config.channels, time, 1)
        + conv(time, time, 1)
        + conv(config.image_channels * config.patch_size**2, widths[0])
    )
    current, skips = widths[0], [widths[0]]
    for level, width in enumerate(widths):
        for _ in range(config.res_blocks):
            total += residual(current, width) + (attention(width) if level in config.attention_levels else 0)
            current = width
            skips.append(width)
        if level < len(widths) - 1:
            total += conv(width, width)
            skips.append(width)
    total += 2 * residual(current, current) + attention(current)
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(config.res_blocks + 1):
            total += residual(current + skips.pop(), width) + (
                attention(width) if level in config.attention_levels else 0
            )
            current = width
        if level > 0:
            total += conv(width, width)
    outputs = config.image_channels * (2 if config.learn_variance else 1) * config.patch_size**2
    return total + 2 * current + conv(current, outputs)


@pytest.mark.parametrize(
    "config",
    (
        small(),
        small(2, patch_size=4),
        UNetConfig(),
        small(3, 16, (1, 2, 2, 4), res_blocks=2, attention_levels=(2, 3), head_channels=16, learn_variance=True),
    ),
)
def test_parameter_count(config):
    assert sum(p.numel() for p in UNet(config).parameters()) == parameters_by_hand(config)


def from_diffusers(ours: UNet, theirs: nn.Module) -> None:
    """Give `ours` the weights of diffusers' UNet2DModel."""

    def copy(to: nn.Module, *sources: nn.Module) -> None:
        for name in ("weight", "bias"):
            source = torch.cat([getattr(s, name) for s in sources])
            target = getattr(to, name)
            assert target.numel() == source.numel()
            target.data.copy_(source.view_as(target))

    def copy_sampler(to: nn.Module, sampler: nn.Module) -> None:
        if isinstance(to, ResidualBlock):
            copy_residual(to, sampler)
        else:
            copy(to, sampler.conv)

    def copy_residual(block: nn.Module, resnet: nn.Module) -> None:
        names = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2")
        for part, name in zip(
            (block.norm_in, block.conv_in, block.time, block.norm_out, block.conv_out), names, strict=True
        ):
            copy(part, getattr(resnet, name))
        if resnet.conv_shortcut is not None:
            copy(block.skip, resnet.conv_shortcut)

    def copy_stage(to: nn.ModuleList, resnet: nn.Module, attention: nn.Module | None) -> None:
        copy_residual(to[0], resnet)
        assert len(to) == (1 if attention is None else 2)
        if attention is not None:
            copy(to[1].norm, attention.group_norm)
            copy(to[1].qkv, attention.to_q, attention.to_k, attention.to_v)
            copy(to[1].projection, attention.to_out[0])

    copy(ours.time[0], theirs.time_embedding.linear_1)
    copy(ours.time[2], theirs.time_embedding.linear_2)
    copy(ours.conv_in, theirs.conv_in)
    copy(ours.norm_out, theirs.conv_norm_out)
    copy(ours.conv_out, theirs.conv_out)
    for stages, blocks in ((iter(ours.down), theirs.down_blocks), (iter(ours.up), theirs.up_blocks)):
        for block in blocks:
            for i, resnet in enumerate(block.resnets):
                copy_stage(next(stages), resnet, block.attentions[i] if hasattr(block, "attentions") else None)
        assert next(stages, None) is None
    middle = theirs.mid_block
    copy_stage(ours.middle[0], middle.resnets[0], middle.attentions[0])
    copy_stage(ours.middle[1], middle.resnets[1], None)
    for to, block in zip(ours.downsample, theirs.down_blocks[:-1], strict=True):
        copy_sampler(to, block.downsamplers[0])
    for to, block in zip(ours.upsample, theirs.up_blocks[:-1], strict=True):
        copy_sampler(to, block.upsamplers[0])
    if theirs.class_embedding is not None:
        ours.classes.weight.data[:-1].copy_(theirs.class_embedding.weight)


ADM = (
    {"resnet_time_scale_shift": "scale_shift", "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
     "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")},
    {},
)  # fmt: skip
ANODDPM = (
    {"down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"), "flip_sin_to_cos": False,
     "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"), "upsample_type": "resnet",
     "num_class_embeds": 4},
    {"time_embedding": "add", "embedding_order": "sin_cos", "resample": "residual", "num_classes": 4},
)  # fmt: skip


@pytest.mark.parametrize(("of_theirs", "of_ours"), (ADM, ANODDPM), ids=("adm", "anoddpm"))
def test_unet_is_that_of_diffusers(of_theirs, of_ours):
    """With the weights of diffusers' UNet2DModel it gives the same values."""
    diffusers = pytest.importorskip("diffusers.models.unets.unet_2d")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(16, 32, 32), norm_num_groups=8,
        attention_head_dim=16, attn_norm_num_groups=8, **of_theirs,
    )  # fmt: skip
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.15)
    theirs = theirs.double().eval()
    ours = (
        UNet(small(3, 16, (1, 2, 2), res_blocks=2, attention_levels=(2,), head_channels=16, norm_groups=8, **of_ours))
        .double()
        .eval()
    )
    from_diffusers(ours, theirs)
    no_class = ours.classes.weight[-1].numel() if "num_classes" in of_ours else 0  # a row of ours alone
    assert sum(p.numel() for p in ours.parameters()) - no_class == sum(p.numel() for p in theirs.parameters())
    x_t, t = image(2, 3, 24, 32).double(), torch.tensor([7, 60])
    labels = {"class_labels": torch.tensor([3, 0])} if no_class else {}
    with torch.inference_mode():
        expected, found = theirs(x_t, t, **labels).sample, ours(x_t, t, **labels)
    # The two round the timestep's frequencies differently in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert expected.std() > 0.1


# Prepared for inference.

PREPARED = (
    small(channel_mult=(1, 2), attention_levels=(1,), patch_size=2),
    small(3, 16, (1, 2, 2), res_blocks=2, attention_levels=(2,), norm_groups=8, learn_variance=True),
    small(2, 24, (2, 1), norm_groups=3, head_channels=12),
)


def deviation(found: Tensor, expected: Tensor) -> float:
    assert found.dtype == torch.float32 and found.is_contiguous() and expected.std() > 0.05
    return float((found.double() - expected).abs().max() / expected.abs().max())


def pair(config: UNetConfig) -> tuple[Tensor, Tensor]:
    return image(2, config.image_channels, 32, 48), torch.tensor([10, 500])


@pytest.mark.parametrize("config", PREPARED)
def test_a_prepared_unet_gives_the_same_values(config):
    model, (x_t, t) = awake(config), pair(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepare(model)
    with torch.inference_mode():
        truth = awake(config).double()(x_t.double(), t)
        assert deviation(prepared(x_t, t), truth) < 1e-5
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])
    for parameter in model.parameters():
        parameter.data.zero_()
    assert deviation(prepared(x_t, t), truth) < 1e-5  # it is a copy


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("config", PREPARED)
def test_half_types_keep_the_stated_bound(config, dtype):
    model, (x_t, t) = awake(config), pair(config)
    with torch.inference_mode():
        truth = model(x_t, t)
    assert deviation(prepare(model, dtype)(x_t, t), truth) < 0.03


def unet_2d(**changes: Any) -> nn.Module:
    diffusers = pytest.importorskip("diffusers.models.unets.unet_2d")
    torch.manual_seed(0)
    options = {
        "in_channels": 3, "out_channels": 6, "layers_per_block": 2, "block_out_channels": (16, 32, 32), "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), "attention_head_dim": 16,
    }  # fmt: skip
    model = diffusers.UNet2DModel(**options | changes)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.1)
    return model.eval()


VARIANTS = (
    {},
    {"resnet_time_scale_shift": "scale_shift"},
    {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3},
    {"add_attention": False, "layers_per_block": 1, "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3},
)  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_prepared_model_of_diffusers_gives_the_same_values(changes):
    model, x_t, t = unet_2d(**changes), image(2, 3, 24, 32), torch.tensor([7, 600])
    single, half = prepare(model), prepare(model, torch.bfloat16)
    with torch.inference_mode():
        output = model(x_t, t).sample
        assert deviation(single(x_t, t), output) < 1e-5
        assert deviation(half(x_t, t), output) < 0.03
    assert not any(part.training for part in model.modules()) and model.dtype == torch.float32
    assert type(single).__name__ == "Plan"


@pytest.mark.parametrize(
    "changes",
    (
        {"down_block_types": ("SkipDownBlock2D", "DownBlock2D", "AttnDownBlock2D")},
        {"center_input_sample": True},
        {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"},
        {"mid_block_scale_factor": 2**0.5},
        {"num_class_embeds": 3},
    ),
    ids=("block", "centred", "resampling", "factor", "classes"),
)
def test_what_a_plan_lacks_runs_as_it_is(changes):
    model, x_t, t = unet_2d(), image(1, 3, 24, 32), torch.tensor([7])
    classes = {"class_labels": torch.tensor([1])} if "num_class_embeds" in changes else {}
    if "down_block_types" in changes:
        changes = changes | {"up_block_types": ("AttnUpBlock2D", "UpBlock2D", "SkipUpBlock2D")}
    model = unet_2d(**changes)
    if classes:
        prepared = prepare(lambda x, at: model(x, at, **classes))
    else:
        prepared = prepare(model)
    with torch.inference_mode():
        assert deviation(prepared(x_t, t), model(x_t, t, **classes).sample) < 1e-5


def test_any_module_can_be_prepared():
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
            assert x.dtype == self.conv.weight.dtype
            return SimpleNamespace(sample=self.conv(x) * t.view(-1, 1, 1, 1))

    torch.manual_seed(0)
    network, x_t, t = Network(), image(2, 1, 8, 8), torch.tensor([3, 7])
    expected = network(x_t, t).sample.detach()
    assert deviation(prepare(network)(x_t, t), expected) < 1e-6
    assert deviation(prepare(network, torch.bfloat16)(x_t, t), expected) < 0.03
    assert network.conv.weight.dtype == torch.float32


class Shifted(UNet):
    def forward(self, x_t, t):
        return super().forward(x_t, t) + 100


def hooked(model):
    model.register_forward_hook(lambda module, inputs, output: output + 100)
    return model


def with_borders(model):
    model.conv_in.padding_mode = "reflect"
    model.conv_in._reversed_padding_repeated_twice = [1, 1, 1, 1]
    return model


@pytest.mark.parametrize(
    "make",
    (Shifted, lambda config: hooked(UNet(config)), lambda config: with_borders(UNet(config))),
    ids=("subclass", "hook", "borders"),
)
def test_a_unet_that_was_changed_runs_as_it_is(make):
    model = randomise(
        make(UNetConfig(channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=1, head_channels=8))
    ).float()
    x_t, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 500])
    with torch.no_grad():
        torch.testing.assert_close(prepare(model.eval())(x_t, t), model(x_t, t))


def test_a_prepared_unet_knows_so_many_timesteps():
    model, x_t = awake(SMALL), image(1, 1, 16, 16)
    prepared = prepare(model, timesteps=20)
    with torch.inference_mode():
        assert deviation(prepared(x_t, torch.tensor([19])), model(x_t, torch.tensor([19]))) < 1e-5
    with pytest.raises((RuntimeError, IndexError)):
        prepared(x_t, torch.tensor([20]))
    with pytest.raises(ValueError, match="each a multiple of 8"):
        prepared(image(1, 1, 12, 16), torch.tensor([3]))


# Configuration and refusals.


def test_a_configuration_survives_json():
    config = UNetConfig(3, 16, (1, 2), 2, (1,), 8, 4, 0.1, 2, True)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.size_multiple == 4 and SMALL.size_multiple == 8


X, ONE = image(1, 1, 16, 16), torch.tensor([1])
REFUSED = [
    (lambda: small(channels=0), "channels must be at least 1, but is 0"),
    (lambda: small(channels=33), "channels must be even"),
    (lambda: small(patch_size=0), "patch_size must be at least 1"),
    (lambda: small(channel_mult=()), "channel_mult must hold positive integers"),
    (lambda: small(channel_mult=(1, 0)), "channel_mult must hold positive integers"),
    (
        lambda: small(attention_levels=(2,)),
        r"attention_levels must lie in 0..1, but is \(2,\)",
    ),
    (
        lambda: UNet(small(channels=32, channel_mult=(1, 2), head_channels=5)),
        "head_channels must divide the 64 channels of its level, but is 5",
    ),
    (
        lambda: prepare(UNet(SMALL), torch.float64),
        "must be torch.float32, torch.bfloat16 or torch.float16, but is torch.float64",
    ),
    (lambda: UNet(SMALL)(X[0], ONE), r"images of shape \[B, 1, H, W\], not \[1, 16, 16\]"),
    (lambda: UNet(SMALL)(X.expand(1, 3, 16, 16), ONE), r"images of shape \[B, 1, H, W\], not \[1, 3, 16, 16\]"),
    (lambda: UNet(SMALL)(X[..., :12], ONE), "height and width are each a multiple of 8, not 16 x 12"),
    (
        lambda: denoise(lambda x_t, t: x_t[..., :8], X, ONE),
        r"returned shape \[1, 1, 16, 8\] for an input of shape \[1, 1, 16, 16\]",
    ),
    (lambda: denoise(lambda x_t, t: x_t.expand(1, 3, 16, 16), X, ONE), r"returned shape \[1, 3, 16, 16\]"),
    (lambda: denoise(lambda x_t, t: x_t[0], X, ONE), r"returned shape \[1, 16, 16\]"),
    (
        lambda: denoise(lambda x_t, t: (x_t, x_t), X, ONE),
        "must return a tensor, or an object whose `sample` is one, not tuple",
    ),
    (lambda: denoise(lambda x_t, t: None, X, ONE), "not NoneType"),
    (lambda: denoise(lambda x_t, t: SimpleNamespace(sample=None), X, ONE), "not NoneType"),
    (
        lambda: denoise(lambda x_t, t: x_t, X, ONE, learned_variance=True),
        "A learned variance needs a model with twice as many",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "wrap", (lambda output: output, lambda output: SimpleNamespace(sample=output)), ids=("tensor", "sample")
)
def test_denoise_takes_tensors_and_samples_of_one_or_two_outputs(wrap):
    x_t, t = image(2, 3, 4, 5), torch.tensor([7, 8])
    seen: list[Any] = []

    def model(x: Tensor, at: Tensor) -> Any:
        seen.extend([x, at])
        return wrap(2 * x)

    prediction, variance, features = denoise(model, x_t, t)
    assert torch.equal(prediction, 2 * x_t) and variance is None and features is None
    assert seen[0] is x_t and seen[1] is t

    def both(x: Tensor, at: Tensor) -> Any:
        return wrap(torch.cat([2 * x, -x], 1))

    prediction, variance, features = denoise(both, x_t, t, learned_variance=True)
    assert torch.equal(prediction, 2 * x_t) and torch.equal(variance, -x_t)
    prediction, variance, features = denoise(both, x_t, t)
    assert torch.equal(prediction, 2 * x_t) and variance is None


def test_denoise_takes_the_unet():
    config = small(learn_variance=True)
    model, x_t, t = awake(config), image(2, 1, 8, 8), torch.tensor([7, 8])
    with torch.inference_mode():
        prediction, variance, features = denoise(model, x_t, t, learned_variance=True)
        assert torch.equal(torch.cat([prediction, variance], 1), model(x_t, t))
