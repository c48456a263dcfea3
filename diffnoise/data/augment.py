from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LIMITS = {"rotate": 180.0, "shift": 0.5, "brightness": 1.0, "contrast": 1.0}


@dataclass(frozen=True)
class Augment:
    """Random changes, drawn for every image by itself, that leave a good image good.

    `hflip` and `vflip` mirror with probability 1/2; `rot90` turns by a random multiple of 90 degrees. The others are
    the largest of uniform amounts, 0 is off: `rotate` in degrees, `shift` as a fraction of the size, `brightness` added
    as a fraction of the full range, `contrast` as a fraction by which differences from the image's mean grow or shrink.
    Raises ValueError for an amount outside [0, 180], [0, 0.5], [0, 1] and [0, 1].
    """

    hflip: bool = False
    vflip: bool = False
    rot90: bool = False
    rotate: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must lie between 0 and {limit:g}, not {getattr(self, name)}.")

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Read a list such as "hflip,rotate=10,shift=0.05"; raises ValueError for what it does not understand."""
        values: dict[str, Any] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            name, equals, amount = map(str.strip, item.partition("="))
            if name not in (known := [field.name for field in fields(cls)]):
                raise ValueError(f"Unknown augmentation {name!r}; choose from {', '.join(known)}.")
            if name in values:
                raise ValueError(f"Augmentation {name!r} is given twice; give it once.")
            if bool(equals) != (name in _LIMITS):
                example = f"{name}={_LIMITS[name] / 10:g}" if name in _LIMITS else name
                raise ValueError(f"Augmentation {item!r} is not understood; write it like {example}.")
            try:
                values[name] = float(amount) if equals else True
            except ValueError:
                raise ValueError(f"Augmentation {item!r} needs a number after the equals sign.") from None
        return cls(**values)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images [B, C, H, W] in [-1, 1], staying in that range; raises ValueError for rot90 of oblong ones."""
        if self == Augment():
            return images
        batch, _, height, width = images.shape
        draws = torch.rand(batch, 8, generator=generator, device=generator.device).to(images.device)
        coins, symmetric = draws[:, :3, None, None, None], draws[:, 3:].to(images.dtype) * 2 - 1
        if self.hflip:
            images = torch.where(coins[:, 0] < 0.5, images.flip(-1), images)
        if self.vflip:
            images = torch.where(coins[:, 1] < 0.5, images.flip(-2), images)
        if self.rot90:
            if height != width:
                raise ValueError(f"rot90 needs square images, not {width} x {height} pixels; choose rotate instead.")
            turns = (coins[:, 2] * 4).long()
            for k in (1, 2, 3):
                images = torch.where(turns == k, images.rot90(k, (-2, -1)), images)
        if self.rotate or self.shift:
            images = self._move(images, symmetric[:, 0], symmetric[:, 1:3])
        if self.brightness or self.contrast:
            brightness, contrast = (symmetric[:, i, None, None, None] for i in (3, 4))
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (images - mean) * (1 + self.contrast * contrast) + mean + 2 * self.brightness * brightness
        return images.clamp(-1, 1)

    def _move(self, images: Tensor, turn: Tensor, offset: Tensor) -> Tensor:
        """Rotate and shift by the parts `turn` [B] and `offset` [B, 2], in [-1, 1], of the largest amounts."""
        height, width = images.shape[2:]
        angle = torch.deg2rad(self.rotate * turn)
        cos, sin = angle.cos(), angle.sin()
        dx, dy = (2 * self.shift * offset).unbind(1)  # the grid runs from -1 to 1: the size is 2
        rows = (cos, -sin * height / width, dx, sin * width / height, cos, dy)
        theta = torch.stack(rows, dim=1).reshape(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
