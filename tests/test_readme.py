"""The README says what the result files and the command line say."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

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
    assert "<!-- bench -->\n" in README and "<!-- /bench -->\n" in README


def bench_row(case: str, seconds: dict[str, float], **changes: Any) -> dict[str, Any]:
    """What the table takes of a row of `diffnoise bench`, whose floors are 1 ms for memory and 2 ms for arithmetic."""
    timings = [{"name": n, "seconds": {"median": s}, "share_of_limit": 0.002 / s} for n, s in seconds.items()]
    return {
        "case": case, "device": "cpu", "threads": 1, "lowered": False, "status": "timed", "shape": [16, 1, 224, 224],
        "limit": {"memory_seconds": 0.001, "arithmetic_seconds": 0.002}, "timings": [*timings, {"name": "e", "left_out": "why"}],
    } | changes  # fmt: skip


def benchmark(name):
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_table_of_a_bench_result(tmp_path):
    tables = benchmark("tables")
    assert tables.bench(tmp_path) == "*Not measured yet.*"
    times = {
        "diffnoise": 0.01, "diffnoise, otherwise": 0.02, "slow": 0.3, "quick": 0.015, "diffnoise.whole": 0.1, "whole": 0.4,
    }  # fmt: skip
    small = {"shape": [1, 1, 64, 64], "limit": None, "timings": [
        {"name": "diffnoise", "seconds": {"median": 25e-6}, "share_of_limit": None}]}  # fmt: skip
    run = {
        "date": "2026-11-22T08:00:00+00:00", "commit": "0123456789abcdef", "versions": {"torch": "2.13.0"},
        "machine": {"processor": "A processor", "isa": "avx512", "gpu": {"name": "A GPU", "cuda": "13.0"}},
        "gpu_limits": [{"what": "copy", "rate": 4300.4, "unit": "GB/s"}],
        "results": [
            bench_row("simplex_noise_3d", times), bench_row("simplex_noise_3d", {"diffnoise": 0.005}, threads=2),
            bench_row("simplex_noise_3d", {"diffnoise": 99}, lowered=True), bench_row("small_gmm_noise", {}, **small),
            bench_row("kl_map", {}, status="wrong"), bench_row("kl_map", {"diffnoise": 0.0025}, device="cuda", threads=None),
        ],
    }  # fmt: skip
    (tmp_path / "bench_one.json").write_text(json.dumps(run))
    assert tables.bench(tmp_path).splitlines() == [
        "A processor, avx512; torch 2.13.0, 2026-11-22, commit 0123456:",
        "",
        "| work | 1 thread | 2 threads | of the limit | times that of others, 1 thread |",
        "|---|---|---|---|---|",
        "| `simplex_noise_3d` 16 × 1 × 224 × 224 | 10 ms | 5 ms | 20% | quick 1.5, whole 4, slow 30 |",
        "| `small_gmm_noise` 1 × 1 × 64 × 64 | 25 µs | – | – | – |",
        "",
        "A GPU, CUDA 13.0; torch 2.13.0, 2026-11-22, commit 0123456:",
        "Its limits: copy 4300 GB/s.",
        "",
        "| work | diffnoise | memory alone | arithmetic alone | of the larger | times that of others |",
        "|---|---|---|---|---|---|",
        "| `kl_map` 16 × 1 × 224 × 224 | 2.5 ms | 1 ms | 2 ms | 80% | – |",
    ]


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


def test_the_table_of_a_pipeline_result(tmp_path):
    tables = benchmark("tables")
    assert tables.pipeline(tmp_path) == "*Not measured yet.*"
    result = {"images_per_second": 12.34, "share_of_matrix_rate": 0.251}
    row = {"network": "UNet-32 at 64 px", "steps": 5, "batch": 8}
    run = {
        "date": "2026-11-22T08:00:00+00:00", "commit": None, "versions": {"torch": "2.13.0"},
        "machine": {"processor": "A processor", "isa": "avx512", "gpu": None},
        "rows": [
            row | {"left_out": "too long"},
            row | {"status": "wrong", "errors": {"diffnoise, float32": 0.1}},
            row | {
                "results": {"diffnoise, bfloat16": result, "diffusers": {"images_per_second": 3.0}},
                "stations": {"diffnoise, bfloat16": {"noise": 1.0, "network": 97.0, "step": 1.0, "tail": 1.0, "rest": 0.0}},
            },
        ],
    }  # fmt: skip
    way = {"images_per_second": 39.04, "image_AUROC": 0.87654, "score_difference": 0.0123, "map_difference": 0.0456}
    demo = {name: run[name] for name in ("date", "commit", "versions", "machine")} | {
        "threads": 2, "images": 54, "results": {"batch 8, bfloat16": way},
    }  # fmt: skip
    (tmp_path / "pipeline_one.json").write_text(json.dumps(run | {"demo": demo}))
    assert tables.pipeline(tmp_path).splitlines() == [
        "A processor, avx512; torch 2.13.0, 2026-11-22:",
        "",
        "| network | steps | batch | diffnoise, bfloat16 | diffnoise, float32 | diffusers | MONAI DiffusionInferer | torch "
        "| not the network | of the matrix rate |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| UNet-32 at 64 px | 5 | 8 | 12.3 | – | 3 | – | – | 3.0% | 25% |",
        "",
        "The demo's detector on its 54 images; A processor, avx512; torch 2.13.0, 2026-11-22:",
        "",
        "| frames, precision | images/s, 2 threads | image AUROC | largest change of a score | of a map |",
        "|---|---|---|---|---|",
        "| batch 8, bfloat16 | 39 | 0.8765 | 1.2e-02 | 4.6e-02 |",
    ]


@torch.inference_mode()
def test_the_rivals_of_the_pipeline_do_the_same_work():
    pytest.importorskip("diffusers")
    pipeline = benchmark("pipeline")
    torch.manual_seed(0)
    model = pipeline.Network(32, 32).make()
    for parameter in model.parameters():  # no output is 0 as at the start of a training
        torch.nn.init.normal_(parameter, std=0.05)
    x_0 = torch.rand(2, 3, 32, 32) * 2 - 1
    makers = [pipeline.by_torch, pipeline.by_diffusers]
    if importlib.util.find_spec("monai"):
        makers.append(pipeline.by_monai)
    scores = []
    for make in makers:
        call = make(model, x_0, 5)
        torch.manual_seed(1)
        scores.append(call())
    assert float(scores[0].min()) > 0.01
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-3, atol=1e-5)
    ours = pipeline.detector(model, pipeline.Network(32, 32), 5, 2, "float32", "cpu")
    found = ours.predict((x_0 + 1) / 2).pred_score
    torch.testing.assert_close(found, pipeline.expected(model, x_0, ours), rtol=1e-3, atol=1e-5)


def test_a_wrong_pipeline_is_not_timed(monkeypatch):
    pytest.importorskip("diffusers")
    pipeline = benchmark("pipeline")
    expected = pipeline.expected
    monkeypatch.setattr(pipeline, "expected", lambda *arguments: 1.01 * expected(*arguments))
    monkeypatch.setattr(pipeline, "interleave", None)
    effort = pipeline.Effort(seconds=0.1, rounds=1, limit=0.1)
    row = pipeline.measure(pipeline.Network(32, 32), 5, 1, torch.device("cpu"), effort, limit=100)
    assert row["status"] == "wrong" and "results" not in row and "WRONG" in pipeline._line(row)
    assert row["errors"]["diffnoise, float32"] == pytest.approx(0.01 / 1.01, rel=1e-3)


def test_the_part_of_a_pipeline_that_is_not_run_stays(tmp_path, monkeypatch):
    pipeline = benchmark("pipeline")
    output = tmp_path / "pipeline_one.json"
    output.write_text(json.dumps({"commit": "abc", "rows": [{"network": "one"}]}))
    monkeypatch.setattr(pipeline, "measure_demo", lambda *_: {"results": {"alone": {"images_per_second": 9.0}}})
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "--output", str(output), "--parts", "demo"])
    assert pipeline.main() == 0
    document = json.loads(output.read_text())
    assert document["commit"] == "abc" and document["rows"] == [{"network": "one"}]
    assert document["demo"]["command"].endswith("--parts demo") and document["demo"]["machine"]
