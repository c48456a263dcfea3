"""UNets made ready for inference: one dtype, channels last, fused norms, time embeddings and weights laid out once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .blocks import ResidualBlock, double, no_classes
from .denoising import Denoiser, Output
from .guidance import ClassGuided
from .unet import UNet


def prepare(model: Denoiser, dtype: torch.dtype = torch.float32, timesteps: int = 1000) -> Denoiser:
    """A copy of the network for inference alone: `prepared(x_t, t)`, float32 [B, C, H, W] and int64 [B] -> float32.

    It takes class_labels and returns an `Output` where the network does.

    `UNet` and diffusers' `UNet2DModel` run with fused norms, with weights packed for the machine, and with the time embeddings of all
    t below `timesteps` computed once. Every other module (also one of these with parts of another kind, or with hooks) runs as it is,
    in `dtype`. In bfloat16 or float16 the
    output differs from float32's by at most 3 % of its largest value. Stays on
    the model's device. Raises `ValueError` for a dtype that is none of these three, or for what cannot be called.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, but is {dtype}.")
    if not callable(model):
        raise ValueError(f"A model must be callable as model(x_t, t), but this is a {type(model).__name__}.")
    if isinstance(model, ClassGuided):
        return ClassGuided(prepare(model.model, dtype, timesteps), model.label, model.weight)
    if type(model) is UNet and _is_plain(model, _OWN):
        return _from_unet(model, dtype, timesteps)
    name, module = type(model).__name__, type(model).__module__
    if name == "UNet2DModel" and module.startswith("diffusers.") and _is_plain(model, _LEAVES):  # type: ignore[arg-type]
        from .unet_2d import plan

        found = plan(model, dtype, timesteps)  # type: ignore[arg-type]
        if found is not None:
            return found
    return _Cast(model, dtype)


_LEAVES = {"Conv2d", "Linear", "GroupNorm", "SiLU", "Dropout", "Identity", "Timesteps", "ModuleList"}
_OWN = _LEAVES | {"UNet", "ResidualBlock", "Attention", "Downsample", "Upsample", "Sequential", "ClassEmbedding"}


def _is_plain(model: nn.Module, kinds: set[str]) -> bool:
    """Whether nothing is hooked in, all leaves (of ours, all modules) are of these kinds, and convolutions are the usual ones."""
    for module in model.modules():
        leaf = next(module.children(), None) is None
        ours = type(module).__module__.startswith(("torch.nn.modules.", "diffusers.", __name__.rpartition(".")[0]))
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        if (leaf or kinds is _OWN) and not (ours and type(module).__name__ in kinds):
            return False
        if isinstance(module, nn.Conv2d):
            if (module.padding_mode, module.groups, module.dilation) != ("zeros", 1, (1, 1)):
                return False
    return True


class _Cast:
    def __init__(self, model: Denoiser, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._model = model
        if isinstance(model, nn.Module) and (model.training or any(w.dtype != dtype for w in model.parameters())):
            self._model = copy.deepcopy(model).eval().to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor | Output:
        labels = {} if class_labels is None else {"class_labels": class_labels}
        output = self._model(x_t.to(self._dtype).contiguous(memory_format=torch.channels_last), t, **labels)
        sample = getattr(output, "sample", output).float().contiguous()
        features = getattr(output, "features", None)
        return sample if features is None else Output(sample, features.float().contiguous())


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN runs convolutions of this dtype on this machine with weights in an order of its own."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_convolution_weight", "_convolution_pointwise")):
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if weight.dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return True


class Convolution:
    """conv(x), or `total` + conv(x), of which no tensor is kept."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: Any = 1, padding: Any = 0
    ) -> None:
        self._stride, self._padding = ([n, n] if isinstance(n, int) else list(n) for n in (stride, padding))
        self._weight = weight.detach().to(dtype, copy=True).contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self._packed = _packs(self._weight)
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                self._weight, self._padding, self._stride, [1, 1], 1
            )

    @staticmethod
    def of(module: nn.Conv2d, dtype: torch.dtype) -> Convolution:
        return Convolution(module.weight, module.bias, dtype, module.stride, module.padding)

    def __call__(self, x: Tensor, total: Tensor | None = None) -> Tensor:
        if not self._packed:
            h = F.conv2d(x, self._weight, self._bias, self._stride, self._padding)
            return h if total is None else h.add_(total)
        where = (self._weight, self._bias, self._padding, self._stride, [1, 1], 1)
        if total is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *where, "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(x, total, *where, "add", 1.0, None, [], None)


class Norm:
    """GroupNorm, then SiLU unless `silu` is False."""

    def __init__(self, module: nn.GroupNorm, silu: bool = True) -> None:
        self._groups, self._eps, self._silu = module.num_groups, module.eps, silu
        self._weight, self._bias = (p.detach().float().clone() for p in (module.weight, module.bias))

    def __call__(
        self, x: Tensor, skip: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return ops.group_norm_silu(
            x, self._groups, self._weight, self._bias, scale, shift, offset, skip, self._eps, self._silu
        )


class Residual:
    """A residual block whose input may come in two parts, and whose time embedding is a slice of a table's row.

    scale_shift: whether the embedding scales and shifts the second norm, or is added before it. resize: as in `ResidualBlock`.
    """

    def __init__(
        self, norm_in: nn.GroupNorm, conv_in: nn.Conv2d, norm_out: nn.GroupNorm, conv_out: nn.Conv2d, shortcut: nn.Conv2d | None,
        place: slice, scale_shift: bool, dtype: torch.dtype, skip_channels: int = 0, resize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self._resize = resize
        self._norm_in, self._norm_out = Norm(norm_in), Norm(norm_out)
        self._conv_in, self._conv_out = Convolution.of(conv_in, dtype), Convolution.of(conv_out, dtype)
        self._place, self._scale_shift = place, scale_shift
        self._shortcuts: list[Convolution] = []
        if shortcut is not None:
            own = shortcut.in_channels - skip_channels
            self._shortcuts.append(Convolution(shortcut.weight[:, :own], shortcut.bias, dtype))
            if skip_channels:
                self._shortcuts.append(Convolution(shortcut.weight[:, own:], None, dtype))

    def __call__(self, x: Tensor, row: Tensor, skip: Tensor | None = None) -> Tensor:
        h = self._norm_in(x, skip)
        if self._resize is not None:
            x, h = self._resize(x), self._resize(h)
        h = self._conv_in(h)
        time = row[:, self._place]
        if self._scale_shift:
            scale, shift = time.chunk(2, 1)
            h = self._norm_out(h, scale=scale, shift=shift)
        else:
            h = self._norm_out(h, offset=time)
        if not self._shortcuts:
            return self._conv_out(h, x if skip is None else torch.cat([x, skip], 1))
        total = self._shortcuts[0](x)
        if skip is not None:
            total = self._shortcuts[1](skip, total)
        return self._conv_out(h, total)


class Attention:
    """Self-attention over the pixels: qkv [3 C, C], projection [C, C]."""

    def __init__(
        self, norm: nn.GroupNorm | None, qkv: Tensor, qkv_bias: Tensor | None, projection: Tensor, projection_bias: Tensor | None,
        heads: int, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self._norm, self._heads = None if norm is None else Norm(norm, silu=False), heads
        self._qkv, self._qkv_bias, self._projection, self._projection_bias = (
            None if p is None else p.detach().to(dtype, copy=True) for p in (qkv, qkv_bias, projection, projection_bias)
        )

    def __call__(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        normal = x if self._norm is None else self._norm(x)
        tokens = normal.permute(0, 2, 3, 1).reshape(b, height * width, c)
        qkv = F.linear(tokens, self._qkv, self._qkv_bias).view(b, -1, 3, self._heads, c // self._heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, H W, head_channels]
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, height * width, c)
        h = F.linear(h, self._projection, self._projection_bias)
        return h.view(b, height, width, c).permute(0, 3, 1, 2).add_(x)


Stage = tuple[Residual, Attention | None]
Resample = Callable[[Tensor, Tensor], Tensor]  # what changes the size, from the activations and the time table's row


class FeatureHead:
    """GroupNorm, SiLU and a 1 x 1 convolution of the activations behind stage number `place` of the way up."""

    def __init__(self, place: int, norm: nn.GroupNorm, conv: nn.Conv2d) -> None:
        self.place, self._norm, self._conv = place, Norm(norm), Convolution.of(conv, torch.float32)

    def __call__(self, h: Tensor) -> Tensor:
        return self._conv(self._norm(h.float())).contiguous()


class Plan:
    """A UNet as the list of its parts."""

    def __init__(
        self, conv_in: nn.Conv2d, down: Sequence[tuple[Sequence[Stage], Resample | None]], middle: Sequence[Stage],
        up: Sequence[tuple[Sequence[Stage], Resample | None]], norm_out: nn.GroupNorm, conv_out: nn.Conv2d,
        times: TimeTable, dtype: torch.dtype, patch_size: int = 1, check: Callable[[Tensor], None] | None = None,
        features: FeatureHead | None = None,
    ) -> None:  # fmt: skip
        self._down, self._middle, self._up = down, middle, up
        # Images come and go in float32: rounding there would cost as much as all of the rest.
        self._conv_in, self._conv_out = Convolution.of(conv_in, torch.float32), Convolution.of(conv_out, torch.float32)
        self._norm_out, self._times, self._features = Norm(norm_out), times.closed(), features
        self._dtype, self._patch_size, self._check = dtype, patch_size, check

    @torch.inference_mode()
    def __call__(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor | Output:
        if self._check is not None:
            self._check(x_t)
        row = self._times(t, class_labels)
        x = F.pixel_unshuffle(x_t, self._patch_size) if self._patch_size > 1 else x_t
        h = self._conv_in(x.float().contiguous(memory_format=torch.channels_last)).to(self._dtype)
        skips = [h]
        for stages, downsample in self._down:
            for residual, attention in stages:
                h = residual(h, row)
                h = h if attention is None else attention(h)
                skips.append(h)
            if downsample is not None:
                h = downsample(h, row)
                skips.append(h)
        for residual, attention in self._middle:
            h = residual(h, row)
            h = h if attention is None else attention(h)
        features, place = None, 0
        for stages, upsample in self._up:
            for residual, attention in stages:
                h = residual(h, row, skips.pop())
                h = h if attention is None else attention(h)
                if self._features is not None and place == self._features.place:
                    features = self._features(h)
                place += 1
            if upsample is not None:
                h = upsample(h, row)
        h = self._conv_out(self._norm_out(h.float())).contiguous()
        sample = F.pixel_shuffle(h, self._patch_size) if self._patch_size > 1 else h
        return sample if features is None else Output(sample, features)


class Downsample:
    """pads: one row and column behind the image first, as diffusers does where its convolution pads nothing."""

    def __init__(self, module: nn.Conv2d, dtype: torch.dtype, pads: bool = False) -> None:
        self._conv, self._pads = Convolution.of(module, dtype), pads

    def __call__(self, x: Tensor, row: Tensor) -> Tensor:
        return self._conv(F.pad(x, (0, 1, 0, 1)) if self._pads else x)


class Upsample:
    def __init__(self, module: nn.Conv2d, dtype: torch.dtype) -> None:
        self._conv = Convolution.of(module, dtype)

    def __call__(self, x: Tensor, row: Tensor) -> Tensor:
        return self._conv(double(x))


class TimeTable:
    """Every block's projection of the time embedding, side by side.

    embedding: [T, channels], before its last SiLU. classes: [classes + 1, channels], added to it. Without classes the projections of all
    t are computed once; with them there would be too many, so they are computed in every call.
    """

    def __init__(self, embedding: Tensor, classes: Tensor | None = None) -> None:
        self._embedding, self._classes = embedding, classes
        self._projections: list[nn.Linear] = []
        self._width = 0

    def add(self, projection: nn.Linear) -> slice:
        """The columns of this projection."""
        self._projections.append(projection)
        first, self._width = self._width, self._width + projection.out_features
        return slice(first, self._width)

    def closed(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """(t, class_labels), int64 [B] -> float32 [B, columns]."""
        embedding, classes = self._embedding, self._classes
        if classes is None:
            active = F.silu(embedding)
            table = torch.cat([projection(active).float() for projection in self._projections], 1)

            def row(t: Tensor, class_labels: Tensor | None) -> Tensor:
                no_classes(class_labels)
                return table.index_select(0, t)

            return row
        weight = torch.cat([projection.weight for projection in self._projections]).float()
        bias = torch.cat([projection.bias for projection in self._projections]).float()
        embedding, classes = embedding.float(), classes.float().clone()

        def row_of_class(t: Tensor, class_labels: Tensor | None) -> Tensor:
            of_class = classes[-1] if class_labels is None else classes.index_select(0, class_labels)
            return F.linear(F.silu(embedding.index_select(0, t) + of_class), weight, bias)

        return row_of_class


@torch.no_grad()
def _from_unet(model: UNet, dtype: torch.dtype, timesteps: int) -> Plan:
    config, t = model.config, torch.arange(timesteps, device=model.conv_in.weight.device)
    times = TimeTable(model.time[:-1](model.embedded(t)), None if config.num_classes is None else model.classes.weight)

    def residual(block: ResidualBlock, skip_channels: int = 0) -> Residual:
        shortcut = None if isinstance(block.skip, nn.Identity) else block.skip
        return Residual(
            block.norm_in, block.conv_in, block.norm_out, block.conv_out, shortcut,
            times.add(block.time), block.scale_shift, dtype, skip_channels, block.resize,
        )  # fmt: skip

    def stage(modules: Any, skip_channels: int = 0) -> Stage:
        block, *rest = modules
        if not rest:
            return residual(block, skip_channels), None
        (a,) = rest
        qkv, projection = a.qkv.weight.flatten(1), a.projection.weight.flatten(1)
        attention = Attention(a.norm, qkv, a.qkv.bias, projection, a.projection.bias, a.heads, dtype)
        return residual(block, skip_channels), attention

    def resample(module: Any, kind: Callable[[Any, torch.dtype], Resample]) -> Resample:
        return residual(module) if isinstance(module, ResidualBlock) else kind(module, dtype)

    levels, per_level = len(config.channel_mult), config.res_blocks
    down, skip_channels = [], [model.conv_in.out_channels]
    for level in range(levels):
        modules = model.down[level * per_level : (level + 1) * per_level]
        downsample = resample(model.downsample[level], Downsample) if level < levels - 1 else None
        down.append(([stage(m) for m in modules], downsample))
        skip_channels += [m[0].conv_out.out_channels for m in modules]
        skip_channels += skip_channels[-1:] if level < levels - 1 else []
    middle = [stage(m) for m in model.middle]
    up = []
    for level in range(levels):
        modules = model.up[level * (per_level + 1) : (level + 1) * (per_level + 1)]
        stages = [stage(m, skip_channels.pop()) for m in modules]
        up.append((stages, resample(model.upsample[level], Upsample) if level < levels - 1 else None))
    features = None
    if config.feature_channels is not None:
        features = FeatureHead(config.feature_block, model.feature_norm, model.feature_conv)
    return Plan(
        model.conv_in, down, middle, up, model.norm_out, model.conv_out,
        times, dtype, config.patch_size, config.check_input, features,
    )  # fmt: skip
