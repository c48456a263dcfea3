"""Short names for what was trained or measured: the same settings on the same images have the same name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data import Sample


def plain(value: Any) -> Any:
    """Settings as JSON-ready values: dataclasses as objects (with their `kind`), tensors as a digest of their numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}
        return kind | {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "sha256": hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()[:16]}
    return value


def identity(*values: Any) -> str:
    """16 hexadecimal digits of the values' SHA-256."""
    text = json.dumps(plain(list(values)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(samples: Sequence[Sample]) -> str:
    """The identity of images and masks by content, with their labels and order; names and places do not matter."""
    return identity([[_digest(sample.path), sample.label, sample.mask and _digest(sample.mask)] for sample in samples])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
