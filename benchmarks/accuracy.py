"""How well the default detector does on a category: trains and evaluates it through the public command line.

    python benchmarks/accuracy.py CATEGORY_FOLDER --minutes 15

writes benchmarks/results/accuracy_<category>.json with the commands (a training that was cut short is resumed), the metrics, the trivial baselines measured on the same test
images (brightness as score), the machine, the versions and the commit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import diffnoise as dn
from diffnoise.bench import machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", default="15")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    name = options.data.name
    run = options.runs / name
    commands = [
        [
            "train",
            str(options.data),
            "--output",
            str(run),
            "--max-minutes",
            options.minutes,
            "--device",
            "cpu",
            "--resume",
            "--json",
        ],
        [
            "eval",
            str(run),
            str(options.data),
            "--output",
            str(run / "eval"),
            "--overwrite",
            "--device",
            "cpu",
            "--json",
        ],
    ]
    commit = machine.commit()
    trained, metrics = (_run(command) for command in commands)
    result = {
        "category": name,
        "commands": [" ".join(["diffnoise", *command]).replace(str(options.data), name) for command in commands],
        "metrics": metrics,
        "training": trained,
        "baselines": brightness(options.data),
        "machine": machine.describe() | {"threads": torch.get_num_threads()},
        "versions": machine.versions(),
        "commit": commit,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"accuracy_{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _run(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "diffnoise", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def brightness(data: Path) -> dict[str, float | None]:
    """Mean brightness as image score and brightness as map, each with the sign that does better."""
    samples = dn.data.find_samples(data, "test")
    images = [dn.data.read_image(sample.path, 1)[0] for sample in samples]
    labels = [int(bool(sample.label)) for sample in samples]
    masks = [
        None if s.mask is None else dn.data.read_mask(s.mask, (x.shape[0], x.shape[1]), s.class_mask)
        for s, x in zip(samples, images, strict=True)
    ]
    found: dict[str, float | None] = {}
    for sign in (1, -1):
        maps = [sign * image for image in images]
        values = dn.metrics.evaluate([float(m.mean()) for m in maps], labels, maps, masks)
        for key in ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO"):
            found[key] = max((v for v in (found.get(key), values[key]) if v is not None), default=None)
    return {f"brightness_{key}": value for key, value in found.items()}


if __name__ == "__main__":
    main()
