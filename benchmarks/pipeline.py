"""Images per second and latency of the whole way from image to score, beside the same network and steps run by others.

    python benchmarks/pipeline.py --output benchmarks/results/pipeline_cpu.json [--parts networks | demo]

A part that is not asked for stays in the file as it is.

networks. Every row: one UNet (diffusers' UNet2DModel, the same random weights for all), a batch and a number of DDIM steps from T' = 200 to 0.
diffnoise scores it in float32 and in bfloat16; beside it diffusers (network and DDIMScheduler, as its documentation shows), MONAI's
DiffusionInferer, and the loop in plain torch; each with forward noise before, and squared error, mean filter and
maximum behind. All are timed in turns in one process. Rows that would take longer than --limit seconds are left out and named.
Before that, all of them give their scores: a row is WRONG, and not timed, where the float32 scores of diffnoise differ from those of
the plain loop at diffnoise's own steps and noise, or where the others' differ from the plain loop's. The JSON also holds the time of diffnoise's stations, the peak memory, and the share of the machine's matrix rate that the network's operations reach.

demo. The detector that comes with the package on its photographs, every frame alone and in batches, in float32 and, where the machine has
it, in bfloat16: images per second, image AUROC, and how far the maps are from those of float32 with every frame alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import diffnoise as dn
from diffnoise import demo, telemetry
from diffnoise.bench import limits, machine
from diffnoise.bench.timing import Effort, Timing, host_clock, interleave

START, TRAIN_STEPS, FILTER = 200, 1000, 11
STATIONS = ("noise", "network", "step", "tail")
TOLERANCE = 1e-3  # of float32 scores, relative to the largest; a GPU rounds the inputs of convolutions to 10 bits
TOGETHER = 8  # images of the demo in a batch


@dataclass(frozen=True)
class Network:
    """diffusers' UNet2DModel of the ADM shape, 3 channels in and out, attention at the three coarsest levels."""

    channels: int
    size: int

    @property
    def name(self) -> str:
        return f"UNet-{self.channels} at {self.size} px"

    def make(self) -> nn.Module:
        from diffusers import UNet2DModel

        torch.manual_seed(0)
        plain, attention = ["DownBlock2D"] * 3, ["AttnDownBlock2D"] * 3
        model = UNet2DModel(
            sample_size=self.size,
            in_channels=3,
            out_channels=3,
            layers_per_block=2,
            block_out_channels=tuple(self.channels * mult for mult in (1, 1, 2, 2, 4, 4)),
            down_block_types=(*plain, *attention),
            up_block_types=tuple(name.replace("Down", "Up") for name in (*attention, *plain)),
            attention_head_dim=32,
        )
        return model.eval()


NETWORKS = {network.name: network for network in (Network(32, 64), Network(32, 128), Network(64, 224))}
Call = Callable[[], Any]


def tail(x_0: Tensor, reconstruction: Tensor) -> Tensor:
    """Scores as plain torch computes them."""
    error = (x_0 - reconstruction).square().mean(1, keepdim=True)
    padded = F.pad(error, [FILTER // 2] * 4, mode="reflect")
    return F.avg_pool2d(padded, FILTER, stride=1).amax((1, 2, 3))


def by_diffusers(model: nn.Module, x_0: Tensor, steps: int) -> Call:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(TRAIN_STEPS, 1e-4, 1e-2, clip_sample=True, set_alpha_to_one=True)
    scheduler.set_timesteps(steps * TRAIN_STEPS // START, device=x_0.device)
    first = scheduler.timesteps[-steps]

    def call() -> Tensor:
        x = scheduler.add_noise(x_0, torch.randn_like(x_0), first.repeat(len(x_0)))
        for t in scheduler.timesteps[-steps:]:
            x = scheduler.step(model(x, t).sample, t, x).prev_sample
        return tail(x_0, x)

    return call


def by_monai(model: nn.Module, x_0: Tensor, steps: int) -> Call:
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDIMScheduler

    class Network(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
            return model(x, timesteps).sample  # type: ignore[no-any-return]

    scheduler = DDIMScheduler(TRAIN_STEPS, schedule="linear_beta", beta_start=1e-4, beta_end=1e-2, clip_sample=True)
    scheduler.set_timesteps(steps * TRAIN_STEPS // START, device=x_0.device)
    stride = START // steps  # its own spacing is another
    scheduler.timesteps = torch.arange(START - stride, -1, -stride, device=x_0.device)
    inferer, network = DiffusionInferer(scheduler), Network()
    first = scheduler.timesteps[0]

    def call() -> Tensor:
        x = scheduler.add_noise(x_0, torch.randn_like(x_0), first.repeat(len(x_0)))
        return tail(x_0, inferer.sample(x, network, scheduler, verbose=False))

    return call


def by_torch(model: nn.Module, x_0: Tensor, steps: int) -> Call:
    stride = START // steps
    timesteps = range(START - stride, -1, -stride)
    return lambda: plain(model, x_0, torch.randn_like(x_0), timesteps)


def plain(
    model: nn.Module, x_0: Tensor, eps: Tensor, timesteps: Sequence[int], from_clipped_x_0: bool = False
) -> Tensor:
    """Scores by DDIM steps as their formula is written; epsilon is the model's output, or follows from the clipped x_0."""
    alpha_bars = torch.cumprod(1 - torch.linspace(1e-4, 1e-2, TRAIN_STEPS, dtype=torch.float64), 0)
    a = float(alpha_bars[timesteps[0]])
    x = a**0.5 * x_0 + (1 - a) ** 0.5 * eps
    for t, previous in zip(timesteps, [*timesteps[1:], None], strict=True):
        a, b = float(alpha_bars[t]), 1.0 if previous is None else float(alpha_bars[previous])
        output = model(x, torch.full((len(x),), t, device=x.device)).sample
        predicted = ((x - (1 - a) ** 0.5 * output) / a**0.5).clamp(-1, 1)
        direction = (x - a**0.5 * predicted) / (1 - a) ** 0.5 if from_clipped_x_0 else output
        x = b**0.5 * predicted + (1 - b) ** 0.5 * direction
    return tail(x_0, x)


def expected(model: nn.Module, x_0: Tensor, ours: dn.Detector) -> Tensor:
    """What diffnoise's detector is to find, by the plain loop."""
    seeds, scoring = torch.full((len(x_0),), ours.scoring.seed), ours.scoring
    eps = ours.noise(tuple(x_0.shape), t=torch.full_like(seeds, START - 1), seeds=seeds)
    timesteps = ours.schedule.timesteps(START, scoring.steps)
    return plain(model, x_0, eps.to(x_0.device), timesteps, from_clipped_x_0=True)


def detector(model: nn.Module, network: Network, steps: int, batch: int, precision: str, device: str) -> dn.Detector:
    made = dn.Detector(
        model,
        dn.noise.Simplex(),
        framing=dn.Framing(network.size),
        scoring=dn.Scoring(starts=(START,), steps=steps, samples=1, filter_size=FILTER),
        channels=3,
        device=device,
        execution=dn.Execution(precision=precision, batch=batch),  # type: ignore[arg-type]
    )
    made.calibration = dn.detector.Calibration(((0.0, 1.0),), 1.0, 1.0, 1.0, 1)  # only time is asked for
    return made


def peak_memory(call: Call, device: torch.device) -> tuple[float | None, Any]:
    """MiB of the process (on a GPU: of its tensors) at most during a call, and what the call returned."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        result = call()
        return torch.cuda.max_memory_allocated() / 2**20, result
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None, call()
    result = call()
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10, result


def stations(call: Call, device: torch.device) -> dict[str, float]:
    """Seconds of each station in one call, as the profiler sees them; "rest" is all that lies between."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    clock = host_clock(device)
    with torch.profiler.profile(activities=activities) as profile:
        total = clock(call)
    found = {event.key: event for event in profile.key_averages()}
    seconds = {}
    for station in STATIONS:
        event = found.get(f"diffnoise.{station}")
        time_of = "device_time_total" if device.type == "cuda" else "cpu_time_total"
        seconds[station] = getattr(event, time_of) / 1e6 if event else 0.0
    return seconds | {"rest": max(0.0, total - sum(seconds.values()))}


def operations(model: nn.Module, network: Network, device: torch.device) -> int:
    """Floating-point operations of a call for one image; those of attention on a CPU are not counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    x, t = (
        torch.zeros(1, 3, network.size, network.size, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
    )
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(x, t)
    return counter.get_total_flops()


def matrix_rates(device: torch.device) -> dict[str, float]:
    """FLOP/s of a square matrix product in each precision, the best of some."""
    clock, rates = host_clock(device), {}
    for dtype in (torch.float32, torch.bfloat16):
        probe = limits.matrix(device, dtype)
        rates[str(dtype).removeprefix("torch.")] = probe.amount / min(clock(probe.call) for _ in range(20))
    return rates


def measure(
    network: Network, steps: int, batch: int, device: torch.device, effort: Effort, limit: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"network": network.name, "steps": steps, "batch": batch, "threads": torch.get_num_threads()}
    model = network.make().to(device)
    images = torch.rand(batch, 3, network.size, network.size, generator=torch.Generator().manual_seed(1))
    x_0 = images.to(device) * 2 - 1
    clock = host_clock(device)
    with torch.inference_mode():
        t = torch.zeros(batch, dtype=torch.int64, device=device)
        model(x_0, t)
        duration = steps * clock(lambda: model(x_0, t))
    if duration > limit:
        return row | {"left_out": f"one call takes about {duration:.0f} s, more than the limit of {limit:g} s"}
    calls: dict[str, Call] = {}
    for precision in ("float32", "bfloat16"):
        ours = detector(network.make(), network, steps, batch, precision, device.type)
        calls[f"diffnoise, {precision}"] = lambda ours=ours: ours.predict(images).pred_score
    left_out = {}
    for name, make in (("torch", by_torch), ("diffusers", by_diffusers), ("MONAI DiffusionInferer", by_monai)):
        try:
            call = make(model, x_0, steps)
        except ImportError as error:
            left_out[name] = f"not installed ({error.name})"
            continue
        calls[name] = torch.inference_mode()(lambda call=call: call().cpu())
    memory, scores = {}, {}
    for name, call in calls.items():  # warms up, too
        torch.manual_seed(2)
        memory[name], scores[name] = peak_memory(call, device)
    with torch.inference_mode():
        truth = expected(model, x_0, ours).cpu()
    row["errors"] = {
        name: relative(found, truth if name.startswith("diffnoise") else scores["torch"])
        for name, found in scores.items()
    }
    row["tolerance"] = TOLERANCE
    if not all(error <= TOLERANCE for name, error in row["errors"].items() if "bfloat16" not in name):
        return row | {"status": "wrong"}
    used = machine.others()
    seconds = interleave(calls, clock, effort)
    rates = matrix_rates(device)
    flops = operations(model, network, device) * steps * batch
    results = {}
    for name, values in seconds.items():
        timing = Timing.of(values)
        rate = rates["bfloat16" if "bfloat16" in name else "float32"]
        results[name] = {
            "seconds": asdict(timing),
            "images_per_second": batch / timing.median,
            "share_of_matrix_rate": flops / timing.median / rate,
            "peak_memory_MiB": memory[name],
        }
    return row | {
        "status": "timed",
        "results": results,
        "left_out_peers": left_out,
        "stations": {name: stations(call, device) for name, call in calls.items() if name.startswith("diffnoise")},
        "operations": flops,
        "matrix_rates": rates,
        "other_processes_cores": used(),
        "gpu": telemetry.sample(device),
    }


def relative(found: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - truth).abs().max() / truth.abs().max())


def demo_images(folder: Path) -> tuple[Tensor, list[int]]:
    """The demo's test images, uint8 [B, 1, H, W], and whether each has a defect."""
    samples = dn.data.find_samples(demo.build(folder / "demo"), "test")
    images = np.stack([np.asarray(Image.open(sample.path)) for sample in samples])
    return torch.from_numpy(images).unsqueeze(1), [int(bool(sample.label)) for sample in samples]


def has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def measure_demo(device: torch.device, effort: Effort) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        images, labels = demo_images(Path(folder))
    calls: dict[str, Call] = {}
    for precision in ("float32", "bfloat16") if has_bfloat16(device) else ("float32",):
        for way, batch in (("alone", None), (f"batch {TOGETHER}", TOGETHER)):
            found = dn.load(demo.DETECTOR, device=device, execution=dn.Execution(precision, batch))  # type: ignore[arg-type]
            calls[f"{way}, {precision}"] = lambda found=found: found.predict(images)
    predictions = {name: call() for name, call in calls.items()}
    truth = predictions["alone, float32"]
    used = machine.others()
    seconds = interleave(calls, host_clock(device), effort)
    results = {}
    for name, values in seconds.items():
        timing, found = Timing.of(values), predictions[name]
        results[name] = {
            "seconds": asdict(timing),
            "images_per_second": len(images) / timing.median,
            "image_AUROC": dn.metrics.image_auroc(found.pred_score, labels),
            "score_difference": relative(found.pred_score, truth.pred_score),
            "map_difference": relative(found.anomaly_map, truth.anomaly_map),
        }
    return {
        "threads": torch.get_num_threads(),
        "images": len(images),
        "results": results,
        "other_processes_cores": used(),
    }


def header() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=("networks", "demo"), default=["networks", "demo"])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--steps", nargs="+", type=int, choices=(5, 10, 50, 200), default=[5, 10, 50, 200])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 30])
    parser.add_argument("--threads", nargs="+", type=int, default=[machine.cores()], help="default: all cores")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that one call may take (default: 30)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for every way of a row (default: 10)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, effort = torch.device(options.device), Effort(options.seconds, rounds=3, limit=3 * options.seconds)
    document: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        options.output.write_text(json.dumps(document, indent=1) + "\n")

    if "networks" in options.parts:
        document |= header() | {"rows": []}
        for name in options.networks:
            for threads in options.threads:
                torch.set_num_threads(threads)
                for steps in options.steps:
                    for batch in options.batches:
                        started = time.perf_counter()
                        row = measure(NETWORKS[name], steps, batch, device, effort, options.limit)
                        document["rows"].append(row)
                        write()
                        print(_line(row), f"({time.perf_counter() - started:.0f} s)", file=sys.stderr)
    if "demo" in options.parts:
        torch.set_num_threads(max(options.threads))
        document["demo"] = header() | measure_demo(device, effort)
        write()
        print(f"demo: {_rates(document['demo']['results'])}", file=sys.stderr)
    return int(any(row.get("status") == "wrong" for row in document.get("rows", [])))


def _line(row: dict[str, Any]) -> str:
    head = f"{row['network']}, {row['steps']} steps, batch {row['batch']}, {row['threads']} threads: "
    if "left_out" in row:
        return head + f"left out, {row['left_out']}"
    if row["status"] == "wrong":
        return head + "WRONG, " + ", ".join(f"{name} {error:.2g}" for name, error in row["errors"].items())
    return head + _rates(row["results"])


def _rates(results: dict[str, Any]) -> str:
    return "; ".join(f"{name} {result['images_per_second']:.3g}/s" for name, result in results.items())


if __name__ == "__main__":
    sys.exit(main())
