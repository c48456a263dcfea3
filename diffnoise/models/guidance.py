"""Classifier-free guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoising import Denoiser, Output, denoise


class ClassGuided:
    """The model of one class: (1 + weight) eps(x_t, t, label) - weight eps(x_t, t) (Ho and Salimans 2022), called as `guided(x_t, t)`.

    label: index of the class. weight: 0 asks the model once, for the class alone; otherwise it is also asked without class_labels, which
    must mean no class. A learned variance and features are those of the class.
    """

    def __init__(self, model: Denoiser, label: int, weight: float = 0.0) -> None:
        self.model, self.label, self.weight = model, label, weight

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor | Output:
        labels = torch.full((len(x_t),), self.label, dtype=torch.int64, device=x_t.device)
        output = self.model(x_t, t, class_labels=labels)
        if not self.weight:
            return output
        channels = x_t.shape[1]
        of_class = getattr(output, "sample", output)
        of_none = denoise(self.model, x_t, t).prediction
        prediction = torch.lerp(of_none, of_class[:, :channels], 1 + self.weight)
        sample = torch.cat([prediction, of_class[:, channels:]], 1)
        features = getattr(output, "features", None)
        return sample if features is None else Output(sample, features)
