import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import roc_auc_score

from diffnoise import demo
from diffnoise.demo.defects import CROP, PHOTOGRAPHS, TRAIN_ROWS

SOURCE = Path(demo.__file__).parent / "photographs"


def read(path):
    return np.asarray(Image.open(path))


def original(path):
    """The untouched crop of the photograph at the place in the file's name."""
    name, y, x = path.stem.split("_")
    y, x = int(y[1:]), int(x[1:])
    return read(SOURCE / f"{name}.png")[y : y + CROP, x : x + CROP]


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return demo.build(tmp_path_factory.mktemp("demo") / "category")


def test_layout(folder):
    assert {p.name for p in folder.iterdir()} == {"train", "test", "ground_truth"}
    assert {p.name for p in (folder / "test").iterdir()} == {"good", *demo.DEFECTS}
    assert {p.name for p in (folder / "ground_truth").iterdir()} == set(demo.DEFECTS)
    for kind, each in {"train/good": 78, "test/good": 8, **{f"test/{d}": 2 for d in demo.DEFECTS}}.items():
        names = [p.name.split("_")[0] for p in (folder / kind).iterdir()]
        assert {name: names.count(name) for name in names} == dict.fromkeys(PHOTOGRAPHS, each)
    for defect in demo.DEFECTS:
        images = {p.stem for p in (folder / "test" / defect).iterdir()}
        assert {p.stem for p in (folder / "ground_truth" / defect).iterdir()} == {f"{stem}_mask" for stem in images}
    for path in folder.rglob("*.png"):
        assert read(path).shape == (CROP, CROP) and read(path).dtype == np.uint8


def test_same_seed_same_bytes(folder, tmp_path):
    assert digests(demo.build(tmp_path / "again")) == digests(folder)
    other = digests(demo.build(tmp_path / "other", seed=1))
    good = {name: digest for name, digest in digests(folder).items() if "good" in name}
    assert good.items() <= other.items() and other != digests(folder)


def test_training_and_test_pixels_are_disjoint(folder):
    rows = {"train": set(), "test": set()}
    for split, used in rows.items():
        for path in (folder / split).rglob("*.png"):
            top = int(path.stem.split("_")[1][1:])
            used.update(range(top, top + CROP))
            if path.parent.name == "good":
                np.testing.assert_array_equal(read(path), original(path))
    assert max(rows["train"]) < TRAIN_ROWS <= min(rows["test"])


@pytest.mark.parametrize("defect", demo.DEFECTS)
def test_masks_match_the_changed_pixels(folder, defect):
    for path in (folder / "test" / defect).iterdir():
        mask = read(folder / "ground_truth" / defect / f"{path.stem}_mask.png")
        change = np.abs(read(path).astype(int) - original(path))
        assert set(np.unique(mask)) == {0, 255}
        assert change[mask == 255].mean() >= 8
        assert change[distance_transform_edt(mask == 0) > 6].max() == 0


def test_brightness_does_not_separate(folder):
    paths = list((folder / "test").rglob("*.png"))
    labels = [path.parent.name != "good" for path in paths]
    assert roc_auc_score(labels, [read(path).mean() for path in paths]) == pytest.approx(0.5, abs=0.06)


def test_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        demo.build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_refuses_a_defect_that_cannot_be_seen():
    flat = np.full((CROP, CROP), 100, np.uint8)
    with pytest.raises(ValueError, match="invisible"):
        demo.draw("smear", flat, flat, np.random.default_rng(0))
