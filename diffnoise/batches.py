"""What a training step sees of the frames and their classes: functions of (seed, step) and of the step's generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

Frames = Tensor | Sequence[Tensor]  # [N, C, S, S], or N images [C, H, W]


def step_indices(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of the `count` frames a step takes: every epoch visits all of them once, in an order of its own."""
    index = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, count)
        index.append(int(_epoch_order(seed, epoch, count)[place]))
    return index


def random_crops(frames: Frames, index: Sequence[int], size: int, generator: torch.Generator) -> Tensor:
    """A size x size piece of each of the frames `index`, from anywhere in it, [B, C, size, size]."""
    return torch.stack([_random_crop(frames[i], size, generator) for i in index])


def check_labels(labels: Tensor, count: int, num_classes: int | None) -> None:
    """Raises `ValueError` unless the labels are int64 [count] in 0..num_classes - 1."""
    if num_classes is None:
        raise ValueError(
            "labels are for a model with num_classes in its configuration; build such a one, or leave labels out."
        )
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"labels must be int64 [{count}], one class for each frame, but has dtype {labels.dtype} and shape {list(labels.shape)}."
        )
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} for this model, but reach from {int(labels.min())} to {int(labels.max())}."
        )


def with_null_class(labels: Tensor, null_class: int, probability: float, generator: torch.Generator) -> Tensor:
    """The labels [B], each with this probability replaced by the null class (Ho and Salimans 2022)."""
    withheld = torch.rand(len(labels), generator=generator) < probability
    return torch.where(withheld, null_class, labels)


def digest(frames: Frames) -> str:
    """A hash of all values."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(frame.contiguous().numpy())
    return found.hexdigest()


def _epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) ^ 0x5EED))


def _random_crop(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    y, x = (int(torch.randint(0, length - size + 1, (1,), generator=generator)) for length in image.shape[1:])
    return image[:, y : y + size, x : x + size]
