"""Packages that only some settings need."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


class MissingPackage(RuntimeError):
    """A package that some settings need is not there, or does not fit torch."""


def optional(module: str, extra: str) -> ModuleType:
    """The module of a package that diffnoise[extra] installs; raises `MissingPackage` that says how to get it, or what does not fit."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f'These settings need {package} ({error}); install it with: pip install "diffnoise[{extra}]"'
        ) from error
    except RuntimeError as error:  # torchvision's operators are built for one build of torch
        raise MissingPackage(
            f"{package} cannot be imported ({error}); if that is about torchvision, it does not fit torch {torch.__version__}: install "
            "the release that belongs to it from where torch came from."
        ) from error
