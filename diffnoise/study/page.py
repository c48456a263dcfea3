"""The study as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import write_atomically
from ..html import template
from .experiments import Experiment
from .identity import plain
from .runner import Study
from .tables import printed

PAGE = "study.html"


@dataclass(frozen=True)
class Section:
    """One experiment on the page."""

    name: str
    title: str
    source: str
    conditions: str = ""
    notes: Sequence[str] = ()
    pictures: Sequence[str] = ()  # data URIs
    columns: Sequence[str] = ()  # parameters
    quantities: dict[str, str] = field(default_factory=dict)
    printed: Sequence[str] = ()  # quantities of which the paper prints something
    records: Sequence[dict[str, Any]] = ()
    claims: Sequence[dict[str, Any]] = ()  # of the noises


def section(experiment: Experiment, records: Sequence[dict[str, Any]], pictures: Iterable[Path]) -> Section:
    published = experiment.published
    return Section(
        experiment.name,
        experiment.title,
        published.source,
        published.conditions,
        (*experiment.notes, *published.notes),
        [_data_uri(path) for path in pictures],
        list(dict.fromkeys(name for record in records for name in record["at"])),
        experiment.quantities,
        printed(experiment, records),
        records,
    )


def noises_section(found: dict[str, Any], pictures: Iterable[Path]) -> Section:
    """The noise study: its pictures, and what the paper claims beside what was measured."""
    failed = [row for row in found["settings"] if "error" in row]
    return Section(
        "noises",
        "What the noises are like",
        "Kumar et al. 2025 (DTU-Net), section 8 and figure 11",
        notes=[
            f"{found['samples']} images of {found['size']} x {found['size']} pixels for each setting, without data. Every criterion is ours.",
            *(f"{row['kind']}, {row['parameter']} {row['value']}: {row['error']}" for row in failed),
        ],
        pictures=[_data_uri(path) for path in pictures],
        claims=found["claims"],
    )


def write(study: Study, sections: Sequence[Section], trainings: dict[str, dict[str, Any]]) -> Path:
    """`study.html` in the study's folder, whole or not at all."""
    minutes = sum(facts["seconds"] for facts in trainings.values()) / 60
    device = study.machine["gpu"]["name"] if study.on_gpu else "the CPU"
    page = template(Path(__file__).with_name("study.html.j2"), number=_number).render(
        data=study.data.resolve().name,
        device=device,
        minutes=minutes,
        trainings=trainings,
        sections=sections,
        facts=_facts(study),
        settings=json.dumps(plain(study.config), indent=1, ensure_ascii=False),
    )
    path = study.output / PAGE
    # surrogates stand for bytes of a file's name that are not UTF-8
    write_atomically(path, page.encode("utf-8", "backslashreplace"))
    return path


def _facts(study: Study) -> dict[str, str]:
    machine, versions = study.machine, study.versions
    anomalous = sum(bool(sample.label) for sample in study.samples)
    changes = [change for change in study.changes if any(change.values())]
    return {
        "data": str(study.data),
        "good training images": f"{len(study.good)}, some of them kept out of the training",
        "test images": f"{len(study.samples)}, {anomalous} of them anomalous"
        + (f" (limited to {study.limit}, spread evenly)" if study.limit else ""),
        "identity of the images": f"{study.train_images} (training), {study.test_images} (test)",
        "preset": study.preset,
        "changes to it": json.dumps(changes) if changes else "none",
        "network calls": f"at most {study.reverse_steps} for an image and noise scale, evenly spaced, where the papers take more",
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['isa']}",
        "GPU": machine["gpu"]["name"] if machine["gpu"] else "none",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
