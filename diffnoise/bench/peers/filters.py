"""Squared errors of one channel, filtered by the libraries that people use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import ANYWHERE, Arguments, Peer

SIZE, SIGMA = 11, 4.0


def _errors(arguments: Arguments) -> Callable[[], Tensor]:
    """[B, 1, H, W]; in place, because nothing in torch is faster. The mean over one channel is left out."""
    images, x_0 = arguments["images"], arguments["x_0"]
    return lambda: torch.sub(x_0, images).square_()


def _average_pool(arguments: Arguments) -> Callable[[], Tensor]:
    errors, border = _errors(arguments), (SIZE // 2,) * 4
    return lambda: F.avg_pool2d(F.pad(errors(), border, mode="reflect"), SIZE, stride=1)


def _band(taps: Tensor, length: int) -> Tensor:
    """The filter along one axis as a matrix, float32 [length, length]."""
    band = np.zeros((length, length))
    for i in range(length):
        line = np.pad(np.arange(length), len(taps) // 2, mode="reflect")[i : i + len(taps)]
        np.add.at(band[i], line, taps.cpu().numpy())
    return torch.from_numpy(band).float()


def _products(arguments: Arguments) -> Callable[[], Tensor]:
    errors, device = _errors(arguments), arguments["images"].device
    left, right = (_band(arguments["taps"], length).to(device) for length in arguments["images"].shape[2:])
    right = right.T.contiguous()
    return lambda: left @ errors() @ right


def _scipy(name: str, **settings: Any) -> Callable[[Arguments], Callable[[], np.ndarray]]:
    def prepare(arguments: Arguments) -> Callable[[], np.ndarray]:
        from scipy import ndimage

        errors, smooth = _errors(arguments), getattr(ndimage, name)
        return lambda: smooth(errors().numpy(), mode="mirror", **settings)

    return prepare


def _cv2() -> Any:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    return cv2


def _blur_each(arguments: Arguments) -> Callable[[], np.ndarray]:
    cv2, size = _cv2(), (SIZE, SIZE)
    return _each(arguments, lambda map, out: cv2.blur(map, size, out, borderType=cv2.BORDER_REFLECT_101))


def _blur_together(arguments: Arguments) -> Callable[[], Tensor]:
    """All maps as the channels of one image; bringing them there and back is part of the work."""
    cv2, errors = _cv2(), _errors(arguments)

    def call() -> Tensor:
        together = errors().squeeze(1).permute(1, 2, 0).contiguous().numpy()
        blurred = cv2.blur(together, (SIZE, SIZE), borderType=cv2.BORDER_REFLECT_101)
        return torch.from_numpy(blurred).view(together.shape).permute(2, 0, 1).unsqueeze(1).contiguous()

    return call


def _gaussian_each(arguments: Arguments) -> Callable[[], np.ndarray]:
    cv2, size = _cv2(), (len(arguments["taps"]),) * 2
    return _each(arguments, lambda map, out: cv2.GaussianBlur(map, size, SIGMA, out, borderType=cv2.BORDER_REFLECT_101))


def _each(arguments: Arguments, smooth: Callable[[np.ndarray, np.ndarray], Any]) -> Callable[[], np.ndarray]:
    errors = _errors(arguments)

    def call() -> np.ndarray:
        maps = errors().numpy()
        out = np.empty_like(maps)
        for i in range(len(maps)):
            smooth(maps[i, 0], out[i, 0])
        return out

    return call


PRODUCTS = Peer("torch, two banded matrix products", _products, devices=ANYWHERE)
MEAN = (
    Peer("torch avg_pool2d", _average_pool, devices=ANYWHERE),
    PRODUCTS,
    Peer("scipy uniform_filter", _scipy("uniform_filter", size=(1, 1, SIZE, SIZE)), ("scipy",)),
    Peer("cv2.blur, map by map", _blur_each, ("cv2",), lowers=False),
    Peer("cv2.blur, maps as channels", _blur_together, ("cv2",), lowers=False),
)
GAUSSIAN = (
    PRODUCTS,
    Peer("scipy gaussian_filter", _scipy("gaussian_filter", sigma=(0, 0, SIGMA, SIGMA), truncate=4), ("scipy",)),
    Peer("cv2.GaussianBlur, map by map", _gaussian_each, ("cv2",), lowers=False),
)
