from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import DataError
from .image import FORMATS
from .layouts import find_layout, is_category
from .listing import Sample, folders, is_image
from .manifest import manifest_samples


def find_samples(source: str | os.PathLike[str], split: str | None = None) -> list[Sample]:
    """List the images of `source`, sorted by path; `split` ("train" or "test") keeps one side.

    `source` is a category folder, a folder of images at any depth, one image, or a CSV manifest with the column
    `image_path` and optionally `label_index`, `split`, `mask_path` and `defect`, whose relative paths start at the
    manifest. A manifest gives a split for every row or for none. Without labels, images are good for split="train" and
    unknown otherwise. A category folder is recognised by the names of the folders in it:

    - `train/good`, `test/<defect>` and `ground_truth/<defect>`, with masks called `<stem>_mask` or `<stem>` of any suffix: MVTec AD
      (Bergmann et al. 2019);
    - the same with `train/ok`, `test/ok`, `test/ko` and `ground_truth/ko`: BTAD (Mishra et al. 2021);
    - `Data/Images/Normal`, `Data/Images/Anomaly` and `Data/Masks/Anomaly`, split by `../split_csv/1cls.csv`, with masks that hold indices
      of classes: VisA as published (Zou et al. 2022);
    - `no` (good) and `yes` (anomalous) without masks: the BrainMRI set of Kaggle (Chakrabarty 2019). It has no split: a good image
      is for training unless the first byte of its file's SHA-256 is a multiple of 4, which leaves a quarter for testing. Slices of one
      patient can lie on both sides; where that matters, write a manifest.

    Raises DataError, naming the file, for a missing or empty source, for images and masks that do not pair up by stem, for a missing split,
    and for a bad row; ValueError for another split.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"split must be 'train', 'test' or None, not {split!r}.")
    source = Path(source)
    if source.is_dir():
        layout = find_layout(source)
        samples = layout(source, split) if layout else _unlabelled(_images_below(source), split)
    elif not source.is_file():
        raise DataError(f"{source} does not exist; give a folder of images, an image or a CSV manifest.")
    elif source.suffix.lower() == ".csv":
        samples = manifest_samples(source, split)
    elif is_image(source):
        samples = _unlabelled([source], split)
    else:
        raise DataError(f"{source} is neither an image ({', '.join(FORMATS)}) nor a CSV manifest; convert it.")
    return sorted(samples, key=lambda sample: sample.path.as_posix())


def find_categories(source: str | os.PathLike[str]) -> dict[str, Path]:
    """The category folders that lie in a folder, by name, in the layouts of `find_samples`; none where it is a category or holds images itself."""
    source = Path(source)
    if is_category(source):
        return {}
    return {folder.name: folder for folder in folders(source) if is_category(folder)}


def _images_below(root: Path) -> list[Path]:
    for folder in find_categories(root).values():
        raise DataError(f"{root} holds whole categories; give one of them, such as {folder}.")
    images = [
        path
        for path in root.rglob("*")
        if is_image(path) and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not images:
        raise DataError(f"{root} holds no images; put {', '.join(FORMATS)} files there.")
    return images


def _unlabelled(images: Iterable[Path], split: str | None) -> list[Sample]:
    label, defect = (0, "good") if split == "train" else (None, "")
    return [Sample(path, label, defect, None, split or "") for path in images]
