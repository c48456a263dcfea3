"""Samples from CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .errors import DataError
from .listing import Sample

_COLUMNS = ("image_path", "label_index", "split", "mask_path", "defect")
_LABELS = {"": None, "0": 0, "0.0": 0, "1": 1, "1.0": 1}  # pandas writes a column with gaps as floats


def manifest_samples(manifest: Path, split: str | None) -> list[Sample]:
    """The samples of a manifest as `find_samples` documents it."""
    rows = read_rows(manifest, ("image_path",))
    return choose(manifest, [sample_of(where, manifest.parent, row) for where, row in rows], split)


def read_rows(table: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row's place, for messages, and its cells without surrounding blanks; `columns` have to be there."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise DataError(f"{table} has no column {column}; name it in the first row.")
            for row in reader:
                cells = {name: value.strip() for name, value in row.items() if isinstance(value, str)}
                yield f"{table}, line {reader.line_num}", cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} is not a CSV file in UTF-8 ({error}); save it as one.") from error


def sample_of(where: str, folder: Path, row: dict[str, str]) -> Sample:
    """The sample of a manifest's row, whose paths start at `folder`."""
    cells = {name: row.get(name, "") for name in _COLUMNS}
    image, mask = (folder / cells[name] if cells[name] else None for name in ("image_path", "mask_path"))
    if image is None:
        raise DataError(f"{where} has no image_path; fill it in or remove the row.")
    for path in (image, mask):
        if path is not None and not path.is_file():
            raise DataError(f"{where} names {path}, which does not exist; correct the path or remove the row.")
    if cells["label_index"] not in _LABELS:
        raise DataError(f"{where} has the label_index {cells['label_index']!r} for {image}; write 0, 1 or nothing.")
    if cells["split"] not in ("", "train", "test"):
        raise DataError(f"{where} has the split {cells['split']!r} for {image}; write train, test or nothing.")
    label, defect = _LABELS[cells["label_index"]], cells["defect"]
    if label is None and defect:
        label = int(defect != "good")
    if label == 0:
        defect = defect or "good"
    if label is not None and defect and label != int(defect != "good"):
        raise DataError(f"{where} has label_index {label} and defect {defect!r} for {image}; correct one of them.")
    return Sample(image, label, defect, mask, cells["split"])


def choose(table: Path, samples: list[Sample], split: str | None) -> list[Sample]:
    """The rows of one split, after the checks that need all of them."""
    seen: set[Path] = set()
    for sample in samples:
        if sample.path in seen:
            raise DataError(f"{table} names {sample.path} twice; remove one of the rows.")
        seen.add(sample.path)
    has_splits = any(sample.split for sample in samples)
    if has_splits and not all(sample.split for sample in samples):
        missing = next(sample for sample in samples if not sample.split)
        raise DataError(f"{table} gives {missing.path} no split and others one; write train or test in every row.")
    if split is not None and has_splits:
        samples = [sample for sample in samples if sample.split == split]
    if split == "train":
        anomalous = next((sample for sample in samples if sample.label == 1), None)
        if anomalous is not None and has_splits:
            raise DataError(f"{table} has the anomalous image {anomalous.path} in train; move it to test.")
        samples = [replace(s, label=0, defect="good", split="train") for s in samples if s.label != 1]
    if not samples:
        what = {"train": "good training images", "test": "test images", None: "images"}[split]
        raise DataError(f"{table} lists no {what}; add rows for them.")
    return samples
