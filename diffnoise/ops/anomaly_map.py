"""An anomaly map: the errors of images, combined over channels and noise scales, and filtered."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._images import work_dtype
from ._op import op


def _check_arguments(
    images: Tensor, taps: Tensor, x_0: Tensor | None = None, scales: Tensor | None = None, absolute: bool = False
) -> None:
    _check.image("images", images)
    doubles = (torch.float32, torch.float64)
    if taps.ndim != 1 or len(taps) % 2 == 0 or taps.dtype not in doubles:
        raise ValueError(
            f"taps must be a float32 or float64 tensor of an odd number of taps, but has dtype {taps.dtype} and shape {list(taps.shape)}."
        )
    _check.same_device("taps", taps, images)
    batch, channels, height, width = images.shape
    count = 1
    if scales is not None:
        if scales.ndim != 2 or scales.shape[1] != 2 or scales.dtype not in doubles or len(scales) == 0:
            raise ValueError(
                f"scales must be a float32 or float64 tensor of shape [S, 2] with the mean and deviation of every scale, "
                f"but has dtype {scales.dtype} and shape {list(scales.shape)}."
            )
        _check.same_device("scales", scales, images)
        if _check.readable(scales):
            deviations = scales.detach()[:, 1].tolist()
            if not all(deviation > 0 for deviation in deviations):
                raise ValueError(f"The deviations in scales must be positive, but are {deviations}.")
        count = len(scales)
    if channels % count or channels == 0:
        raise ValueError(f"images must have as many channels for each of {count} scales, but has {channels} in all.")
    if x_0 is not None:
        _check.image("x_0", x_0, images[:, : channels // count])


def _fake(
    images: Tensor, taps: Tensor, x_0: Tensor | None = None, scales: Tensor | None = None, absolute: bool = False
) -> Tensor:
    return images.new_empty((images.shape[0], 1, *images.shape[2:]), dtype=work_dtype(images.dtype))


@op(_check_arguments, _fake)
def anomaly_map(
    images: Tensor, taps: Tensor, x_0: Tensor | None = None, scales: Tensor | None = None, absolute: bool = False
) -> Tensor:
    """Errors of images, mean over channels and over noise scales, filtered along both axes, [B, 1, H, W].

    map = filter(mean over scales s of (mean over channels of e_s - mean_s) / deviation_s) with e_s = (x_0 - image_s)^2, or
    |x_0 - image_s| if `absolute`, or image_s itself without x_0. Borders are reflected without repeating their pixels.

    images: floating, [B, S C, H, W], the scales one after the other as `torch.cat` has them; the map of half types is float32. taps:
    float32 or float64, odd in number. x_0: [B, C, H, W]. scales: float32 or float64 [S, 2], mean and positive deviation (checked on the CPU); by default
    one scale as it is. Raises `ValueError` for other shapes or dtypes.
    """
    work = work_dtype(images.dtype)
    scales = images.new_tensor([[0, 1]], dtype=work) if scales is None else scales.to(work)
    errors = images.to(work).unflatten(1, (len(scales), -1))  # [B, S, C, H, W]
    if x_0 is not None:
        errors = x_0.to(work).unsqueeze(1) - errors
        errors = errors.abs() if absolute else errors.square()
    mean, deviation = scales.view(-1, 2, 1, 1, 1).unbind(1)
    maps = ((errors.mean(2, keepdim=True) - mean) / deviation).mean(1)
    for axis in (2, 3) if maps.numel() else ():
        length = maps.shape[axis]
        padded = _reflect(maps, len(taps) // 2, axis)
        # A sum of shifted copies: the same bits for any batch and thread count, which a convolution library does not promise.
        maps = sum(tap * padded.narrow(axis, k, length) for k, tap in enumerate(taps.to(work).unbind()))
    return maps.contiguous()


def _reflect(maps: Tensor, radius: int, axis: int) -> Tensor:
    """Pad by reflection without repeating the border pixel, as often as the radius needs."""
    length = maps.shape[axis]
    if length == 1:
        index = torch.zeros(1 + 2 * radius, dtype=torch.int64, device=maps.device)
    else:
        period = 2 * (length - 1)
        index = torch.arange(-radius, length + radius, device=maps.device) % period
        index = torch.where(index < length, index, period - index)
    return maps.index_select(axis, index)
