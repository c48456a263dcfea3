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

FORMAT_VERSION = 1


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
    """Write tensors and a JSON-ready `meta` as one safetensors file of the given kind ("detector", "training")."""
    header = {"diffnoise": json.dumps({"kind": kind, "format_version": FORMAT_VERSION, **meta})}
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header))


def load_checkpoint(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote; no code in the file is ever run.

    Raises `CheckpointError` if the file is missing, broken, of another kind or of another format version.
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
    return tensors, meta
