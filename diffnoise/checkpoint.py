"""Files that survive a kill at any moment: tensors and JSON in one safetensors file, written aside, synced and renamed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .noise import NOISE_VERSION

FORMAT_VERSION = 1
# Noise of another version would shift scores against their thresholds, or change in the middle of a training.
REMEDIES = {
    "detector": "or load it with diffnoise.load(..., any_noise_version=True) and calibrate it again, or train again",
    "training": "or train into another folder",
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file and the remedy."""


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` so that `path` holds either the old or the new content, whole, whatever happens meanwhile."""
    path = Path(path)
    for left_by_a_kill in path.parent.glob(f".{path.name}.*"):
        left_by_a_kill.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_checkpoint(path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and a JSON-ready `meta` as one safetensors file of the given kind ("detector", "training").

    The format and the noise version of this diffnoise are recorded with them.
    """
    versions = {"format_version": FORMAT_VERSION, "noise_version": NOISE_VERSION}
    header = {"diffnoise": json.dumps({"kind": kind, **versions, **meta})}
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header))


def load_checkpoint(
    path: str | os.PathLike[str], kind: str, any_noise_version: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote; no code in the file is ever run.

    Raises `CheckpointError` if the file is missing, broken, of another kind or of another format version, and, unless
    `any_noise_version`, of another noise version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; train a detector first, or give the folder of a finished run.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("diffnoise")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); restore it from a copy or train again."
        ) from None
    try:
        meta = json.loads(header or "")
    except ValueError:
        meta = None
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise CheckpointError(
            f"{path} was not written by diffnoise as a {kind} file; give the file that a diffnoise run made."
        )
    if meta.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {meta.get('format_version')}, this diffnoise reads version {FORMAT_VERSION}; "
            "use the version of diffnoise that wrote it, or train again."
        )
    if not any_noise_version and meta.get("noise_version") != NOISE_VERSION:
        raise CheckpointError(
            f"{path} was made with noise version {meta.get('noise_version')}, this diffnoise makes noise version {NOISE_VERSION}; "
            f"use the version of diffnoise that wrote it, {REMEDIES[kind]}."
        )
    return tensors, meta
