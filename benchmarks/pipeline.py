"""Images per second and latency of the whole way from image to score, beside the same network and steps run by others.

    python benchmarks/pipeline.py --output benchmarks/results/pipeline_cpu.json

Every row: one UNet (diffusers' UNet2DModel, the same random weights for all), a batch and a number of DDIM steps from T' = 200 to 0.
diffnoise scores it in float32 and in bfloat16; beside it diffusers (network and DDIMScheduler, as its documentation shows), MONAI's
DiffusionInferer, and the loop in plain torch; each with forward noise before, and squared error, mean filter and
maximum behind. All are timed in turns in one process. Rows that would take longer than --limit seconds are left out and named.
The JSON also holds the time of diffnoise's stations, the peak memory, and the share of the machine's matrix rate that the network's operations reach.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import diffnoise as dn
from diffnoise.bench import limits, machine
from diffnoise.bench.timing import Effort, Timing, host_clock, interleave

START, TRAIN_STEPS, FILTER = 200, 1000, 11
STATIONS = ("noise", "network", "step", "tail")


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
    alpha_bars = torch.cumprod(1 - torch.linspace(1e-4, 1e-2, TRAIN_STEPS, dtype=torch.float64), 0)
    stride = START // steps
    timesteps = list(range(START - stride, -1, -stride))

    def call() -> Tensor:
        a = float(alpha_bars[timesteps[0]])
        x = a**0.5 * x_0 + (1 - a) ** 0.5 * torch.randn_like(x_0)
        for i, t in enumerate(timesteps):
            a = float(alpha_bars[t])
            b = float(alpha_bars[timesteps[i + 1]]) if i + 1 < steps else 1.0
            eps = model(x, torch.full((len(x),), t, device=x.device)).sample
            predicted = ((x - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
            x = b**0.5 * predicted + (1 - b) ** 0.5 * eps
        return tail(x_0, x)

    return call


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


def peak_memory(call: Call, device: torch.device) -> float | None:
    """MiB of the process (on a GPU: of its tensors) at most during a call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")
        call()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


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
        expected = steps * clock(lambda: model(x_0, t))
    if expected > limit:
        return row | {"left_out": f"one call takes about {expected:.0f} s, more than the limit of {limit:g} s"}
    calls: dict[str, Call] = {}
    for precision in ("float32", "bfloat16"):
        ours = detector(network.make(), network, steps, batch, precision, device.type)
        calls[f"diffnoise, {precision}"] = lambda ours=ours: ours.predict(images)
    left_out = {}
    for name, make in (("diffusers", by_diffusers), ("MONAI DiffusionInferer", by_monai), ("torch", by_torch)):
        try:
            call = make(model, x_0, steps)
        except ImportError as error:
            left_out[name] = f"not installed ({error.name})"
            continue
        calls[name] = torch.inference_mode()(lambda call=call: call().cpu())
    memory = {name: peak_memory(call, device) for name, call in calls.items()}  # warms up, too
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
        "results": results,
        "left_out_peers": left_out,
        "stations": {name: stations(call, device) for name, call in calls.items() if name.startswith("diffnoise")},
        "operations": flops,
        "matrix_rates": rates,
        "other_processes_cores": used(),
        "gpu": machine.gpu_state() if device.type == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--steps", nargs="+", type=int, choices=(5, 10, 50, 200), default=[5, 10, 50, 200])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 30])
    parser.add_argument("--threads", nargs="+", type=int, default=[machine.cores()], help="default: all cores")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that one call may take (default: 30)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for every way of a row (default: 10)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, effort = torch.device(options.device), Effort(options.seconds, rounds=3, limit=3 * options.seconds)
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "rows": [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        for threads in options.threads:
            torch.set_num_threads(threads)
            for steps in options.steps:
                for batch in options.batches:
                    started = time.perf_counter()
                    row = measure(NETWORKS[name], steps, batch, device, effort, options.limit)
                    document["rows"].append(row)
                    options.output.write_text(json.dumps(document, indent=1) + "\n")
                    print(_line(row), f"({time.perf_counter() - started:.0f} s)", file=sys.stderr)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['network']}, {row['steps']} steps, batch {row['batch']}, {row['threads']} threads: "
    if "left_out" in row:
        return head + f"left out, {row['left_out']}"
    return head + "; ".join(f"{name} {result['images_per_second']:.3g}/s" for name, result in row["results"].items())


if __name__ == "__main__":
    main()
