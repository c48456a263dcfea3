"""Trains the detector that comes with the package, from the package's photographs alone: `python -m diffnoise.demo.train`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..detector import Detector
from ..methods import preset
from . import DETECTOR, build

SETTINGS = {
    "model": {"image_channels": 1, "channels": 24, "channel_mult": [1, 2, 3], "norm_groups": 4, "head_channels": 24},
    "training": {"max_minutes": 8, "augment": "hflip,shift=0.1,brightness=0.1", "seed": 0},
}


def main() -> None:
    config = preset("small").updated(SETTINGS)
    detector = Detector.from_config(config, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(build(Path(folder) / "data"), config.training, progress=True)
    print(f"wrote {detector.save(DETECTOR)}")


if __name__ == "__main__":
    main()
