from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError
from .image import FORMATS, SUFFIXES

_COLUMNS = ("image_path", "label_index", "split", "mask_path", "defect")
_LABELS = {"": None, "0": 0, "0.0": 0, "1": 1, "1.0": 1}  # pandas writes a column with gaps as floats


@dataclass(frozen=True)
class Sample:
    """One image file and what is known of it."""

    path: Path
    label: int | None  # 0 good, 1 anomalous, None unknown
    defect: str  # "good", the name of the defect, or "" where unknown
    mask: Path | None
    split: str  # "train", "test" or ""


def find_samples(source: str | os.PathLike[str], split: str | None = None) -> list[Sample]:
    """List the images of `source`, sorted by path; `split` ("train" or "test") keeps one side.

    `source` is a category folder in MVTec layout (`train/good`, `test/<defect>` and `ground_truth/<defect>`, with masks
    called `<stem>_mask` or `<stem>`), a folder of images at any depth, one image, or a CSV manifest with the column
    `image_path` and optionally `label_index`, `split`, `mask_path` and `defect`, whose relative paths start at the
    manifest. A manifest gives a split for every row or for none. Without labels, images are good for split="train" and
    unknown otherwise.

    Raises DataError, naming the file, for a missing or empty source, for images and masks that do not pair up by stem,
    and for a bad manifest row; ValueError for another split.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"split must be 'train', 'test' or None, not {split!r}.")
    source = Path(source)
    if source.is_dir():
        is_category = (source / "train").is_dir() or (source / "test").is_dir()
        samples = _category(source, split) if is_category else _unlabelled(_images_below(source), split)
    elif not source.is_file():
        raise DataError(f"{source} does not exist; give a folder of images, an image or a CSV manifest.")
    elif source.suffix.lower() == ".csv":
        samples = _manifest(source, split)
    elif _is_image(source):
        samples = _unlabelled([source], split)
    else:
        raise DataError(f"{source} is neither an image ({', '.join(FORMATS)}) nor a CSV manifest; convert it.")
    return sorted(samples, key=lambda sample: sample.path.as_posix())


def find_categories(source: str | os.PathLike[str]) -> dict[str, Path]:
    """The category folders in MVTec layout that lie in a folder, by name; none where it is a category or holds images itself."""
    return {folder.name: folder for folder in _folders(Path(source)) if (folder / "train" / "good").is_dir()}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _images(folder: Path) -> list[Path]:
    return sorted(filter(_is_image, folder.iterdir())) if folder.is_dir() else []


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_below(root: Path) -> list[Path]:
    for folder in _folders(root):
        if (folder / "train" / "good").is_dir():
            raise DataError(f"{root} holds whole categories; give one of them, such as {folder}.")
    images = [
        path
        for path in root.rglob("*")
        if _is_image(path) and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not images:
        raise DataError(f"{root} holds no images; put {', '.join(FORMATS)} files there.")
    return images


def _unlabelled(images: Iterable[Path], split: str | None) -> list[Sample]:
    label, defect = (0, "good") if split == "train" else (None, "")
    return [Sample(path, label, defect, None, split or "") for path in images]


def _category(root: Path, split: str | None) -> list[Sample]:
    samples = []
    if split == "train" or (split is None and (root / "train").is_dir()):
        samples += _train_side(root)
    if split == "test" or (split is None and (root / "test").is_dir()):
        samples += _test_side(root)
    return samples


def _train_side(root: Path) -> list[Sample]:
    good = root / "train" / "good"
    images = _images(good)
    if not images:
        raise DataError(f"{good} holds no images; put the good training images there as {', '.join(FORMATS)} files.")
    for folder in _folders(root / "train"):
        if folder != good:
            raise DataError(f"{folder} is not train/good; move its images to {root / 'test' / folder.name}.")
    return [Sample(path, 0, "good", None, "train") for path in images]


def _test_side(root: Path) -> list[Sample]:
    test, truth = root / "test", root / "ground_truth"
    folders = _folders(test)
    if loose := _images(test):
        raise DataError(f"{loose[0]} lies in test itself; move it to test/good or to test/<defect>.")
    if not folders:
        raise DataError(f"{test} holds no folders; put the test images in test/good and test/<defect>.")
    for folder in _folders(truth):
        if not (test / folder.name).is_dir() and (masks := _images(folder)):
            raise DataError(f"{masks[0]} belongs to no image, as {test / folder.name} is missing; remove or move it.")
    samples = []
    for folder in folders:
        images = _images(folder)
        if not images:
            raise DataError(f"{folder} holds no images; put {', '.join(FORMATS)} files there or remove it.")
        label = int(folder.name != "good")
        masks = _pair(images, truth / folder.name)
        for path in images:
            mask = masks.get(path.stem)
            if label and mask is None and (truth / folder.name).is_dir():
                expected = truth / folder.name / f"{path.stem}_mask.png"
                raise DataError(f"{path} is anomalous and has no mask; add {expected} or remove the image.")
            samples.append(Sample(path, label, folder.name, mask, "test"))
    return samples


def _pair(images: list[Path], truth: Path) -> dict[str, Path]:
    """The masks in `truth` by the stem of their image."""
    by_stem: dict[str, Path] = {}
    for path in images:
        if path.stem in by_stem:
            raise DataError(f"{path} and {by_stem[path.stem].name} have the same stem; rename one and its mask.")
        by_stem[path.stem] = path
    masks: dict[str, Path] = {}
    for mask in _images(truth):
        stem = mask.stem if mask.stem in by_stem else mask.stem.removesuffix("_mask")
        if stem not in by_stem:
            raise DataError(f"{mask} belongs to no image in {images[0].parent}; remove it or add the image.")
        if stem in masks:
            raise DataError(f"{mask} and {masks[stem].name} are masks of the same image; remove one.")
        masks[stem] = mask
    return masks


def _manifest(manifest: Path, split: str | None) -> list[Sample]:
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "image_path" not in (reader.fieldnames or ()):
                raise DataError(f"{manifest} has no column image_path; name it in the first row.")
            samples = [_row(manifest, reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{manifest} is not a CSV file in UTF-8 ({error}); save it as one.") from error
    seen: set[Path] = set()
    for sample in samples:
        if sample.path in seen:
            raise DataError(f"{manifest} names {sample.path} twice; remove one of the rows.")
        seen.add(sample.path)
    has_splits = any(sample.split for sample in samples)
    if has_splits and not all(sample.split for sample in samples):
        missing = next(sample for sample in samples if not sample.split)
        raise DataError(f"{manifest} gives {missing.path} no split and others one; write train or test in every row.")
    if split is not None and has_splits:
        samples = [sample for sample in samples if sample.split == split]
    if split == "train":
        anomalous = next((sample for sample in samples if sample.label == 1), None)
        if anomalous is not None and has_splits:
            raise DataError(f"{manifest} has the anomalous image {anomalous.path} in train; move it to test.")
        samples = [Sample(s.path, 0, "good", s.mask, "train") for s in samples if s.label != 1]
    if not samples:
        what = {"train": "good training images", "test": "test images", None: "images"}[split]
        raise DataError(f"{manifest} lists no {what}; add rows for them.")
    return samples


def _row(manifest: Path, line: int, row: dict[str, str | None]) -> Sample:
    cells = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    where = f"{manifest}, line {line}"
    image, mask = (manifest.parent / cells[name] if cells[name] else None for name in ("image_path", "mask_path"))
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
