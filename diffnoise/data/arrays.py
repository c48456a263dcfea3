from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import DataError


def to_images(images: Tensor | np.ndarray, channels: int) -> Tensor:
    """float32 [B, C, H, W] in [-1, 1] from an image tensor or array of any accepted form."""
    if isinstance(images, np.ndarray):
        array = images[..., None] if images.ndim == 2 else images
        if array.ndim not in (3, 4):
            raise DataError(f"An array must have shape [H, W], [H, W, C] or [B, H, W, C], not {list(images.shape)}.")
        images = torch.from_numpy(np.moveaxis(array, -1, -3).copy())
    images = images.unsqueeze(0) if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] != channels:
        raise DataError(
            f"Images must have shape [B, {channels}, H, W] or [{channels}, H, W], not {list(images.shape)}."
        )
    if images.dtype in (torch.uint8, torch.uint16):
        return (
            images.float() / torch.iinfo(images.dtype).max * 2 - 1
        )  # the same operations as for files and floats: the same bits
    if not images.dtype.is_floating_point:
        raise DataError(f"Images must be uint8, uint16 or floating, not {images.dtype}.")
    if images.numel() and not bool(torch.isfinite(images).all()):
        raise DataError("An image holds NaN or infinity; mend or leave it out.")
    if images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise DataError(
            "Floating images must lie in [0, 1]; divide by their largest possible value first. What read_image returns lies in [-1, 1]: "
            "give the file's path instead, or (image + 1) / 2."
        )
    return images.float() * 2 - 1
