"""What is listed of a data set: images with what is known of them, and the files in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .image import SUFFIXES


@dataclass(frozen=True)
class Sample:
    """One image file and what is known of it."""

    path: Path
    label: int | None  # 0 good, 1 anomalous, None unknown
    defect: str  # "good", the name of the defect, or "" where unknown
    mask: Path | None
    split: str  # "train", "test" or ""
    class_mask: bool = False  # the mask holds indices of classes, 0 for good, instead of black and white


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def images(folder: Path) -> list[Path]:
    return sorted(filter(is_image, folder.iterdir())) if folder.is_dir() else []


def folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
