from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Mode = Literal["resize", "crop", "tile"]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the frames of one image came from."""

    size: tuple[int, int]  # (H, W) of the image
    scaled: tuple[int, int]  # (h, w) after scaling, before padding
    origins: Tensor  # int64 [n, 2]: (y, x) of every frame in the scaled image


@dataclass(frozen=True)
class Framing:
    """How an image of any size becomes square network inputs, and how their maps become one map of its size.

    "resize" scales the longer side to `size` and pads right and below by reflection (by repeating the edge where the
    image is too small for that). "crop" scales the shorter side to `scale` (default: `size`) and keeps the centre; the map outside
    it is the smallest value inside, so that pixels that were not looked at never raise a score. "tile" cuts tiles at native
    resolution that overlap by `overlap` pixels (default: a quarter of `size`); the last one is shifted to end at the
    border.

    Raises ValueError for a size below 1, an overlap outside [0, size / 2), an unknown mode, and a scale below `size` or of another mode.
    """

    size: int
    mode: Mode = "resize"
    overlap: int | None = None
    scale: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"The frame size must be at least 1 pixel, not {self.size}.")
        if self.mode not in get_args(Mode):
            raise ValueError(f"The framing mode must be one of {', '.join(get_args(Mode))}, not {self.mode!r}.")
        if self.overlap is not None and not 0 <= 2 * self.overlap < self.size:
            raise ValueError(f"The overlap must lie from 0 to below half of {self.size} pixels, not {self.overlap}.")
        if self.scale is not None and (self.mode != "crop" or self.scale < self.size):
            raise ValueError(
                f'The scale belongs to the mode "crop" and must be at least the size of {self.size}, not {self.scale}.'
            )

    def split(self, image: Tensor) -> tuple[Tensor, Placement]:
        """Cut an image [C, H, W] into frames [n, C, size, size]; raises ValueError for another or an empty shape."""
        if image.ndim != 3 or 0 in image.shape:
            raise ValueError(f"An image must have the shape [C, H, W] with no zero, not {list(image.shape)}.")
        height, width = image.shape[1:]
        size = self.size
        scaled = self._scaled(height, width)
        # strides of dimensions of size 1 may choose the kernel of interpolate: make them canonical
        image = _scale(image.clone(memory_format=torch.contiguous_format), scaled)
        if self.mode == "crop":
            rows, columns = [(scaled[0] - size) // 2], [(scaled[1] - size) // 2]
        else:
            image = _pad(_pad(image, 1, size), 2, size)
            rows, columns = self._starts(image.shape[1]), self._starts(image.shape[2])
        frames = torch.stack([image[:, y : y + size, x : x + size] for y in rows for x in columns])
        origins = torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns))
        return frames, Placement((height, width), scaled, origins)

    def merge(self, maps: Tensor, placement: Placement) -> Tensor:
        """Join maps [n, 1, size, size] of the frames of `split` into one map float32 [1, H, W].

        Overlapping tiles are blended with weights that sum to 1 and fall smoothly to 0 at borders inside the image.
        Raises ValueError if the maps do not fit the placement.
        """
        size, (height, width), origins = self.size, placement.scaled, placement.origins
        if maps.shape != (len(origins), 1, size, size):
            raise ValueError(f"Maps must have the shape {[len(origins), 1, size, size]}, not {list(maps.shape)}.")
        maps = maps.float()
        if self.mode == "crop":
            y, x = origins[0].tolist()
            merged = maps.min().repeat(1, height, width)
            merged[:, y : y + size, x : x + size] = maps[0]
        else:
            rows, columns = origins[:, 0].unique().tolist(), origins[:, 1].unique().tolist()
            row_weights, column_weights = self._weights(rows).to(maps.device), self._weights(columns).to(maps.device)
            merged = maps.new_zeros(1, rows[-1] + size, columns[-1] + size)
            for i, (y, x) in enumerate(origins.tolist()):
                window = row_weights[rows.index(y)][:, None] * column_weights[columns.index(x)]
                merged[:, y : y + size, x : x + size] += window * maps[i]
            merged = merged[:, :height, :width]
        return _scale(merged.contiguous(), placement.size)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        if self.mode == "tile":
            return height, width
        side = max(height, width) if self.mode == "resize" else min(height, width)
        wanted = self.scale or self.size
        return max(1, round(height * wanted / side)), max(1, round(width * wanted / side))

    @property
    def _overlap(self) -> int:
        return self.size // 4 if self.overlap is None else self.overlap

    def _starts(self, length: int) -> list[int]:
        return [*range(0, length - self.size, self.size - self._overlap), length - self.size]

    def _weights(self, starts: list[int]) -> Tensor:
        """Weights of the tiles' pixels along one axis, float32 [len(starts), size]; their sum is 1 everywhere."""
        distance = torch.arange(self.size, dtype=torch.float64) + 0.5  # from the tile's border to the pixel's centre
        ramp = (distance / max(self._overlap, 0.5)).clamp(max=1)
        ramp = ramp * ramp * (3 - 2 * ramp)
        weights = torch.ones(len(starts), self.size, dtype=torch.float64)
        weights[1:] *= ramp
        weights[:-1] *= ramp.flip(0)
        total = torch.zeros(starts[-1] + self.size, dtype=torch.float64)
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + self.size] += weight
        for start, weight in zip(starts, weights, strict=True):
            weight /= total[start : start + self.size]
        return weights.float()


def _scale(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear scaling of [C, H, W] to (h, w)."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _pad(image: Tensor, axis: int, length: int) -> Tensor:
    """Lengthen an axis at its end to `length`, by reflection if the image reaches that far, else by its last line."""
    last = image.shape[axis] - 1
    if length <= last + 1:
        return image
    index = torch.arange(length, device=image.device)
    index = last - (last - index).abs() if length <= 2 * last + 1 else index.clamp(max=last)
    return image.index_select(axis, index)
