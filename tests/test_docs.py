"""The pages under docs: their links, names, settings and code are those of the package."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import TINY

import diffnoise as dn
from diffnoise import cli, study
from diffnoise.config import Config
from diffnoise.features import Features
from diffnoise.methods import PRESETS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")


def spans(start: str) -> list[str]:
    """What stands in backticks on any page and begins so."""
    found = {span for page in PAGES.values() for span in SPAN.findall(BLOCK.sub("", page)) if span.startswith(start)}
    assert found, start
    return sorted(found)


def rows(page: str) -> list[list[str]]:
    """The cells of the lines that begin with a number."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGES[page].splitlines()
        if re.match(r"\| \d+ \|", line)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_linked_exists(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGES[page])
    assert links and [link for link in links if not (DOCS / link).exists()] == []


def test_every_feature_has_its_row_with_code_and_tests() -> None:
    table = rows("coverage.md")
    assert [int(row[0]) for row in table] == list(range(1, 54))
    for row in table:
        number, feature, paper, here, code, tests = row
        assert feature and here and paper, number
        assert re.search(r"\]\(\.\./(diffnoise|benchmarks)", code) and "](../tests/test_" in tests, number


def test_every_preset_is_named_with_its_paper() -> None:
    assert [name for name in PRESETS if f"`{name}`" not in PAGES["papers.md"]] == []
    assert [span for span in spans("--preset ") if span.split()[1] not in PRESETS] == []


@pytest.mark.parametrize("expression", spans("dn."))
def test_python_expressions_mean_something(expression: str) -> None:
    assert eval(expression, {"dn": dn}) is not None


@pytest.mark.parametrize("statement", spans("from "))
def test_imports_succeed(statement: str) -> None:
    exec(statement, {})


@pytest.mark.parametrize("settings", spans("{"))
def test_settings_are_taken(settings: str) -> None:
    changes = json.loads(settings)
    config = Config().updated(changes)
    assert config.updated(changes) == config


@pytest.mark.parametrize("command", [span for span in spans("diffnoise ") if len(span.split()) > 2])
def test_the_command_line_takes_the_commands(command: str) -> None:
    options = cli._parser().parse_args(shlex.split(command)[1:])
    assert set(getattr(options, "experiments", None) or ()) <= set(study.EXPERIMENTS)


def test_gradient_denoising_runs_as_written() -> None:
    torch.manual_seed(0)
    detector = dn.Detector(
        TINY, framing=dn.Framing(16), features=Features("resnet10t", (2, 3), "random"), channels=1, device="cpu"
    )
    (code,) = BLOCK.findall(PAGES["coverage.md"])
    good, images = torch.rand(20, 1, 16, 16) * 2 - 1, torch.rand(2, 1, 16, 16) * 2 - 1
    names = {"detector": detector, "good": good, "images": images}
    exec(code.replace("dims=50", "dims=5, outer=1"), names)
    assert names["cleaned"].shape == images.shape and bool((names["cleaned"] != images).any())
