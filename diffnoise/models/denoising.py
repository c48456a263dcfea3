"""How networks are called: (x_t, t), or (x_t, t, class_labels), to a prediction and what comes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.profiler import record_function

Denoiser = Callable[..., Any]


@dataclass(frozen=True)
class Output:
    """What a network with a feature head returns: sample [B, C or 2C, H, W] and features [B, F, h, w]."""

    sample: Tensor
    features: Tensor


class Denoised(NamedTuple):
    """prediction and variance: [B, C, H, W]; features: [B, F, h, w]; None where absent."""

    prediction: Tensor
    variance: Tensor | None
    features: Tensor | None


def denoise(
    model: Denoiser, x_t: Tensor, t: Tensor, learned_variance: bool = False, class_labels: Tensor | None = None
) -> Denoised:
    """The model's prediction, its variance output v if `learned_variance`, and the features of its feature head if it has one.

    Takes diffusers' models (output in `.sample`) as well as plain ones; they return C channels, or 2C whose second half is v.
    class_labels: int64 [B], given to the model where they are not None. Raises `ValueError` for any other shape, or if a variance is
    wanted and there is none.
    """
    with record_function("diffnoise.network"):
        output = model(x_t, t) if class_labels is None else model(x_t, t, class_labels=class_labels)
    sample = getattr(output, "sample", output)
    if not isinstance(sample, Tensor):
        raise ValueError(
            f"The model must return a tensor, or an object whose `sample` is one, not {type(sample).__name__}."
        )
    features = getattr(output, "features", None)
    batch, channels, *size = x_t.shape
    if list(sample.shape) == [batch, 2 * channels, *size]:
        prediction, variance = sample.chunk(2, 1)
        return Denoised(prediction, variance if learned_variance else None, features)
    if sample.shape == x_t.shape:
        if learned_variance:
            raise ValueError(
                "A learned variance needs a model with twice as many output channels as x_t; this one has none."
            )
        return Denoised(sample, None, features)
    raise ValueError(f"The model returned shape {list(sample.shape)} for an input of shape {list(x_t.shape)}.")
