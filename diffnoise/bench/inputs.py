"""The arguments of the ops, in their order, at random but always the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..schedule import Schedule
from .peers import Arguments

Shape = tuple[int, ...]
Inputs = Callable[[Shape, torch.device], Arguments]
T = 500  # diffusers takes one t for the whole batch
GUIDANCE = 2.0
VALUES_PER_EDGE = 74  # 1.35 % of the pixels are anomalous


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(**parameters: Any) -> Inputs:
    """Of a noise op on a grid: a seed and a t of its own for every sample. `full_height` and `full_width` follow the shape."""

    def make(shape: Shape, device: torch.device) -> Arguments:
        batch, channels, height, width = shape
        full = {"full_height": height, "full_width": width}
        return {
            "seeds": torch.randint(-(2**62), 2**62, (batch,), generator=_generator()).to(device),
            "t": (torch.arange(batch) * (1000 // batch) + 7).to(device),
            "origins": torch.zeros(batch, 2, dtype=torch.int64, device=device),
            "channels": channels,
            "height": height,
            "width": width,
            **{name: full.get(name, value) for name, value in parameters.items()},
        }

    return make


def points(dims: int) -> Inputs:
    """Of `simplex_noise_at`: points in general position, 100 wavelengths wide, a seed per sample."""

    def make(shape: Shape, device: torch.device) -> Arguments:
        at = 100 * torch.rand(*shape, dims, generator=_generator(), dtype=torch.float64)
        return {"points": at.to(device), "seeds": torch.arange(shape[0], device=device)}

    return make


def step(
    table: Callable[[Schedule], Tensor],
    given: bool = False,
    own: bool = False,
    learned: bool = False,
    guided: bool = False,
) -> Inputs:
    """Of `reverse_step`: without noise, with noise `given`, or with its `own`; `learned`: with the model's variance."""

    def make(shape: Shape, device: torch.device) -> Arguments:
        generator, batch = _generator(), shape[0]
        x_t, output, variance, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(4))
        return {
            "x_t": x_t,
            "model_output": output,
            "t": torch.full((batch,), T, device=device),
            "table": table(Schedule.linear()).to(device),
            "variance": variance.tanh() if learned else None,
            "noise": noise if given else None,
            "seeds": torch.arange(batch, device=device) if own else None,
            "origins": None,
            "clip": 1.0,
            "target": torch.randn(shape, generator=generator).clamp(-1, 1).to(device) if guided else None,
            "guidance": GUIDANCE if guided else 0.0,
        }

    return make


def residual(taps: Tensor) -> Inputs:
    """Of `anomaly_map`: an image of one channel and its reconstruction."""

    def make(shape: Shape, device: torch.device) -> Arguments:
        images, x_0 = (torch.randn(shape, generator=_generator(seed)).to(device) for seed in (0, 1))
        return {"images": images, "taps": taps.to(device), "x_0": x_0}

    return make


def divergence(channels: int) -> Inputs:
    """Of `kl_map`, for a map of the shape: images of so many channels with a learned variance."""
    learned = step(lambda schedule: schedule.ddpm_table("learned_range"), learned=True)

    def make(shape: Shape, device: torch.device) -> Arguments:
        images = (shape[0], channels, *shape[2:])
        a = learned(images, device)
        x_0 = torch.randn(images, generator=_generator(1)).clamp(-1, 1).to(device)
        return {"x_0": x_0} | {name: a[name] for name in ("x_t", "model_output", "t", "table", "variance", "clip")}

    return make


def normalisation(groups: int) -> Inputs:
    """Of `group_norm_silu`: what a residual block's second norm gets, channels last."""

    def make(shape: Shape, device: torch.device) -> Arguments:
        generator, (batch, channels) = _generator(), shape[:2]
        x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
        weight, bias = torch.randn(2, channels, generator=generator)
        scale, shift = 0.1 * torch.randn(2, batch, channels, generator=generator)
        return {
            "x": x.to(device),
            "groups": groups,
            "weight": weight.to(device),
            "bias": bias.to(device),
            "scale": scale.to(device),
            "shift": shift.to(device),
        }

    return make


def ranks() -> Inputs:
    """Of `interval_counts`, for a result of the shape: squared normal values, and among them the edges, larger ones on average."""

    def make(shape: Shape, device: torch.device) -> Arguments:
        count, generator = shape[0] // 2, _generator()
        chosen = (2 * torch.randn(2 * count, generator=generator)).square().unique()
        edges = chosen[torch.randperm(len(chosen), generator=generator)[:count]].sort().values
        others = torch.randn((VALUES_PER_EDGE - 1) * count, generator=generator).square()
        values = torch.cat([edges, others])[torch.randperm(VALUES_PER_EDGE * count, generator=generator)]
        return {"values": values.to(device), "edges": edges.to(device)}

    return make
