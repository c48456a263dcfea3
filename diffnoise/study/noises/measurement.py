"""The study's measurements, as a dictionary that is ready for JSON."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ... import __version__
from ...noise import KINDS, NOISE_VERSION
from .claims import claims
from .statistics import BIN, REACH, Moments, asymmetry, histogram, radial_power, spectral_slope
from .sweeps import Setting, settings

SMALLEST = 32  # pixels; below there is no range for the spectrum's slope
DEFINITIONS = {
    "values": "all pixels of all images together; deviation, skewness and kurtosis from central moments divided by n, kurtosis of a normal distribution is 3",
    "images": "each image by itself: mean, deviation (n - 1) and root mean square over the images",
    "asymmetry": "sum |p_k - p_-k| / 2 over the histogram's bins, which lie symmetrically about 0; the gaussian noise shows what chance makes",
    "share_within_1": "share of the values in [-1, 1]",
    "histogram": "counts in bins of width `step`, the first around `first`; values beyond +-10 count in the outermost bins",
    "power": "mean over directions and images of |DFT|^2 under a Hann window at 1 / size, 2 / size, ... cycles per pixel; white noise of variance v has v",
    "slope": "exponent of f in the power, fitted between 1/32 and 1/4 cycles per pixel",
}


def run(kinds: Sequence[str], size: int, samples: int, seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """Measure all settings of the given kinds (keys of `diffnoise.noise.KINDS`): everything that the pictures show.

    Numbers are rounded to six digits; NaN becomes None. A setting that its noise refuses has an `error` in place of statistics.
    Raises `ValueError` as `check` does.
    """
    check(kinds, size, samples, seed)
    plan = [(kind, setting) for kind in dict.fromkeys(kinds) for setting in settings(kind)]
    rows = []
    for kind, setting in tqdm(plan, desc="study", unit="setting", disable=not progress, dynamic_ncols=True):
        row: dict[str, Any] = {
            "kind": kind,
            "parameter": setting.parameter,
            "value": setting.value,
            "noise": setting.noise.to_config(),
            "t": [setting.first_t, setting.last_t],
        }
        try:
            row |= measure(setting, size, samples, seed)
        except ValueError as error:
            row["error"] = str(error)
        if setting.parameter != "defaults":
            row.pop("power", None)
        rows.append(_rounded(row))
    return header(kinds, size, samples, seed) | {
        "size": size,
        "channels": 1,
        "samples": samples,
        "seeds": [seed, seed + samples - 1],
        "definitions": DEFINITIONS,
        "claims": claims(rows),
        "settings": rows,
    }


def header(kinds: Sequence[str], size: int, samples: int, seed: int) -> dict[str, Any]:
    """What a study's numbers depend on."""
    return {
        "command": f"diffnoise study --kinds {' '.join(kinds)} --size {size} --samples {samples} --seed {seed}",
        "noise_version": NOISE_VERSION,
        "versions": {"diffnoise": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def check(kinds: Sequence[str], size: int, samples: int, seed: int) -> None:
    """Raise `ValueError` unless a study can be made of these."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"Unknown noise {', '.join(unknown) or 'none'}; choose from {', '.join(KINDS)}.")
    if size < SMALLEST:
        raise ValueError(f"The images must be at least {SMALLEST} pixels wide for their spectrum, not {size}.")
    if samples < 2:
        raise ValueError(f"There must be at least 2 samples for a deviation between images, not {samples}.")
    if not -(2**63) <= seed <= 2**63 - samples:
        raise ValueError(f"The seeds of all samples must fit into 64 bits, but the first is {seed}.")


def measure(setting: Setting, size: int, samples: int, seed: int) -> dict[str, Any]:
    """The statistics of one setting over `samples` images of size x size pixels in one channel.

    values: of all pixels of all images together. images: of each image by itself, as mean, deviation (between images, n - 1) and
    root mean square over the images. One image is in memory at a time. Raises `ValueError` where the noise refuses the setting.
    """
    pooled, counts, power, within = None, np.zeros(2 * REACH + 1, np.int64), np.zeros(size // 2), 0
    names = ("mean", "deviation", "skewness", "kurtosis", "asymmetry", "minimum", "maximum")
    each: dict[str, list[float]] = {name: [] for name in names}
    for i in range(samples):
        image = setting.image(size, seed, i, samples)
        moments, bins = Moments.of(image), histogram(image)
        pooled = moments if pooled is None else pooled + moments
        counts, power = counts + bins, power + radial_power(image)
        within += int((np.abs(image) <= 1).sum())
        for name, values in each.items():
            values.append(asymmetry(bins) if name == "asymmetry" else getattr(moments, name))
    assert pooled is not None
    filled = np.flatnonzero(counts)
    return {
        "values": {"count": pooled.count}
        | {name: getattr(pooled, name) for name in names if name != "asymmetry"}
        | {"asymmetry": asymmetry(counts), "share_within_1": within / pooled.count},
        "images": {name: _over_images(values) for name, values in each.items()},
        "histogram": {
            "first": (int(filled[0]) - REACH) * BIN,
            "step": BIN,
            "counts": counts[filled[0] : filled[-1] + 1].tolist(),
        },
        "slope": spectral_slope(power, size),
        "power": (power / samples).tolist(),
    }


def _over_images(values: list[float]) -> dict[str, float]:
    array = np.array(values)
    return {
        "mean": float(array.mean()),
        "deviation": float(array.std(ddof=1)),
        "rms": float(np.sqrt((array**2).mean())),
    }


def _rounded(value: Any) -> Any:
    """With floats to six digits, and None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def as_json(study: dict[str, Any]) -> str:
    """The study as JSON with one line per setting."""
    rows = ",\n".join(json.dumps(row) for row in study["settings"])
    head = json.dumps({key: value for key, value in study.items() if key != "settings"}, indent=1)
    return f'{head[:-2]},\n "settings": [\n{rows}\n]}}\n'
