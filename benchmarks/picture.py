"""Draws the README's picture: input, reconstruction and heat map of the demo's images.

python benchmarks/picture.py            # after `make demo`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import diffnoise as dn
from diffnoise import demo
from diffnoise.outputs import to_pixels
from diffnoise.report import overlay

DATA = Path("runs/demo/data")
OUTPUT = Path("benchmarks/results/demo.png")
GAP = 4


def main() -> None:
    detector = dn.load(demo.DETECTOR)
    assert detector.calibration is not None
    calibration = detector.calibration
    samples = dn.data.find_samples(DATA, "test")
    # The first test image of every defect and the first good one: chosen by name, not by result.
    first = {sample.defect: sample for sample in reversed(samples)}
    columns = []
    for _, sample in sorted(first.items()):
        image = dn.data.read_image(sample.path, detector.channels)
        (result,) = detector.predict_files([sample.path])
        assert result.anomaly_map is not None and result.reconstruction is not None
        mask = (
            np.zeros(image.shape[1:], bool)
            if sample.mask is None
            else dn.data.read_mask(sample.mask, image.shape[1:], sample.class_mask).numpy()
        )
        heat = overlay(image, result.anomaly_map[0], calibration.pixel_threshold, 0.0, calibration.high)
        rows = [
            _grey(to_pixels(image)),
            _grey(to_pixels(result.reconstruction)),
            heat,
            _grey(mask.astype(np.uint8) * 255),
        ]
        columns.append(_stack(rows, axis=0))
    Image.fromarray(_stack(columns, axis=1)).save(OUTPUT, optimize=True)


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _stack(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis)


if __name__ == "__main__":
    main()
