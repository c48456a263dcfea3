"""Cuts the photographs into crops and draws defects on them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

PHOTOGRAPHS = ("brick", "grass", "gravel")
CROP = 128
TRAIN_ROWS = 288  # training crops lie above this row, test crops below it
GOOD, PER_DEFECT = 8, 2  # test crops of each photograph
VISIBLE = 8.0  # least mean change inside a mask, in grey levels

Layer = tuple[np.ndarray, np.ndarray]  # weight [H, W] in [0, 1], replacement [H, W] in grey levels


def _blob(shape: tuple[int, int], radius: float, edge: float, rng: Generator) -> np.ndarray:
    """A wobbly disc whose weight [H, W] falls from 1 to 0 over `edge` pixels."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    dy, dx = y - rng.uniform(radius, height - radius), x - rng.uniform(radius, width - radius)
    angle = np.arctan2(dy, dx)
    wobble = sum(rng.uniform(0, 0.4 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    ramp = np.clip(0.5 + (radius * (1 + wobble) - np.hypot(dy, dx)) / edge, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _stroke(shape: tuple[int, int], length: float, width: float, rng: Generator) -> np.ndarray:
    """An anti-aliased quadratic Bezier curve, weight [H, W]."""
    centre = np.array([rng.uniform(0.3, 0.7) * side for side in shape])
    angle = rng.uniform(0, np.pi)
    along = np.array([np.sin(angle), np.cos(angle)]) * length / 2
    bend = centre + rng.uniform(-0.5, 0.5) * np.array([along[1], -along[0]])
    s = np.linspace(0, 1, 160)[:, None]
    curve = (1 - s) ** 2 * (centre - along) + 2 * s * (1 - s) * bend + s**2 * (centre + along)  # [160, 2]
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(y[..., None] - curve[:, 0], x[..., None] - curve[:, 1]).min(axis=-1)
    return np.clip(width / 2 + 0.5 - distance, 0, 1)


def hole(image: np.ndarray, foreign: np.ndarray, rng: Generator) -> Layer:
    """A small dark spot with a soft rim."""
    return _blob(image.shape, rng.uniform(4, 8), 4, rng), image * rng.uniform(0.15, 0.35)


def patch(image: np.ndarray, foreign: np.ndarray, rng: Generator) -> Layer:
    """An irregular piece of the foreign texture, of the same mean brightness as what it covers."""
    weight = _blob(image.shape, rng.uniform(12, 22), 4, rng)
    inside = weight > 0.5
    return weight, foreign - foreign[inside].mean() + image[inside].mean()


def scratch(image: np.ndarray, foreign: np.ndarray, rng: Generator) -> Layer:
    """A thin curved line, brighter or darker than the image."""
    weight = _stroke(image.shape, rng.uniform(45, 100), rng.uniform(1.2, 2.8), rng)
    return weight, image + 0.7 * (rng.choice([20.0, 235.0]) - image)


def smear(image: np.ndarray, foreign: np.ndarray, rng: Generator) -> Layer:
    """A region blurred along one direction."""
    weight = _blob(image.shape, rng.uniform(14, 24), 6, rng)
    reach, angle = rng.integers(7, 12), rng.uniform(0, np.pi)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    shifted = [
        image[
            np.clip(y + round(k * np.sin(angle)), 0, image.shape[0] - 1),
            np.clip(x + round(k * np.cos(angle)), 0, image.shape[1] - 1),
        ]
        for k in range(-reach, reach + 1)
    ]
    return weight, np.mean(shifted, axis=0)


def stain(image: np.ndarray, foreign: np.ndarray, rng: Generator) -> Layer:
    """A soft spot that multiplies the brightness."""
    factor = rng.choice([rng.uniform(0.7, 0.82), rng.uniform(1.2, 1.32)])
    return _blob(image.shape, rng.uniform(13, 24), 10, rng), image * factor


DEFECTS: dict[str, Callable[[np.ndarray, np.ndarray, Generator], Layer]] = {
    defect.__name__: defect for defect in (hole, patch, scratch, smear, stain)
}


def draw(defect: str, image: np.ndarray, foreign: np.ndarray, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws one defect on `image` and returns the result, uint8 [H, W], and its mask, bool [H, W].

    `image` and `foreign` are uint8 [H, W]. The mask holds the pixels of weight above one half. The defect is redrawn
    until its mean change inside the mask is at least 8 grey levels; ValueError where 100 attempts were too faint.
    """
    base, other = image.astype(np.float64), foreign.astype(np.float64)
    for _ in range(100):
        weight, replacement = DEFECTS[defect](base, other, rng)
        result = np.clip(np.rint(base + weight * (replacement - base)), 0, 255)
        mask = weight > 0.5
        if mask.any() and np.abs(result - base)[mask].mean() >= VISIBLE:
            return result.astype(np.uint8), mask
    raise ValueError(f"A {defect} stays invisible on this image: choose an image with more texture.")


def _crop(photograph: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    return photograph[place[0] : place[0] + CROP, place[1] : place[1] + CROP]


def build(folder: str | Path, seed: int = 0) -> Path:
    """Writes the demo data set, 8-bit grey PNGs in MVTec layout, into `folder` and returns its path.

    Test crops come from other rows of the photographs than training crops; masks are 0 or 255. The same seed writes
    the same files. Raises FileExistsError if `folder` holds anything already.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose a new folder for the demo data.")

    def save(kind: str, stem: str, pixels: np.ndarray) -> None:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{stem}.png")

    rng = np.random.default_rng(seed)
    source = Path(__file__).parent / "photographs"
    photographs = {name: np.asarray(Image.open(source / f"{name}.png")) for name in PHOTOGRAPHS}
    tests = [(y, x) for y in (288, 336, 384) for x in (0, 76, 153, 230, 307, 384)]
    ranks = np.linspace(1, len(tests) - 2, GOOD).round()  # good crops spread evenly over the ranks of brightness

    for name, photograph in photographs.items():
        for y in range(0, TRAIN_ROWS - CROP + 1, 32):
            for x in range(0, photograph.shape[1] - CROP + 1, 32):
                save("train/good", f"{name}_y{y:03}_x{x:03}", _crop(photograph, (y, x)))
        defects = iter(rng.permutation([defect for defect in DEFECTS for _ in range(PER_DEFECT)]))
        brightness = [_crop(photograph, place).mean() for place in tests]
        for rank, index in enumerate(np.argsort(brightness, kind="stable")):
            y, x = tests[index]
            stem, image = f"{name}_y{y:03}_x{x:03}", _crop(photograph, (y, x))
            if rank in ranks:
                save("test/good", stem, image)
                continue
            defect = next(defects)
            foreign = photographs[rng.choice([other for other in PHOTOGRAPHS if other != name])]
            result, mask = draw(defect, image, _crop(foreign, tests[rng.integers(len(tests))]), rng)
            save(f"test/{defect}", stem, result)
            save(f"ground_truth/{defect}", f"{stem}_mask", mask.astype(np.uint8) * 255)
    return folder
