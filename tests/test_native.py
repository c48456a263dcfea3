"""What switches the compiled kernels on and off: when they are loaded, and when they are built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffnoise.ops import _native

ROOT = Path(__file__).parents[1]
WARNINGS = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from diffnoise.ops import _native
print(_native.status().isa)
print(*[w.message for w in caught if "DIFFNOISE_ISA" in str(w.message)])
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(not _native.status().loaded, reason="the native extension is not built")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("", ""),
        ("baseline", ""),
        ("avx1024", "is 'avx1024', but must be baseline, avx2 or avx512; the compiled kernels run"),
    ],
)
def test_the_asked_instruction_set(asked, words):
    isa, warned = run(sys.executable, "-c", WARNINGS, DIFFNOISE_ISA=asked).stdout.splitlines()
    assert isa == (asked if asked == "baseline" else _native.status().isa)
    assert words in warned and bool(words) == bool(warned)


def test_an_instruction_set_that_the_machine_lacks(monkeypatch):
    monkeypatch.setenv("DIFFNOISE_ISA", "avx512")
    with pytest.warns(RuntimeWarning, match="asks for avx512, which this machine lacks; the compiled kernels run avx2"):
        _native._check_isa("avx2")


def test_building_with_cuda_needs_nvcc():
    environment = {
        "DIFFNOISE_CUDA": "1",
        "PATH": str(ROOT / "no such folder"),
        "CUDA_HOME": "",
        "CUDA_PATH": "",
        "CXX": sys.executable,
    }
    result = run(sys.executable, "setup.py", "--name", **environment)
    assert result.returncode != 0 and "there is no nvcc" in result.stderr and "Traceback" not in result.stderr
    result = run(sys.executable, "setup.py", "--name", **environment | {"DIFFNOISE_CUDA": "yes"})
    assert result.returncode != 0 and "DIFFNOISE_CUDA must be 0 or 1" in result.stderr
