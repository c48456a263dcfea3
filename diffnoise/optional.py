"""Packages that only some settings need."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


def optional(module: str, extra: str) -> ModuleType:
    """The module of a package that diffnoise[extra] installs; raises `RuntimeError` that says how to get it, or what does not fit."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(
            f'These settings need {package} ({error}); install it with: pip install "diffnoise[{extra}]"'
        ) from error
    except RuntimeError as error:  # torchvision's operators are built for one build of torch
        raise RuntimeError(
            f"{package} cannot be imported ({error}); if that is about torchvision, it does not fit torch {torch.__version__}: install "
            "the release that belongs to it from where torch came from."
        ) from error
