"""Category folders as the published data sets lay them out, recognised by the names of their folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .errors import DataError
from .image import FORMATS
from .listing import Sample, folders, images
from .manifest import choose, read_rows, sample_of

Layout = Callable[[Path, str | None], list[Sample]]

_GOOD = ("good", "ok")  # MVTec's and BTAD's name of the folders of good images
_VISA_DEFECTS = {"normal": "good", "anomaly": "anomaly"}


def find_layout(folder: Path) -> Layout | None:
    """What lists the category in a folder; None where the folder is no category."""
    if (folder / "Data" / "Images").is_dir():
        return visa_samples
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return split_samples
    if (folder / "yes").is_dir() and (folder / "no").is_dir():
        return yes_no_samples
    return None


def is_category(folder: Path) -> bool:
    """Whether a folder that may be anything holds a whole category to train on."""
    return find_layout(folder) not in (None, split_samples) or any((folder / "train" / name).is_dir() for name in _GOOD)


def split_samples(root: Path, split: str | None) -> list[Sample]:
    """`train/good`, `test/<defect>`, `ground_truth/<defect>`; or BTAD's `ok` in place of `good`."""
    names = [name for name in _GOOD if (root / "train" / name).is_dir() or (root / "test" / name).is_dir()]
    if len(names) == 2:
        raise DataError(f"{root} has folders of good images called good and others called ok; use one name.")
    good = names[0] if names else "good"
    samples = []
    if split == "train" or (split is None and (root / "train").is_dir()):
        samples += _train_side(root, good)
    if split == "test" or (split is None and (root / "test").is_dir()):
        samples += _test_side(root, good)
    return samples


def _train_side(root: Path, name: str) -> list[Sample]:
    good = root / "train" / name
    paths = images(good)
    if not paths:
        raise DataError(f"{good} holds no images; put the good training images there as {', '.join(FORMATS)} files.")
    for folder in folders(root / "train"):
        if folder != good:
            raise DataError(f"{folder} is not train/{name}; move its images to {root / 'test' / folder.name}.")
    return [Sample(path, 0, "good", None, "train") for path in paths]


def _test_side(root: Path, good: str) -> list[Sample]:
    test, truth = root / "test", root / "ground_truth"
    inner = folders(test)
    if loose := images(test):
        raise DataError(f"{loose[0]} lies in test itself; move it to test/{good} or to test/<defect>.")
    if not inner:
        raise DataError(f"{test} holds no folders; put the test images in test/{good} and test/<defect>.")
    for folder in folders(truth):
        if not (test / folder.name).is_dir() and (masks := images(folder)):
            raise DataError(f"{masks[0]} belongs to no image, as {test / folder.name} is missing; remove or move it.")
    samples = []
    for folder in inner:
        paths = images(folder)
        if not paths:
            raise DataError(f"{folder} holds no images; put {', '.join(FORMATS)} files there or remove it.")
        defect = "good" if folder.name == good else folder.name
        label = int(defect != "good")
        by_stem = _pair(paths, truth / folder.name)
        for path in paths:
            mask = by_stem.get(path.stem)
            if label and mask is None and (truth / folder.name).is_dir():
                expected = truth / folder.name / f"{path.stem}_mask.png"
                raise DataError(f"{path} is anomalous and has no mask; add {expected} or remove the image.")
            samples.append(Sample(path, label, defect, mask, "test"))
    return samples


def _pair(paths: list[Path], truth: Path) -> dict[str, Path]:
    """The masks in `truth` by the stem of their image."""
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise DataError(f"{path} and {by_stem[path.stem].name} have the same stem; rename one and its mask.")
        by_stem[path.stem] = path
    masks: dict[str, Path] = {}
    for mask in images(truth):
        stem = mask.stem if mask.stem in by_stem else mask.stem.removesuffix("_mask")
        if stem not in by_stem:
            raise DataError(f"{mask} belongs to no image in {paths[0].parent}; remove it or add the image.")
        if stem in masks:
            raise DataError(f"{mask} and {masks[stem].name} are masks of the same image; remove one.")
        masks[stem] = mask
    return masks


def visa_samples(root: Path, split: str | None) -> list[Sample]:
    """VisA's `Data/Images` and `Data/Masks`, split by `split_csv/1cls.csv` beside the category."""
    root = Path(os.path.abspath(root))
    table = root.parent / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise DataError(f"{root} is a category of VisA, whose split {table} is missing; take it from VisA's archive.")
    samples = []
    for where, row in read_rows(table, ("object", "split", "label", "image", "mask")):
        if row["object"] != root.name:
            continue
        if row["label"] not in _VISA_DEFECTS:
            raise DataError(f"{where} has the label {row['label']!r}; write normal or anomaly.")
        cells = {"image_path": row["image"], "mask_path": row["mask"], "split": row["split"]}
        sample = sample_of(where, root.parent, cells | {"defect": _VISA_DEFECTS[row["label"]]})
        samples.append(replace(sample, class_mask=True))
    if not samples:
        raise DataError(f"{table} has no rows of the object {root.name}; call the folder as its column object does.")
    return choose(table, samples, split)


def yes_no_samples(root: Path, split: str | None) -> list[Sample]:
    """`no` holds good images, of which three quarters are for training, `yes` anomalous ones."""
    samples = [Sample(path, 0, "good", None, _side(path)) for path in images(root / "no")]
    samples += [Sample(path, 1, "yes", None, "test") for path in images(root / "yes")]
    if split is not None:
        samples = [sample for sample in samples if sample.split == split]
    if not samples:
        raise DataError(
            f"{root} gives no images to split {split or 'train or test'}; add images, or write a CSV manifest."
        )
    return samples


def _side(path: Path) -> str:
    """The side of the split that an image is on, the same for copies of it and whatever else the folder holds."""
    return "train" if hashlib.sha256(path.read_bytes()).digest()[0] % 4 else "test"
