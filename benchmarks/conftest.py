"""The option that lets peers compile first."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compile", action="store_true", help="time what torch.compile makes, too")
