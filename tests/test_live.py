"""`diffnoise live`: frames from folders and videos, what is drawn and written, and its exit codes."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import spot, texture
from PIL import Image

import diffnoise as dn
from diffnoise import cli, demo
from diffnoise.live.drawing import AMBER, GREEN, RED, draw
from diffnoise.live.frames import Frame
from diffnoise.realtime import RealtimeResult
from diffnoise.report import CONTOUR

Trained = tuple[Path, Path]


def live(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """(exit code, the JSON on standard output, standard error) of `diffnoise live ... --json`."""
    capsys.readouterr()
    code = cli.main(["live", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frames_folder(root: Path, count: int = 3) -> Path:
    root.mkdir()
    for i in range(count):
        image = texture(i, 20, 24)
        Image.fromarray(spot(image, i)[0] if i % 2 else image).save(root / f"{i:03}.png")
    return root


def test_a_folder(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = frames_folder(tmp_path / "frames"), tmp_path / "out"
    code, found, _ = live(capsys, trained[0], folder, "--output", output, "--device", "cpu")
    assert code == 0
    assert (found["images"], found["errors"], found["late"], found["degraded"]) == (3, 0, 0, 0)
    assert found["output"] == str(output) and found["latency_ms"]["p99"] > 0 and found["fps"] > 0
    detector, table = dn.load(trained[0], device="cpu"), rows(output / "results.csv")
    assert [Path(row["frame"]).name for row in table] == ["000.png", "001.png", "002.png"]
    for row in table:
        expected = detector.predict(row["frame"])
        assert float(row["pred_score"]) == float(expected.pred_score)
        assert row["pred_label"] == str(int(expected.pred_label))
        assert float(row["threshold"]) == detector.calibration.image_threshold
        assert (row["level"], row["late"], row["reason"], row["error"]) == ("0", "0", "", "")
        assert float(row["latency_ms"]) > 0
    pictures = sorted((output / "frames").iterdir())
    assert [picture.name for picture in pictures] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    with Image.open(pictures[0]) as picture:
        assert picture.width == 14 * 24  # the least multiple from 320 on
        assert picture.height > 14 * 20  # and the caption


def test_less_effort_and_its_row(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = frames_folder(tmp_path / "frames", 2), tmp_path / "out"
    options = ("--deadline-ms", 1e-6, "--good", trained[1] / "train" / "good", "--output", output, "--device", "cpu")
    code, found, said = live(capsys, trained[0], folder, *options)
    assert code == 0 and found["late"] == found["degraded"] == 2 and found["levels"][-1]["images"] == 2
    assert "from 10 good images" in said
    assert [(row["level"], row["late"], row["steps"], row["calls"]) for row in rows(output / "results.csv")] == [
        ("1", "1", "1", "1")
    ] * 2


def test_a_broken_image_is_a_row_and_a_black_frame(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = frames_folder(tmp_path / "frames", 2), tmp_path / "out"
    (folder / "000.png").write_bytes(b"no image")
    code, found, _ = live(capsys, trained[0], folder, "--output", output)
    assert code == cli.PARTLY and (found["images"], found["errors"]) == (2, 1)
    broken, whole = rows(output / "results.csv")
    assert "cannot be read" in broken["error"] and broken["pred_score"] == "" and broken["pred_label"] == "1"
    assert whole["error"] == "" and len(list((output / "frames").iterdir())) == 2
    (folder / "001.png").write_bytes(b"no image")
    code, found, _ = live(capsys, trained[0], folder)
    assert code == cli.FAILED and found["errors"] == 2 and found["fps"] is None


def test_usage_and_earlier_runs(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = frames_folder(tmp_path / "frames", 1), tmp_path / "out"
    for options in (("--good", folder), ("--deadline-ms", "0")):
        assert live(capsys, trained[0], folder, *options)[0] == cli.USAGE
    assert live(capsys, trained[0], folder, "--output", output)[0] == 0
    code, _, said = live(capsys, trained[0], folder, "--output", output)
    assert code == cli.FAILED and "add --overwrite" in said
    assert live(capsys, trained[0], folder, "--output", output, "--overwrite")[0] == 0
    code, _, said = live(capsys, trained[0], tmp_path / "nowhere")
    assert code == cli.FAILED and "does not exist" in said
    # For people: a line for each figure.
    assert cli.main(["live", str(trained[0]), str(folder)]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {
        "p99_ms",
        "fps",
        "late",
        "errors",
        "anomalous",
    }


# Videos


def video(path: Path, channels: int, count: int = 4) -> list[np.ndarray]:
    """Writes one and returns the frames as OpenCV reads them again, BGR."""
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (32, 24))
    for i in range(count):
        pixels = np.stack([texture(10 * i + c if channels == 3 else i, 24, 32) for c in range(3)], -1)
        writer.write(np.ascontiguousarray(pixels))
    writer.release()
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1])
    assert len(found) == count
    return found


def test_a_video_in_and_out(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = video(tmp_path / "in.avi", 1)
    output = tmp_path / "new" / "out.mp4"
    code, found, _ = live(capsys, trained[0], tmp_path / "in.avi", "--output", output, "--frames", 3, "--device", "cpu")
    assert code == 0 and found["images"] == 3
    detector, table = dn.load(trained[0], device="cpu"), rows(output.with_suffix(".csv"))
    assert [row["frame"] for row in table] == [f"{tmp_path / 'in.avi'}#{i}" for i in range(3)]
    for row, frame in zip(table, pixels, strict=False):
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        assert float(row["pred_score"]) == float(detector.predict(grey).pred_score)
    capture = cv2.VideoCapture(str(output))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5 and capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 320


def test_colours_arrive_in_their_order(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = video(tmp_path / "in.avi", 3, 2)
    model = dn.UNetConfig(
        image_channels=3, channels=8, channel_mult=(1, 2), norm_groups=4, patch_size=2, head_channels=8
    )
    detector = tiny(model=model)
    detector.calibrate([torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1) / 127.5 - 1 for frame in frames])
    detector.save(tmp_path / "run")
    code, _, _ = live(capsys, tmp_path / "run", tmp_path / "in.avi", "--output", tmp_path / "out", "--device", "cpu")
    scores = [float(row["pred_score"]) for row in rows(tmp_path / "out" / "results.csv")]
    assert code == 0 and scores == [float(detector.predict(frame[..., ::-1].copy()).pred_score) for frame in frames]


def test_frames_of_other_sizes_fit_the_first_in_a_video(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = frames_folder(tmp_path / "frames", 2)
    Image.fromarray(texture(5, 30, 17)).save(folder / "002.png")
    assert live(capsys, trained[0], folder, "--output", tmp_path / "out.avi")[0] == 0
    assert cv2.VideoCapture(str(tmp_path / "out.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_without_opencv_the_extra_is_named(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    folder = frames_folder(tmp_path / "frames", 1)
    (tmp_path / "a.mp4").write_bytes(b"film")
    for arguments in ((tmp_path / "a.mp4",), (0,), (folder, "--output", tmp_path / "out.mp4"), (folder, "--window")):
        code, _, said = live(capsys, trained[0], *arguments)
        assert code == cli.FAILED and 'pip install "diffnoise[live]"' in said
    assert live(capsys, trained[0], folder, "--output", tmp_path / "out")[0] == 0


def test_what_is_no_video(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "a.mp4").write_bytes(b"no film")
    code, _, said = live(capsys, trained[0], tmp_path / "a.mp4")
    assert code == cli.FAILED and "gives no frames" in said


def test_the_window_and_its_keys(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = frames_folder(tmp_path / "frames")
    shown: list[np.ndarray] = []
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: ord("q") if len(shown) == 2 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    code, found, _ = live(capsys, trained[0], folder, "--window")
    assert code == 0 and found["images"] == len(shown) == 2

    def no_windows(name: str, picture: np.ndarray) -> None:
        raise cv2.error("The function is not implemented.")

    monkeypatch.setattr(cv2, "imshow", no_windows)
    code, _, said = live(capsys, trained[0], folder, "--window")
    assert code == cli.FAILED and "opens no windows" in said


# Drawing


def test_a_drawn_frame(tiny: Any) -> None:
    detector = tiny()
    detector.calibration = dn.detector.Calibration(((0.0, 1.0),), 1.0, 1.0, 2.0, 9)
    pixels = np.full((400, 400), 64, np.uint8)
    anomaly_map = torch.zeros(1, 400, 400)
    anomaly_map[0, 100:200, 100:200] = 3.0
    bad = RealtimeResult(3.0, True, anomaly_map, anomaly_map > 1, 1.0, 12.3, True, 2, 1, 1, "why", "")
    frame = Frame("a", pixels, 0.0)
    picture = draw(frame, bad, detector, 25.0)
    caption = picture.shape[0] - 400
    assert picture.shape[1:] == (400, 3) and 0 < caption < 100 and tuple(picture[0, 0]) == RED
    below = picture[caption:]
    assert tuple(below[100, 150]) == CONTOUR and (below[:90] == 64).all()
    good = draw(frame, bad._replace(pred_label=False, anomaly_map=anomaly_map * 0), detector, None)
    assert tuple(good[0, 0]) == GREEN and (good[caption:] == 64).all()
    error = draw(frame, bad._replace(pred_score=None, anomaly_map=None, error="why not"), detector, 25.0)
    assert tuple(error[0, 0]) == AMBER and (error[-300:] == 0).all()
    assert not np.array_equal(picture[:caption], draw(frame, bad, detector, 3.0)[:caption])  # the frame rate is there


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(Path(demo.__file__).parent / "photographs" / "brick.png") as photograph:
        crop = np.asarray(photograph)[288:416, 153:281]
    holed, mask = demo.draw("hole", crop, crop, np.random.default_rng(0))
    for name, pixels in (("a_good", crop), ("b_holed", holed)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    run = shutil.copytree(demo.DETECTOR, tmp_path / "run")
    code, found, _ = live(capsys, run, tmp_path, "--output", tmp_path / "out", "--deadline-ms", 60_000)
    assert code == 0 and found["images"] == 2 and found["late"] == 0
    assert [row["pred_label"] for row in rows(tmp_path / "out" / "results.csv")] == ["0", "1"]
    result = dn.RealtimeScorer(dn.load(run))(holed)
    assert mask.ravel()[int(result.anomaly_map.argmax())]
