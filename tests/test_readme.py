"""The README says what the result files and the command line say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diffnoise import cli
from diffnoise.methods import PRESETS
from diffnoise.noise import KINDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^diffnoise .*?(?=\s+#|$)", README, flags=re.MULTILINE)


def test_the_tables_are_those_of_the_result_files():
    done = subprocess.run([sys.executable, ROOT / "benchmarks/tables.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert all(f"| {category} | diffnoise" in README for category in ("magnetic_tile", "screw"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_takes_the_commands(command):
    cli._parser().parse_args(shlex.split(command)[1:])


def test_all_commands_presets_and_noises_are_named():
    assert len(COMMANDS) >= 3
    assert [name for name in PRESETS if f"`{name}`" not in README] == []
    assert [kind for kind in KINDS if f"`{kind}`" not in README] == []


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
