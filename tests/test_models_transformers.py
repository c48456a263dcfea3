"""U-ViT, DTU-Net and DiT against the published parameter counts and against their formulas, written out."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_models import deviation, image
from torch import Tensor, nn

import diffnoise as dn
from diffnoise.config import Config
from diffnoise.models import (
    DiTConfig,
    DTUNetConfig,
    ModelConfig,
    TransformerConfig,
    UNetConfig,
    UViTConfig,
    build,
    config_from_dict,
    config_of,
    denoise,
    prepare,
)  # fmt: skip

TINY: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 4}
FAMILIES = (
    UViTConfig(**TINY),
    UViTConfig(**TINY, image_channels=3, num_classes=2, time_mlp=True),
    DTUNetConfig(**TINY, embedding="patch", feed_forward="mlp"),
    DTUNetConfig(**TINY),
    DTUNetConfig(**TINY, image_channels=3, num_classes=2, refine=True, learn_variance=True),
    DTUNetConfig(**TINY, num_classes=1, norm="group", refine=True),
    DiTConfig(**TINY),
    DiTConfig(**TINY, image_channels=3, num_classes=2, learn_variance=True),
)
NAMES = [f"{config.kind}-{i}" for i, config in enumerate(FAMILIES)]


def lively(config: ModelConfig, seed: int = 0) -> nn.Module:
    """A network of which every parameter and statistic is drawn, so that each shows in the output."""
    torch.manual_seed(seed)
    model = build(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.1)
    for name, statistic in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            statistic.add_(torch.rand(statistic.shape))
    return model.eval()


def inputs(config: TransformerConfig, batch: int = 2) -> tuple[Tensor, Tensor]:
    return image(batch, config.image_channels, config.image_size, config.image_size), torch.tensor([3, 9, 700])[:batch]


def labels(config: ModelConfig, batch: int = 2) -> dict[str, Tensor]:
    return {} if config.num_classes is None else {"class_labels": torch.tensor([0, config.num_classes, 0])[:batch]}


# The published sizes.


def parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters())


@pytest.mark.parametrize(
    ("config", "published"),
    (
        (UViTConfig(), 13_572_746),
        (UViTConfig(width=768, depth=12, heads=12), 99_741_962),
        (DTUNetConfig(embedding="patch", feed_forward="mlp"), 14_946_442),
        (DTUNetConfig(embedding="patch", feed_forward="daff"), 15_621_802),
        (DTUNetConfig(embedding="conv", feed_forward="mlp"), 15_721_308),
        (DTUNetConfig(), 16_396_668),
        (DTUNetConfig(3, depth=12, refine=True), 28_863_812),
        # DiT-XL/2 for latents of 256 pixels
        (DiTConfig(4, 32, 2, 1152, 28, 16, learn_variance=True, num_classes=1000), 675_129_632),
    ),
)
def test_parameter_counts_are_the_published_ones(config, published):
    unused = {"u_vit": 0, "dtu_net": config.width, "dit": config.grid**2 * config.width}[config.kind]
    # Their DTU-Net holds a class token that it never reads; their DiT counts its fixed positions.
    assert parameters(config) + unused == published


@pytest.mark.parametrize(
    ("changes", "millions"),
    (
        ({"depth": 12, "embedding": "patch", "feed_forward": "mlp"}, 26.64),
        ({"depth": 12, "embedding": "patch"}, 27.89),
        ({"depth": 12, "feed_forward": "mlp"}, 27.41),
        ({"depth": 12}, 28.67),
        ({"depth": 12, "width": 768, "heads": 12, "embedding": "patch", "feed_forward": "mlp"}, 105.2),
        ({"depth": 12, "width": 768, "heads": 12}, 113.0),
    ),
)
def test_parameter_counts_of_larger_dtu_nets(changes, millions):
    assert parameters(DTUNetConfig(**changes)) / 1e6 == pytest.approx(millions, rel=1e-3)


# The formulas, in float64.


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    normal = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    return normal if norm.weight is None else normal * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def waves(t: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    half = channels // 2
    angles = t.double().unsqueeze(-1) * 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    return angles.cos(), angles.sin()


def convolution_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Per channel with the running statistics; per group of channels and image."""
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        normal = (x - mean) / (variance + norm.eps).sqrt()
    else:
        grouped = x.unflatten(1, (norm.num_groups, -1))
        mean, variance = grouped.mean((2, 3, 4), keepdim=True), grouped.var((2, 3, 4), correction=0, keepdim=True)
        normal = ((grouped - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
    return normal * norm.weight[:, None, None] + norm.bias[:, None, None]


def convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)


def attention(x: Tensor, module: nn.Module) -> Tensor:
    d = x.shape[2] // module.heads
    q, k, v = linear(x, module.qkv).chunk(3, 2)
    heads = []
    for first in range(0, x.shape[2], d):
        of_head = slice(first, first + d)
        weights = (torch.einsum("bnd,bmd->bnm", q[..., of_head], k[..., of_head]) / math.sqrt(d)).exp()
        weights = weights / weights.sum(2, keepdim=True)
        heads.append(torch.einsum("bnm,bmd->bnd", weights, v[..., of_head]))
    return linear(torch.cat(heads, 2), module.projection)


def head_interaction(x: Tensor, module: nn.Module) -> Tensor:
    tokens, d = x.shape[1], x.shape[2] // module.heads
    of_heads = []
    for head in range(module.heads):
        mean = sum(x[:, n, head * d : (head + 1) * d] for n in range(tokens)) / tokens
        token = linear(mean, module.head_projection)
        parts = [gelu(layer_norm(token[:, j * d : (j + 1) * d], module.head_norm)) for j in range(module.heads)]
        of_heads.append(torch.cat(parts, 1) + module.head_position[0, head])
    h = attention(torch.cat([x, torch.stack(of_heads, 1)], 1), module)
    first = h[:, :1] + sum(h[:, tokens + head : tokens + head + 1] for head in range(module.heads)) / module.heads
    return torch.cat([first, h[:, 1:tokens]], 1)


def daff(x: Tensor, module: nn.Module, extras: int) -> Tensor:
    side = math.isqrt(x.shape[1] - extras)
    h = torch.stack([x[:, extras + row * side : extras + (row + 1) * side] for row in range(side)], 1)
    h = h.permute(0, 3, 1, 2)  # [B, D, row, column]
    h = gelu(convolution_norm(convolve(h, module.expand[0]), module.expand[1]))
    h = h + gelu(convolution_norm(convolve(h, module.depthwise[0]), module.depthwise[1]))
    h = convolution_norm(convolve(h, module.contract[0]), module.contract[1])
    gate = linear(gelu(linear(h.mean((2, 3)), module.gate[0])), module.gate[2])
    patches = [h[:, :, n // side, n % side] for n in range(side**2)]
    return torch.stack([x[:, i] * gate for i in range(extras)] + patches, 1)


def block(x: Tensor, module: nn.Module, skip: Tensor | None, extras: int) -> Tensor:
    if skip is not None:
        x = linear(torch.cat([x, skip], 2), module.skip)
    normal = layer_norm(x, module.norm_attention)
    has_heads = hasattr(module.attention, "head_projection")
    x = x + (head_interaction(normal, module.attention) if has_heads else attention(normal, module.attention))
    normal = layer_norm(x, module.norm_feed_forward)
    if hasattr(module.feed_forward, "gate"):
        return x + daff(normal, module.feed_forward, extras)
    return x + linear(gelu(linear(normal, module.feed_forward[0])), module.feed_forward[2])


def embedded(x_t: Tensor, patches: nn.Module, config: TransformerConfig) -> Tensor:
    """[B, N, D], row by row."""
    if isinstance(patches, nn.Conv2d):
        p, weight = config.patch_size, patches.weight.flatten(1)
        corners = [(y, x) for y in range(0, config.image_size, p) for x in range(0, config.image_size, p)]
        return torch.stack(
            [x_t[:, :, y : y + p, x : x + p].flatten(1) @ weight.T + patches.bias for y, x in corners], 1
        )
    before, first, first_norm, _, second, second_norm, after = patches
    h = gelu(convolution_norm(convolve(x_t * before.factor + before.offset, first), first_norm))
    h = convolution_norm(convolve(h, second), second_norm) * after.factor + after.offset
    assert first.bias is None and second.bias is None and first.out_channels == config.width // 2
    return torch.stack([h[:, :, y, x] for y in range(config.grid) for x in range(config.grid)], 1)


def of_class(model: nn.Module, class_labels: Tensor | None, batch: int) -> Tensor:
    rows = [model.config.num_classes] * batch if class_labels is None else class_labels.tolist()
    return torch.stack([model.classes.weight[row] for row in rows])


def to_pixels(patches: Tensor, config: TransformerConfig) -> Tensor:
    p, result = config.patch_size, []
    for n in range(config.grid**2):
        result.append(patches[:, n].unflatten(1, (config.outputs, p, p)))
    rows = [torch.cat(result[row * config.grid : (row + 1) * config.grid], 3) for row in range(config.grid)]
    return torch.cat(rows, 2)


def written_out(model: nn.Module, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """U-ViT and DTU-Net."""
    config = model.config
    time = torch.cat(waves(t, config.width), 1)
    if not isinstance(model.time, nn.Identity):
        time = linear(silu(linear(time, model.time[0])), model.time[2])
    extras = [time] if config.num_classes is None else [time, of_class(model, class_labels, len(x_t))]
    h = torch.cat([torch.stack(extras, 1), embedded(x_t, model.patches, config)], 1) + model.position
    assert len(model.down) == len(model.up) == config.depth // 2
    skips = [h := block(h, module, None, len(extras)) for module in model.down]
    h = block(h, model.middle, None, len(extras))
    for module, skip in zip(model.up, reversed(skips), strict=True):
        h = block(h, module, skip, len(extras))
    h = to_pixels(linear(layer_norm(h[:, len(extras) :], model.norm), model.pixels), config)
    for layer in model.refine if isinstance(model.refine, nn.Sequential) else [model.refine]:
        if isinstance(layer, nn.Conv2d):
            h = convolve(h, layer)
        else:
            h = gelu(h) if isinstance(layer, nn.GELU) else convolution_norm(h, layer)
    return h


def dit_written_out(model: nn.Module, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
    config, places = model.config, torch.arange(model.config.grid**2)
    column, row = places % config.grid, places // config.grid
    position = torch.cat([wave for place in (column, row) for wave in reversed(waves(place, config.width // 2))], 1)
    h = embedded(x_t, model.patches, config) + position
    condition = linear(silu(linear(torch.cat(waves(t, 256), 1), model.time[0])), model.time[2])
    if config.num_classes is not None:
        condition = condition + of_class(model, class_labels, len(x_t))
    for module in model.blocks:
        modulation = linear(silu(condition), module.modulation[1]).unsqueeze(1).chunk(6, 2)
        shift, scale, gate = modulation[:3]
        h = h + gate * attention(layer_norm(h, module.norm_attention.norm) * (1 + scale) + shift, module.attention)
        shift, scale, gate = modulation[3:]
        normal = layer_norm(h, module.norm_feed_forward.norm) * (1 + scale) + shift
        h = h + gate * linear(gelu_tanh(linear(normal, module.feed_forward[0])), module.feed_forward[2])
    shift, scale = linear(silu(condition), model.modulation[1]).unsqueeze(1).chunk(2, 2)
    return to_pixels(linear(layer_norm(h, model.norm.norm) * (1 + scale) + shift, model.pixels), config)


@pytest.mark.parametrize("config", FAMILIES, ids=NAMES)
def test_networks_are_their_formulas(config):
    model, (x_t, t) = lively(config).double(), inputs(config)
    formula = dit_written_out if config.kind == "dit" else written_out
    for given in [{}, labels(config)] if config.num_classes is not None else [{}]:
        with torch.inference_mode():
            found, expected = model(x_t.double(), t, **given), formula(model, x_t.double(), t, **given)
        assert expected.std() > 0.05
        # The network has the angles of t in float32.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_blocks_are_those_of_torch():
    """With biases of zero torch's own encoder layer, norm first, is U-ViT's block."""
    block_of_ours = lively(UViTConfig(**TINY)).double().middle
    theirs = nn.TransformerEncoderLayer(24, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True).double().eval()
    pairs = (
        (theirs.norm1, block_of_ours.norm_attention), (theirs.norm2, block_of_ours.norm_feed_forward),
        (theirs.linear1, block_of_ours.feed_forward[0]), (theirs.linear2, block_of_ours.feed_forward[2]),
        (theirs.self_attn.out_proj, block_of_ours.attention.projection),
    )  # fmt: skip
    for to, source in pairs:
        to.load_state_dict(source.state_dict())
    theirs.self_attn.in_proj_weight.data.copy_(block_of_ours.attention.qkv.weight)
    theirs.self_attn.in_proj_bias.data.zero_()
    x = image(2, 7, 24).double()
    torch.testing.assert_close(block_of_ours(x), theirs(x), rtol=1e-9, atol=1e-9)


# What every family does.


@pytest.mark.parametrize("config", FAMILIES, ids=NAMES)
@pytest.mark.parametrize("channels", (1, 3, 4))
def test_a_learned_variance_doubles_the_channels(config, channels):
    for learn_variance in (False, True):
        changed = dataclasses.replace(config, image_channels=channels, learn_variance=learn_variance)
        x_t, t = inputs(changed)
        with torch.inference_mode():
            found = denoise(lively(changed), x_t, t, learn_variance, **labels(changed))
        assert found.prediction.shape == x_t.shape and found.features is None
        assert found.prediction.isfinite().all() and found.prediction.std() > 0.01
        assert found.variance.shape == x_t.shape if learn_variance else found.variance is None


@pytest.mark.parametrize("config", FAMILIES, ids=NAMES)
def test_the_gradient_reaches_every_parameter(config):
    model, (x_t, t) = lively(config), inputs(config)
    output = model(x_t, t, **labels(config))
    (output * image(*output.shape, seed=2)).sum().backward()
    for name, parameter in model.named_parameters():
        gradient = float(parameter.grad.abs().max())
        # The gate of the last block acts on tokens that nobody reads.
        assert gradient == 0 if ".gate." in name and name.startswith("up.0.") else gradient > 1e-5, name


@pytest.mark.parametrize("config", [c for c in FAMILIES if c.num_classes is not None])
def test_classes(config):
    model, (x_t, t) = lively(config), inputs(config, batch=1)
    with torch.inference_mode():
        outputs = [model(x_t, t, class_labels=torch.tensor([label])) for label in range(config.num_classes + 1)]
        assert torch.equal(model(x_t, t), outputs[-1])
    for i in range(len(outputs) - 1):
        assert (outputs[i] - outputs[i + 1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"class_labels must have shape \[1\], but has shape \[2\]"):
        model(x_t, t, class_labels=torch.tensor([0, 0]))


@pytest.mark.parametrize("config", [c for c in FAMILIES if c.num_classes is None])
def test_labels_without_classes_are_refused(config):
    for model in (build(config), prepare(build(config))):
        with pytest.raises(ValueError, match="takes no class_labels: its num_classes is None"):
            model(*inputs(config), class_labels=torch.tensor([0, 0]))


@pytest.mark.parametrize("config", FAMILIES, ids=NAMES)
def test_prepared_networks_give_the_same_values(config):
    model, (x_t, t), given = lively(config), inputs(config, batch=3), labels(config, batch=3)
    with torch.inference_mode():
        truth = lively(config).double()(x_t.double(), t, **given)
    assert deviation(prepare(model)(x_t, t, **given), truth) < 1e-5
    for dtype in (torch.bfloat16, torch.float16):
        assert deviation(prepare(model, dtype)(x_t, t, **given), truth) < 0.03
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("norm", ("batch", "group"))
def test_norms_and_the_rest_of_the_batch(norm):
    """The published batch norm mixes a training batch and keeps statistics; group norm does the same at all times."""
    config = DTUNetConfig(**TINY, norm=norm, refine=True)
    model, (x_t, t) = lively(config), inputs(config)
    with torch.no_grad():
        alone, among = model(x_t[:1], t[:1]), model(x_t, t)[:1]
        torch.testing.assert_close(alone, among, rtol=1e-4, atol=1e-4)
        model.train()
        alone, among, again = model(x_t[:1], t[:1]), model(x_t, t)[:1], model.eval()(x_t[:1], t[:1])
    largest = float(again.abs().max())
    same = [float((a - b).abs().max()) < 1e-4 * largest for a, b in ((alone, among), (alone, again))]
    assert same == [norm == "group"] * 2
    assert any("running_mean" in name for name in model.state_dict()) == (norm == "batch")


def test_initial_weights():
    torch.manual_seed(0)
    dit = build(DiTConfig(**TINY, num_classes=2))
    x_t, t = inputs(dit.config)
    assert not dit(x_t, t).any()
    tokens, condition = image(1, 5, 24), image(1, 24)
    assert torch.equal(dit.blocks[0](tokens, condition), tokens)
    u_vit, dtu_net = build(UViTConfig(width=64, heads=4)), build(DTUNetConfig(width=64, heads=4))
    assert float(u_vit.position.detach().std()) == pytest.approx(0.02, rel=0.05) and not dtu_net.position.any()
    assert float(dtu_net.middle.attention.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


# Configurations.


@pytest.mark.parametrize("config", (*FAMILIES, UNetConfig(num_classes=3, resample="residual", heads=2)))
def test_a_configuration_survives_json(config):
    description = json.loads(json.dumps(config.to_dict()))
    assert description["kind"] == config.kind
    again = config_from_dict(description)
    assert again == config and type(again) is type(config)
    assert config_of(build(config)) == config


def test_old_configurations_are_of_unets():
    assert config_from_dict({"channels": 8}) == UNetConfig(channels=8)
    assert config_of(nn.Identity()) is None


X, ONE = image(1, 1, 16, 16), torch.tensor([1])
REFUSED = [
    (lambda: config_from_dict({"kind": "vit"}), "kind must be one of unet, u_vit, dtu_net, dit, not 'vit'"),
    (lambda: config_from_dict({"kind": "dit", "refine": True}), "'dit' does not take these parameters: .*refine"),
    (lambda: UViTConfig(image_size=100), "image_size must be a multiple of the patch_size of 16, but is 100"),
    (lambda: UViTConfig(heads=5), "width must be even and a multiple of the 5 heads, but is 384"),
    (lambda: DiTConfig(width=6), "width must be a multiple of 4"),
    (lambda: UViTConfig(depth=0), "depth must be at least 1, but is 0"),
    (lambda: UViTConfig(mlp_ratio=0.0), "mlp_ratio must make at least one channel"),
    (lambda: UViTConfig(num_classes=0), "num_classes must be at least 1, but is 0"),
    (lambda: DTUNetConfig(norm="layer"), "norm must be one of batch, group, not 'layer'"),
    (lambda: DTUNetConfig(image_size=84, patch_size=12), 'power of two.*12 and 384; use "patch"'),
    (lambda: DTUNetConfig(width=36, patch_size=16), 'dividing it.*16 and 36; use "patch"'),
    (lambda: build(UViTConfig(**TINY))(X[:, :, :8], ONE), "images of 16 x 16 pixels, not 8 x 16"),
    (lambda: build(DiTConfig(**TINY))(X.repeat(1, 1, 2, 2), ONE), "images of 16 x 16 pixels, not 32 x 32"),
    (lambda: build(DTUNetConfig(**TINY))(X.expand(1, 3, -1, -1), ONE), r"shape \[B, 1, H, W\], not \[1, 3, 16, 16\]"),
    (lambda: dn.Detector(UViTConfig(**TINY), device="cpu"), "images of 16 x 16 pixels, not 128 x 128"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")


def test_a_kind_replaces_the_model_and_its_size_follows_the_frames():
    config = Config().updated({"model": {"kind": "dtu_net", "width": 32, "heads": 2}, "framing": {"size": 64}})
    assert config.model == DTUNetConfig(width=32, heads=2, image_size=64)
    assert config.updated({"framing": {"size": 96}}).model == dataclasses.replace(config.model, image_size=96)
    assert config.updated({"model": {"kind": "dtu_net", "depth": 8}}).model == dataclasses.replace(
        config.model, depth=8
    )
    assert config.updated({"model": {"kind": "unet"}}).model == UNetConfig()
    of_latents = Config().updated({"model": {"kind": "dit", "image_size": 16}, "framing": {"size": 128}})
    assert of_latents.model.image_size == 16
    assert of_latents.updated({"framing": {"size": 256}, "scoring": {}}).model.image_size == 32
    with pytest.raises(ValueError, match="Unknown key channels in section model; there are .*width"):
        config.updated({"model": {"channels": 8}})
    with pytest.raises(ValueError, match="kind must be one of"):
        config.updated({"model": {"kind": "vit"}})


@pytest.mark.parametrize("config", (DTUNetConfig(**TINY, refine=True), DiTConfig(**TINY, learn_variance=True)))
def test_a_detector_trains_saves_and_loads(config, tmp_path: Path):
    scoring = dn.Scoring(starts=(50,), steps=2)
    detector = dn.Detector(config, framing=dn.Framing(16), scoring=scoring, device="cpu")
    good = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    detector.fit(good, dn.Training(max_steps=3, batch_size=2), folder=tmp_path)
    assert any(not torch.equal(value, before[name]) for name, value in detector.model.state_dict().items())
    loaded = dn.load(tmp_path, device="cpu")
    assert config_of(loaded.model) == config
    for name, value in detector.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert torch.equal(loaded.predict(good).anomaly_map, detector.predict(good).anomaly_map)
