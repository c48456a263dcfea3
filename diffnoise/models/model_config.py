"""What the configurations of all networks have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import Tensor


class ModelConfig:
    """The numbers that make a network; a frozen dataclass per family, with the family's name as `kind`.

    image_channels: channels of the images. learn_variance: 2 x image_channels outputs, the second half being v of the learned range.
    num_classes: number of classes that the network can be told; None: it takes no `class_labels`. size_multiple: height and width of the images
    must be multiples of this.
    """

    kind: ClassVar[str]
    image_channels: int
    learn_variance: bool
    num_classes: int | None
    size_multiple: int

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.image_channels * (2 if self.learn_variance else 1)

    def check_size(self, height: int, width: int) -> None:
        """Raises `ValueError` for images of a size that the network does not take."""
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"The model takes images whose height and width are each a multiple of {self.size_multiple}, not {height} x {width}."
            )

    def check_input(self, x_t: Tensor) -> None:
        """Raises `ValueError` for images that the network does not take."""
        if x_t.ndim != 4 or x_t.shape[1] != self.image_channels:
            raise ValueError(
                f"The model takes images of shape [B, {self.image_channels}, H, W], not {list(x_t.shape)}."
            )
        self.check_size(x_t.shape[2], x_t.shape[3])

    def check_positive(self, *names: str) -> None:
        """Raises `ValueError` if a field of these is below 1; None is allowed."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but is {value}.")

    def check_choices(self) -> None:
        """Raises `ValueError` if a field whose type is a `Literal` has another value."""
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(f"{name} must be one of {', '.join(get_args(hint))}, not {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind} | asdict(self)  # type: ignore[call-overload]
