"""Everything that makes a detector, as one JSON-ready tree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .adaptation import Adaptation
from .codec import Codec
from .data import Augment, Framing
from .dynamic import DynamicSteps
from .features import Features
from .models import ModelConfig, TransformerConfig, UNetConfig, config_from_dict
from .noise import Noise, Simplex, from_config
from .schedule import Prediction, Schedule
from .scoring import Scoring
from .training import Training

Section = TypeVar("Section")


@dataclass(frozen=True)
class Config:
    """All settings of a detector and its training; `Config().updated(changes)` takes the same as JSON.

    codec, features, adaptation: as in `Detector`. features and adaptation are null without.
    """

    model: ModelConfig = field(default_factory=UNetConfig)
    noise: Noise = field(default_factory=Simplex)
    schedule: Schedule = field(default_factory=lambda: Schedule.linear(1e-4, 1e-2))
    prediction: Prediction = "epsilon"
    framing: Framing = field(default_factory=lambda: Framing(128))
    scoring: Scoring = field(default_factory=Scoring)
    codec: Codec = field(default_factory=Codec)
    features: Features | None = None
    adaptation: Adaptation | None = None
    training: Training = field(default_factory=lambda: Training(max_minutes=15))

    def updated(self, changes: dict[str, Any]) -> Config:
        """A copy in which the given sections' given keys are replaced: `{"scoring": {"steps": 5}, "noise": {"kind": "gmm"}}`.

        noise and schedule are replaced whole, and so is a model by one of another kind. The image_size of a model that has one follows
        the frames' size unless it is named. Raises `ValueError` for unknown sections, keys or values.
        """
        known = {f.name for f in fields(self)}
        if unknown := set(changes) - known:
            raise ValueError(
                f"Unknown section {', '.join(sorted(unknown))} in the configuration; there are {', '.join(sorted(known))}."
            )
        parts = {name: getattr(self, name) for name in known}
        makers: dict[str, Callable[[Any], Any]] = {
            "noise": from_config,
            "schedule": _schedule,
            "prediction": _prediction,
        }
        optional: dict[str, Callable[[], Any]] = {"features": Features, "adaptation": Adaptation}
        for name, change in changes.items():
            if change is None and name in optional:
                parts[name] = None
                continue
            if name != "prediction" and not isinstance(change, dict):
                raise ValueError(f"Section {name} of the configuration must be an object with keys, not {change!r}.")
            if name in ("noise", "schedule") and "kind" not in change:
                raise ValueError(f'Section {name} of the configuration is replaced whole: add its "kind".')
            section = optional[name]() if parts[name] is None else parts[name]
            parts[name] = makers[name](change) if name in makers else _updated_section(name, section, change)
        if "image_size" not in changes.get("model", {}):
            parts["model"] = self._resized(parts["model"], parts["framing"].size)
        return Config(**parts)

    def _resized(self, model: ModelConfig, size: int) -> ModelConfig:
        """The model for frames of this size."""
        if not isinstance(model, TransformerConfig):
            return model
        if type(model) is type(self.model):
            size = model.image_size * size // self.framing.size
        return replace(model, image_size=size)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> dict[str, Any]:
        """The changes in a JSON file; raises `ValueError` naming the file if it is not a JSON object."""
        try:
            changes = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); give the path of a JSON file.") from None
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}).") from None
        if not isinstance(changes, dict):
            raise ValueError(f"{path} must hold a JSON object with sections such as model, scoring or training.")
        return changes


def _updated_section(name: str, section: Section, change: dict[str, Any]) -> Section:
    if isinstance(section, ModelConfig) and "kind" in change:
        kind, change = change["kind"], {key: value for key, value in change.items() if key != "kind"}
        section = section if kind == section.kind else config_from_dict({"kind": kind})
    if isinstance(section, Codec) and change.get("kind") == "pixels":
        section = Codec()  # the path belongs to the kind that it replaces
    known = {f.name: getattr(section, f.name) for f in fields(section)}  # type: ignore[arg-type]
    if unknown := set(change) - set(known):
        raise ValueError(f"Unknown key {', '.join(sorted(unknown))} in section {name}; there are {', '.join(known)}.")
    if isinstance(change.get("augment"), str):
        change = change | {"augment": Augment.parse(change["augment"])}
    for key, default in (("augment", Augment()), ("dynamic", DynamicSteps())):
        if isinstance(change.get(key), dict):
            change = change | {key: _updated_section(f"{name}.{key}", known[key] or default, change[key])}
    hints = get_type_hints(type(section))
    for key, value in change.items():
        if not _fits(value, hints[key]):
            choices = f"; choose one of {', '.join(get_args(hints[key]))}" if get_origin(hints[key]) is Literal else ""
            raise ValueError(f"{key} in section {name} of the configuration cannot be {value!r}{choices}.")
    return type(section)(**(known | change))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of the type."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _prediction(name: Any) -> Prediction:
    if not _fits(name, Prediction):
        raise ValueError(f"prediction must be one of {', '.join(get_args(Prediction))}, not {name!r}.")
    return name


def _schedule(description: dict[str, Any]) -> Schedule:
    makers: dict[str, Callable[..., Schedule]] = {"linear": Schedule.linear, "cosine": Schedule.cosine}
    parameters = dict(description)
    kind = parameters.pop("kind", None)
    if kind not in makers:
        raise ValueError(f'The schedule\'s kind must be "linear" or "cosine", not {kind!r}.')
    try:
        return makers[kind](**parameters)
    except TypeError as error:
        raise ValueError(f"Schedule {kind!r} does not take these parameters: {error}.") from None
