from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import build_category, spot, texture
from PIL import Image

import diffnoise as dn
from diffnoise.data import find_samples
from diffnoise.outputs import COLUMNS, RunWriter, score_samples, to_pixels


@pytest.fixture
def detector(tiny: Callable[..., dn.Detector]) -> dn.Detector:
    detector = tiny()
    detector.calibrate([torch.from_numpy(texture(i)).float().div(127.5).sub(1)[None] for i in range(4)])
    return detector


def write_run(folder: Path, detector: dn.Detector, samples: list[dn.data.Sample]) -> list[dict[str, str]]:
    with RunWriter(folder, detector, "Test") as writer:
        for scored in score_samples(detector, samples):
            writer.add(scored)
    return read(folder)


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_maps_and_overlays_are_those_of_predict(detector: dn.Detector, category: Path, tmp_path: Path) -> None:
    samples = find_samples(category, "test")
    rows = write_run(tmp_path / "out", detector, samples)
    assert tuple(rows[0]) == COLUMNS
    assert COLUMNS == (
        "image_path",
        "pred_score",
        "pred_label",
        "threshold",
        "gt_label",
        "defect",
        "seed",
        "noise_version",
        "map_path",
        "overlay_path",
        "error",
    )
    assert [row["image_path"] for row in rows] == [str(sample.path) for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        expected = detector.predict(sample.path)
        assert float(row["pred_score"]) == float(expected.pred_score)  # every digit
        assert (
            row["pred_label"] == str(int(expected.pred_label))
            and float(row["threshold"]) == detector.calibration.image_threshold
        )
        assert (
            row["gt_label"] == str(sample.label)
            and row["defect"] == sample.defect
            and row["seed"] == "0"
            and row["noise_version"] == dn.noise.NOISE_VERSION
            and row["error"] == ""
        )
        assert row["map_path"] == f"maps/test/{sample.defect}/{sample.path.stem}.tiff"
        values = tifffile.imread(tmp_path / "out" / row["map_path"])
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected.anomaly_map[0, 0].numpy())
        with Image.open(sample.path) as image, Image.open(tmp_path / "out" / row["overlay_path"]) as overlay:
            assert values.shape == image.size[::-1] and overlay.size == image.size and overlay.mode == "RGB"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Test" in report and all(sample.path.name in report for sample in samples)


def test_images_of_the_same_name_keep_their_own_maps(detector: dn.Detector, tmp_path: Path) -> None:
    for i, name in enumerate(("a/1.png", "b/1.png", "b/1_2.png", "c/1.png", "c/1.bmp")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(i)).save(tmp_path / "in" / name)
    rows = write_run(tmp_path / "out", detector, find_samples(tmp_path / "in"))
    assert len({row["map_path"] for row in rows}) == len({row["overlay_path"] for row in rows}) == 5
    for row in rows:
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "out" / row["map_path"]),
            detector.predict(row["image_path"]).anomaly_map[0, 0].numpy(),
        )


def test_no_name_leaves_the_output_folder(detector: dn.Detector, category: Path, tmp_path: Path) -> None:
    path = next((category / "test" / "good").iterdir())
    sample = dn.data.Sample(path, 1, "../../escaped", None, "../test")
    rows = write_run(tmp_path / "out", detector, [sample])
    assert (tmp_path / "out" / rows[0]["map_path"]).resolve().is_relative_to((tmp_path / "out" / "maps").resolve())
    assert not [p for p in tmp_path.rglob("*escaped*") if (tmp_path / "out") not in p.parents]


def test_masks_of_classes_are_read_as_such(detector: dn.Detector, category: Path) -> None:
    sample = next(sample for sample in find_samples(category, "test") if sample.mask)
    black_and_white = np.asarray(Image.open(sample.mask))
    Image.fromarray((black_and_white // 127).astype(np.uint8)).save(sample.mask)
    (scored,) = score_samples(detector, [dataclasses.replace(sample, class_mask=True)])
    assert scored.mask.tolist() == (black_and_white > 127).tolist() and scored.mask.any()


def test_a_broken_image_or_mask_is_a_row_with_its_error(detector: dn.Detector, category: Path, tmp_path: Path) -> None:
    spots = category / "test" / "spot"
    (spots / "001.png").write_bytes((spots / "001.png").read_bytes()[:-40])
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(category / "ground_truth" / "spot" / "002_mask.png")
    tifffile.imwrite(spots / "003.tiff", np.full((20, 24), np.nan, np.float32))
    (spots / "003.png").unlink()
    rows = write_run(tmp_path, detector, find_samples(category, "test"))
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [False, True, True, True]
    for row, name in zip(rows[5:], ("001.png", "002_mask.png", "003.tiff"), strict=True):
        assert (
            name in row["error"]
            and row["pred_score"] == row["pred_label"] == row["map_path"] == row["overlay_path"] == ""
        )
        assert row["gt_label"] == "1" and row["defect"] == "spot"
    assert len(list(tmp_path.rglob("maps/**/*.tiff"))) == len(list(tmp_path.rglob("overlays/**/*.png"))) == 5
    assert (tmp_path / "report.html").read_text().count("003.tiff") >= 1


def test_an_interrupted_run_keeps_what_it_has(detector: dn.Detector, category: Path, tmp_path: Path) -> None:
    samples = find_samples(category, "test")
    with pytest.raises(KeyboardInterrupt), RunWriter(tmp_path, detector, "Test") as writer:
        for done, scored in enumerate(score_samples(detector, samples)):
            if done == 3:
                raise KeyboardInterrupt
            writer.add(scored)
            assert len(read(tmp_path)) == done + 1  # each row is on disk at once
    rows = read(tmp_path)
    assert [row["image_path"] for row in rows] == [str(sample.path) for sample in samples[:3]]
    assert all((tmp_path / row["map_path"]).is_file() and (tmp_path / row["overlay_path"]).is_file() for row in rows)
    report = (tmp_path / "report.html").read_text()
    assert samples[2].path.name in report


def test_a_run_of_failures_only_still_has_its_report(detector: dn.Detector, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"")
    rows = write_run(tmp_path / "out", detector, find_samples(tmp_path / "in"))
    assert "x.png" in rows[0]["error"] and (tmp_path / "out" / "report.html").is_file()


def test_a_detector_without_thresholds_writes_nothing(tiny: Callable[..., dn.Detector], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="thresholds"):
        RunWriter(tmp_path / "out", tiny(), "Test")
    assert not (tmp_path / "out").exists()


def test_pixels_for_people() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    inside = torch.from_numpy(colour).movedim(-1, 0).float() / 255 * 2 - 1
    np.testing.assert_array_equal(to_pixels(inside), colour)
    np.testing.assert_array_equal(to_pixels(inside[:1]), colour[..., 0])
    np.testing.assert_array_equal(to_pixels(torch.tensor([[[-7.0, 7.0]]])), [[0, 255]])


def test_large_colour_images_and_their_masks(tiny: Callable[..., dn.Detector], tmp_path: Path) -> None:
    """Thumbnails shrink pictures in the report only."""
    data = build_category(tmp_path / "data", good=1, bad=1)
    image, mask = spot(texture(0, 300, 280), 0)
    Image.fromarray(np.stack([image] * 3, -1)).save(data / "test/spot/000.png")
    Image.fromarray(mask).save(data / "ground_truth/spot/000_mask.png")
    config = dn.UNetConfig(
        image_channels=3, channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8
    )
    detector = tiny(model=config)
    detector.calibrate([torch.zeros(3, 20, 20), torch.linspace(-1, 1, 1200).view(3, 20, 20)])
    rows = write_run(tmp_path / "out", detector, find_samples(data, "test"))
    assert [row["error"] for row in rows] == ["", ""]
    assert tifffile.imread(tmp_path / "out" / rows[1]["map_path"]).shape == (300, 280)
    with Image.open(tmp_path / "out" / rows[1]["overlay_path"]) as overlay:
        assert overlay.size == (280, 300)
