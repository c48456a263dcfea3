"""Structural similarity of images, differentiable: a training loss and a metric."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops._images import work_dtype

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # from the finest scale to the coarsest


def least_size(window: int = 11, scales: int = len(MS_SSIM_WEIGHTS)) -> int:
    """The smallest image side: the coarsest scale needs a whole window, too."""
    return (window - 1) * 2 ** (scales - 1) + 1


def ssim(a: Tensor, b: Tensor, data_range: float | Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity, the mean over channels and over every window that fits: [B, C, H, W] twice -> [B], 1 where a = b.

    SSIM = (2 mu_a mu_b + C_1)(2 sigma_ab + C_2) / ((mu_a^2 + mu_b^2 + C_1)(sigma_a^2 + sigma_b^2 + C_2)) with C_i = (K_i data_range)^2,
    K = (0.01, 0.03) and moments under a Gaussian of deviation `sigma`, cut to window x window pixels.

    data_range: from the lowest to the highest value that a pixel can have, a number or one for each image [B]. The values count as they are,
    so images in [-1, 1] have the usual similarity after adding 1, with data_range 2. Raises `ValueError` for shapes that differ, images smaller than
    the window, an even window, or a data_range or sigma that is not positive. Source: Wang et al. 2004.
    """
    _check(a, b, data_range, window, sigma, scales=1)
    luminance, contrast = _parts(*_working(a, b), _constants(data_range, a), _taps(window, sigma, a))
    return (luminance * contrast).mean((1, 2, 3))


def ms_ssim(a: Tensor, b: Tensor, data_range: float | Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Multi-scale structural similarity over five scales, mean over channels: [B, C, H, W] twice -> [B], 1 where a = b.

    MS-SSIM = SSIM_5^w_5 prod_{j<5} CS_j^w_j, where CS is the mean of SSIM's second factor, every scale is the 2 x 2 mean of the one before, and
    w = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333). Where a scale's mean is not positive, the product is 0, and so is its gradient.

    Arguments and errors as for `ssim`; the least size is 161 pixels for a window of 11, since the coarsest scale needs one, too. Source: Wang,
    Simoncelli and Bovik 2003.
    """
    scales = len(MS_SSIM_WEIGHTS)
    _check(a, b, data_range, window, sigma, scales)
    constants, taps = _constants(data_range, a), _taps(window, sigma, a)
    a, b = _working(a, b)
    product = a.new_ones(a.shape[:2])
    for scale, weight in enumerate(MS_SSIM_WEIGHTS, start=1):
        luminance, contrast = _parts(a, b, constants, taps)
        mean = (contrast if scale < scales else luminance * contrast).mean((2, 3))  # [B, C]
        positive = mean > 0
        # The power's slope at 0 is infinite; what is left out must not reach it.
        product = product * torch.where(positive, torch.where(positive, mean, 1.0).pow(weight), 0.0)
        if scale < scales:
            a, b = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (a, b))
    return product.mean(1)


def _check(a: Tensor, b: Tensor, data_range: float | Tensor, window: int, sigma: float, scales: int) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(
            f"The similarity needs two tensors of one shape [B, C, H, W], not {list(a.shape)} and {list(b.shape)}."
        )
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, so that it has a middle, not {window}.")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}.")
    if isinstance(data_range, Tensor):
        if data_range.shape != (a.shape[0],):
            raise ValueError(
                f"data_range must be a number or a tensor of shape [{a.shape[0]}], not {list(data_range.shape)}."
            )
    elif not data_range > 0:
        raise ValueError(f"data_range must be positive, not {data_range}.")
    least = least_size(window, scales)
    if min(a.shape[2:]) < least:
        raise ValueError(
            f"The similarity over {scales} scale(s) with a window of {window} needs images of at least {least} x {least} pixels, not "
            f"{a.shape[2]} x {a.shape[3]}; take larger images{' or ssim' if scales > 1 else ''}."
        )


def _working(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = work_dtype(torch.promote_types(a.dtype, b.dtype))
    return a.to(dtype), b.to(dtype)


def _constants(data_range: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.as_tensor(data_range, dtype=work_dtype(like.dtype), device=like.device).view(-1, 1, 1, 1)
    return (0.01 * size).square(), (0.03 * size).square()


def _taps(window: int, sigma: float, like: Tensor) -> Tensor:
    offsets = torch.arange(window, dtype=torch.float64) - window // 2
    taps = torch.exp(-0.5 * (offsets / sigma).square())
    return (taps / taps.sum()).to(like.device, work_dtype(like.dtype))


def _parts(a: Tensor, b: Tensor, constants: tuple[Tensor, Tensor], taps: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's two factors, (2 mu_a mu_b + C_1) / ... and (2 sigma_ab + C_2) / ..., each [B, C, H - window + 1, W - window + 1]."""
    c_1, c_2 = constants
    # Covariances do not see a constant, and around zero their differences cancel less.
    middle = b.detach().mean((2, 3), keepdim=True)
    a, b = a - middle, b - middle
    batch, channels, height, width = a.shape
    # As channels of one image: torch's gradient of a convolution is far slower for a batch of single channels.
    maps = torch.stack([a, b, a * a, b * b, a * b]).view(1, -1, height, width)
    rows = F.conv2d(maps, taps.expand(maps.shape[1], 1, 1, -1), groups=maps.shape[1])
    blurred = F.conv2d(rows, taps.view(-1, 1).expand(maps.shape[1], 1, -1, 1), groups=maps.shape[1])
    mean_a, mean_b, aa, bb, ab = blurred.view(5, batch, channels, *blurred.shape[2:]).unbind(0)
    contrast = (2 * (ab - mean_a * mean_b) + c_2) / (aa - mean_a.square() + bb - mean_b.square() + c_2)
    mean_a, mean_b = mean_a + middle, mean_b + middle
    luminance = (2 * mean_a * mean_b + c_1) / (mean_a.square() + mean_b.square() + c_1)
    return luminance, contrast
