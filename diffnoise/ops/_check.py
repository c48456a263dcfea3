"""Checks that the ops share; each raises `ValueError` with one full sentence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._philox import CHANNEL_BITS


def per_sample(name: str, tensor: Tensor, batch: int, like: Tensor) -> None:
    if tensor.dtype != torch.int64 or tensor.shape != (batch,):
        raise ValueError(
            f"{name} must be an int64 tensor of shape [{batch}], one value per sample, "
            f"but has dtype {tensor.dtype} and shape {list(tensor.shape)}."
        )
    same_device(name, tensor, like)


def same_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, the other tensors are on {like.device}; move it there.")


def floating(name: str, dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise ValueError(f"{name} must be a floating-point dtype such as torch.float32, not {dtype}.")


def grid(seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> None:
    if seeds.ndim != 1:
        raise ValueError(f"seeds must be an int64 tensor of shape [B], but has shape {list(seeds.shape)}.")
    batch = seeds.shape[0]
    per_sample("seeds", seeds, batch, seeds)
    per_sample("t", t, batch, seeds)
    if origins.dtype != torch.int64 or origins.shape != (batch, 2):
        raise ValueError(
            f"origins must be an int64 tensor of shape [{batch}, 2] with the (y, x) of each sample's first pixel, "
            f"but has dtype {origins.dtype} and shape {list(origins.shape)}."
        )
    same_device("origins", origins, seeds)
    if min(channels, height, width) < 0 or channels >= 1 << CHANNEL_BITS:
        raise ValueError(
            f"channels, height and width must not be negative (and channels below 2**{CHANNEL_BITS}), but are {channels}, {height}, {width}."
        )
    floating("dtype", dtype)


def fractal(octaves: int, persistence: float, wavelength: float) -> None:
    if octaves < 1:
        raise ValueError(f"octaves must be at least 1, but is {octaves}.")
    if not persistence > 0:
        raise ValueError(f"persistence must be positive, but is {persistence}.")
    if not 0 < wavelength < float("inf"):
        raise ValueError(f"wavelength must be a positive number of pixels, but is {wavelength}.")


def image(name: str, tensor: Tensor, like: Tensor | None = None) -> None:
    if tensor.ndim != 4:
        raise ValueError(f"{name} must have shape [B, C, H, W], but has shape {list(tensor.shape)}.")
    floating(f"the dtype of {name}", tensor.dtype)
    if like is not None:
        if tensor.shape != like.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, but {list(like.shape)} is needed.")
        if tensor.dtype != like.dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype}, but {like.dtype} is needed.")
        same_device(name, tensor, like)


def output(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> None:
    if out.shape != shape:
        raise ValueError(f"out has shape {list(out.shape)}, but {list(shape)} is needed.")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}, but {dtype} is needed.")
    same_device("out", out, like)


def table(tensor: Tensor, columns: int, like: Tensor) -> None:
    if tensor.ndim != 2 or tensor.shape[1] != columns or tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"table must be a float32 or float64 tensor of shape [T, {columns}] made by a Schedule, "
            f"but has dtype {tensor.dtype} and shape {list(tensor.shape)}."
        )
    same_device("table", tensor, like)


def readable(tensor: Tensor) -> bool:
    """Whether values can be looked at without a wait for a GPU and without stopping a trace."""
    return type(tensor) is Tensor and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def rows(tensor: Tensor, t: Tensor) -> None:
    """Whether the table has a row at every t, as far as that can be seen here."""
    if not (readable(tensor) and readable(t)):
        return
    tensor = tensor.detach()
    for index in sorted(set(t.tolist())):
        if not 0 <= index < len(tensor):
            raise ValueError(f"t holds {index}, but the table has only the indices 0 to {len(tensor) - 1}.")
        if math.isnan(tensor[index, 0].item()):
            raise ValueError(
                f"t holds {index}, for which the table has no row; give only the time steps that it was made for."
            )
