"""How many times faster than a peer, and other ratios of one run, beside what the project wants to reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .peers import Peer, classic_simplex, divergence, filters, gaussian, mixture, opensimplex, ranking, steps
from .peers.own import NEW_SEEDS, OURS

Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Where:
    """One row of the results."""

    case: str
    threads: int | None = 1
    isa: str | None = None
    device: str = "cpu"

    def find(self, rows: Rows) -> dict[str, Any] | None:
        """The row; without an instruction set that of the best one."""
        for row in rows:
            here = (row["case"], row["device"], row["threads"]) == (self.case, self.device, self.threads)
            level = not row.get("lowered") if self.isa is None else row["isa"] == self.isa
            if here and level and row["status"] == "timed":
                return row
        return None

    def seconds(self, rows: Rows, name: str = OURS) -> float | None:
        timing = self._timing(rows, name)
        return timing["seconds"]["median"] if timing else None

    def share(self, rows: Rows) -> float | None:
        timing = self._timing(rows, OURS)
        return timing["share_of_limit"] if timing else None

    def _timing(self, rows: Rows, name: str) -> dict[str, Any] | None:
        timings = (self.find(rows) or {"timings": []})["timings"]
        return next((timing for timing in timings if timing["name"] == name and "seconds" in timing), None)


def ratios(rows: Rows) -> list[dict[str, Any]]:
    """Those that the run allows: what, the value and its unit, the goal ("at least" or "at most"), and whether it is met."""
    rows = list(rows)
    return [entry for entry in _all(rows) if entry["value"] is not None]


def _all(rows: Rows) -> Iterator[dict[str, Any]]:
    simplex, gmm = Where("simplex_noise_3d"), Where("gmm_noise")
    against = opensimplex.NOISE_3_ARRAY.name
    yield _faster("simplex 3-D", rows, simplex, against, 30)
    yield _faster("simplex 3-D on AVX2", rows, Where("simplex_noise_3d", isa="avx2"), against, 20)
    yield _faster("simplex 3-D", rows, simplex, classic_simplex.COMPILED.name, 3)
    yield _faster("simplex 4-D", rows, Where("simplex_noise_4d"), opensimplex.NOISE_4_ARRAY.name, 30)
    for case in ("simplex_noise_3d", "simplex_noise_4d", "tsg_noise", "kts_noise", "gmm_noise", "gaussian_noise"):
        value = _ratio(Where(case).seconds(rows), Where(case, threads=2).seconds(rows))
        yield _entry(f"{case}: two threads against one", value, "x", least=1.7)
    value = _ratio(simplex.seconds(rows, NEW_SEEDS), simplex.seconds(rows))
    yield _entry("simplex 3-D: time with new seeds against that with the same", value, "x", most=1.05)
    for peer in (mixture.COMPILED, mixture.EAGER):
        yield _faster("mixture of 10", rows, gmm, peer.name, 3)
    value = _ratio(gmm.seconds(rows), gmm.seconds(rows, mixture.WRITE.name))
    yield _entry("mixture of 10: time against writing the output", value, "x", most=2)
    yield _faster("Gaussian", rows, Where("gaussian_noise"), gaussian.FRESH.name, 4)
    for case in ("simplex_noise_3d", "simplex_noise_4d", "tsg_noise", "kts_noise", "gmm_noise", "gaussian_noise"):
        seconds = Where(f"small_{case}").seconds(rows)
        yield _entry(f"{case}: one 64 x 64 field", seconds and seconds * 1e6, "us", most=30)
    own, ddim, kl = Where("reverse_step_ddpm_noise"), Where("reverse_step_ddim"), Where("kl_map")
    yield _faster("DDPM step with noise", rows, own, steps.DIFFUSERS_DDPM.name, 10)
    yield _faster("DDIM step", rows, ddim, steps.DIFFUSERS_DDIM.name, 7)
    yield _faster("DDIM step", rows, ddim, steps.DDIM[1].name, 1)
    yield _faster("guided DDIM step", rows, Where("reverse_step_guided"), steps.GUIDED[1].name, 1)
    yield _faster("KL map", rows, kl, divergence.EAGER.name, 50)
    yield _faster("KL map", rows, kl, divergence.COMPILED.name, 1.5)
    mean, blur = Where("anomaly_map_mean"), Where("anomaly_map_gaussian")
    yield _faster("mean filter of errors", rows, mean, _fastest(rows, mean, filters.MEAN), 4)
    yield _faster("Gaussian filter of errors", rows, blur, _fastest(rows, blur, filters.GAUSSIAN), 4)
    for threads in (1, 2):
        ranks = Where("interval_counts", threads)
        for peer in (ranking.THEIRS_TOGETHER, ranking.BEST_TOGETHER):
            value = _ratio(ranks.seconds(rows, peer.name), ranks.seconds(rows, ranking.OURS_TOGETHER.name))
            of = f"{threads} thread{'s' if threads > 1 else ''}"
            yield _entry(f"AUROC, AP and AUPRO, {of}, against {peer.name}", value, "x", least=30)
    for case, least in (("simplex_noise_4d", 0.5), ("simplex_noise_3d", 0.5), ("reverse_step_ddpm", 0.8),
                        ("reverse_step_ddpm_noise", 0.8), ("reverse_step_ddim", 0.8), ("kl_map", 0.8)):  # fmt: skip
        share = Where(case, None, device="cuda").share(rows)
        yield _entry(f"{case} on the GPU: share of its limit", share, "", least=least)


def _faster(what: str, rows: Rows, where: Where, peer: str, least: float) -> dict[str, Any]:
    value = _ratio(where.seconds(rows, peer), where.seconds(rows))
    return _entry(f"{what} against {peer}", value, "x", least=least)


def _fastest(rows: Rows, where: Where, peers: Iterable[Peer]) -> str:
    """The name of the fastest of the peers."""
    return min((peer.name for peer in peers), key=lambda name: where.seconds(rows, name) or math.inf)


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator and denominator else None


def _entry(
    what: str, value: float | None, unit: str, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    met = value is not None and (least is None or value >= least) and (most is None or value <= most)
    goal = {"at_least": least} if least is not None else {"at_most": most}
    return {"what": what, "value": value, "unit": unit, **goal, "met": met}
