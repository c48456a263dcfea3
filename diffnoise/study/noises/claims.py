"""What Kumar et al. 2025 (DTU-Net), section 8 and figure 11, say about Tsimplex, next to what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .sweeps import SWEEPS


def claims(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each claim with its figures and whether it holds; none unless Tsimplex is among the rows of `measurement.run`.

    The paper gives no thresholds: every `criterion` is ours.
    """
    found = {(row["parameter"], row["value"]): row for row in rows if row["kind"] == "tsimplex"}
    if not found:
        return []

    def sweep(parameter: str, group: str, name: str) -> dict[float, Any]:
        return {value: found[parameter, value][group][name] for value in SWEEPS[parameter]}

    figure = found["paper", "figure 11d"]
    kurtosis, values = figure["images"]["kurtosis"], figure["values"]
    spread = sweep("persistence", "values", "deviation")
    centre = {value: over["rms"] for value, over in sweep("octaves", "images", "mean").items()}
    uneven = {value: over["mean"] for value, over in sweep("wavelength", "images", "asymmetry").items()}
    return [
        _claim(
            "kurtosis averages around 3 over t = 0..100 (octaves 10, persistence 0.8, wavelength 128)",
            "the mean over the images lies within 0.25 of 3",
            {name: kurtosis[name] for name in ("mean", "deviation")},
            abs(kurtosis["mean"] - 3) <= 0.25,
        ),
        _claim(
            "the histogram lies approximately between -1 and 1 (same parameters)",
            "at least 95 % of the values lie in [-1, 1]",
            {name: values[name] for name in ("share_within_1", "minimum", "maximum")},
            values["share_within_1"] >= 0.95,
        ),
        _claim(
            "a larger persistence widens the range",
            "the deviation of the values rises with every step",
            spread,
            sorted(spread.values()) == list(spread.values()),
        ),
        _claim(
            "6 to 10 octaves keep the centre closer to 0 than fewer",
            "the root mean square of the images' means is smaller for each of 6..10 than for each of 1..5",
            centre,
            max(v for k, v in centre.items() if k >= 6) < min(v for k, v in centre.items() if k < 6),
        ),
        _claim(
            "wavelengths 2^0 to 2^5 make more symmetric noise than longer ones",
            "the images' mean asymmetry is smaller for each of 1..32 than for 64 and 128",
            uneven,
            max(v for k, v in uneven.items() if k <= 32) < min(v for k, v in uneven.items() if k > 32),
        ),
    ]


def _claim(claim: str, criterion: str, measured: dict[Any, float], holds: bool) -> dict[str, Any]:
    named = {str(name): value for name, value in measured.items()}
    return {"claim": claim, "criterion": criterion, "measured": named, "holds": holds}
