from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import build_category, python_environment, texture
from PIL import Image
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

import diffnoise as dn
from diffnoise import cli
from diffnoise.checkpoint import load_checkpoint, save_checkpoint

TINY = {
    "model": {"channels": 8, "channel_mult": [1, 2], "norm_groups": 4, "patch_size": 2, "head_channels": 8},
    "framing": {"size": 16},
    "scoring": {"starts": [100], "steps": 2, "filter_size": 3},
    "training": {"max_steps": 6, "max_minutes": None, "batch_size": 4, "calibration_share": 0.3},
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return str(tmp_path / "tiny.json")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code if isinstance(stop.code, int) else 1
    return code, *capsys.readouterr()


def sentence(error: str) -> str:
    """The last line on standard error, which is the program's word."""
    assert "Traceback" not in error
    return error.strip().splitlines()[-1].split("diffnoise: ", 1)[-1]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_train_score_and_eval_as_commands(category: Path, config: str, tmp_path: Path) -> None:
    def diffnoise(*arguments: object) -> dict:
        command = [sys.executable, "-m", "diffnoise", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=python_environment())
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        return json.loads(done.stdout)

    trained = diffnoise("train", category, "--output", tmp_path / "run", "--config", config, "--seed", 3)
    assert trained["steps"] == 6 and trained["good_images_kept_out"] == 3
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "checkpoint.safetensors",
        "detector.safetensors",
        "train.csv",
    }
    assert dn.load(tmp_path / "run").calibration.image_threshold == trained["threshold"]
    metrics = diffnoise("eval", tmp_path / "run", category)
    assert metrics["images"] == 8


def test_score_writes_everything(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = trained
    one = data / "train" / "good" / "000.png"
    code, out, _ = call(capsys, "score", run, data / "test", one, "--output", tmp_path / "out")
    assert code == 0 and "images" in out
    rows = table(tmp_path / "out")
    assert [row["image_path"] for row in rows] == [*map(str, sorted((data / "test").rglob("*.png"))), str(one)]
    assert all(row["error"] == "" for row in rows)
    for row in rows:
        assert (tmp_path / "out" / row["map_path"]).is_file() and (tmp_path / "out" / row["overlay_path"]).is_file()
    assert (tmp_path / "out" / "report.html").is_file()
    code, out, _ = call(capsys, "score", run, data, "--output", tmp_path / "all", "--json")
    expected = {"images": 18, "failed": 0, "output": str(tmp_path / "all"), "noise_version": dn.noise.NOISE_VERSION}
    assert code == 0 and json.loads(out) == expected
    assert len(out.splitlines()) == 1


def test_the_metrics_of_eval_are_those_of_scikit_learn(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = trained
    code, out, _ = call(capsys, "eval", run, data, "--output", tmp_path, "--json")
    assert code == 0 and len(out.splitlines()) == 1
    metrics = json.loads(out)
    rows = table(tmp_path)
    labels, scores = [int(row["gt_label"]) for row in rows], [float(row["pred_score"]) for row in rows]
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    best = max(f1_score(labels, np.array(scores) >= threshold) for threshold in scores)
    assert metrics["image_F1Max"] == pytest.approx(best, abs=1e-12)
    pixels, truth = [], []
    for row in rows:
        values = tifffile.imread(tmp_path / row["map_path"])
        mask = np.zeros(values.shape, bool)
        if row["gt_label"] == "1":
            mask = (
                np.asarray(Image.open(data / "ground_truth" / "spot" / f"{Path(row['image_path']).stem}_mask.png")) > 0
            )
        pixels.append(values.ravel())
        truth.append(mask.ravel())
    pooled, true = np.concatenate(pixels), np.concatenate(truth)
    assert metrics["pixel_AUROC"] == pytest.approx(roc_auc_score(true, pooled), abs=1e-9)
    assert metrics["pixel_AP"] == pytest.approx(average_precision_score(true, pooled), abs=1e-9)
    assert metrics["pixel_AUPRO"] == pytest.approx(aupro_by_hand(pixels, truth), abs=1e-6)
    assert metrics["image_AP"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best = max(f1_score(true, pooled >= threshold) for threshold in np.quantile(pooled, np.linspace(0, 1, 50)))
    assert best <= metrics["pixel_F1Max"] <= 1
    each = [roc_auc_score(t, p) for t, p in zip(truth, pixels, strict=True) if t.any()]
    assert metrics["pixel_AUROC_per_image"] == pytest.approx(np.mean(each), abs=1e-9)
    found = pooled > dn.load(run).calibration.pixel_threshold
    assert metrics["pixel_Dice"] == pytest.approx(f1_score(true, found, zero_division=0), abs=1e-6)
    assert metrics["pixel_BalancedAccuracy"] == pytest.approx(balanced_accuracy_score(true, found), abs=1e-6)
    assert metrics["images"] == 8 and metrics["failed"] == 0 and metrics["fps"] > 0
    report = (tmp_path / "report.html").read_text()
    assert "pixel_AUPRO" in report or "AUPRO" in report
    code, again, _ = call(capsys, "eval", run, data, "--json")
    assert {k: v for k, v in json.loads(again).items() if k != "fps"} == {
        k: v for k, v in metrics.items() if k != "fps"
    }


def test_a_large_set_is_evaluated_in_constant_memory(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = trained
    code, out, _ = call(capsys, "eval", run, data, "--json")
    exact = json.loads(out)
    monkeypatch.setattr("diffnoise.cli.EXACT_PIXELS", 1000)
    code_again, out, err = call(capsys, "eval", run, data, "--json")
    assert code == code_again == 0 and "more than 1000 pixels: the pixel metrics come from a histogram" in err
    found = json.loads(out)
    assert found.keys() == exact.keys()
    for name in ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_Dice", "Dice_sd"):
        assert found[name] == pytest.approx(exact[name], abs=1e-3)


def aupro_by_hand(maps: list[np.ndarray], masks: list[np.ndarray], limit: float = 0.3) -> float:
    """One region per anomalous image; threshold by threshold."""
    good = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    regions = [m[k] for m, k in zip(maps, masks, strict=True) if k.any()]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate(maps))[::-1]:
        curve.append(((good >= threshold).mean(), np.mean([(region >= threshold).mean() for region in regions])))
    x, y = map(np.array, zip(*curve, strict=True))
    inside = x <= limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return float(np.trapezoid(y, x) / limit)


def test_a_bad_file_in_the_middle_costs_only_its_row(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = build_category(tmp_path / "data", train=2)
    spots = data / "test" / "spot"
    (spots / "000.png").write_bytes(b"not an image")
    (spots / "001.png").write_bytes((spots / "001.png").read_bytes()[:-30])
    (spots / "002.png").unlink()
    tifffile.imwrite(spots / "002.tiff", np.full((20, 30), np.nan, np.float32))
    for command, output in (("score", "a"), ("eval", "b")):
        arguments = [data / "test"] if command == "score" else [data]
        code, out, error = call(capsys, command, trained[0], *arguments, "--output", tmp_path / output, "--json")
        assert code == 3 and "Traceback" not in error
        assert json.loads(out)["failed"] == 3 and json.loads(out)["images"] == 8
        rows = table(tmp_path / output)
        assert [bool(row["error"]) for row in rows] == [False] * 4 + [True] * 3 + [False]
        for row in rows:
            assert (Path(row["image_path"]).name in row["error"]) == (row["map_path"] == "")
            assert row["map_path"] == "" or (tmp_path / output / row["map_path"]).is_file()
        assert (tmp_path / output / "report.html").is_file()


def test_only_bad_files_is_a_failure(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"?")
    code, _, _ = call(capsys, "score", trained[0], tmp_path / "in", "--output", tmp_path / "out")
    assert code == 1 and len(table(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "COMMAND"),
        (["fly"], 2, "fly"),
        (["train", "DATA"], 2, "--output"),
        (["train", "DATA", "--output", "RUN", "--image-size", "big"], 2, "big"),
        (["train", "DATA", "--output", "RUN", "--image-size", "0"], 2, "frame size must be at least 1"),
        (["train", "DATA", "--output", "RUN", "--image-size", "30"], 2, "multiple of 4"),
        (["train", "DATA", "--output", "RUN", "--preset", "huge"], 2, "'huge'; choose one of small"),
        (["train", "DATA", "--output", "RUN", "--noise", "perlin"], 2, "'perlin'; choose one of gaussian"),
        (["train", "DATA", "--output", "RUN", "--framing", "stretch"], 2, "stretch"),
        (["train", "DATA", "--output", "RUN", "--augment", "spin"], 2, "'spin'; choose from"),
        (["train", "DATA", "--output", "RUN", "--augment", "rotate"], 2, "rotate=18"),
        (["train", "DATA", "--output", "RUN", "--batch-size", "0"], 2, "batch_size"),
        (["train", "DATA", "--output", "RUN", "--max-minutes", "0"], 2, "max_minutes"),
        (["train", "DATA", "--output", "RUN", "--max-steps", "-1"], 2, "max_steps"),
        (["train", "DATA", "--output", "RUN", "--config", "missing.json"], 2, "missing.json cannot be read"),
        (["train", "DATA", "--output", "RUN", "--config", "wrong.json"], 2, "Unknown key speed in section training"),
        (["train", "missing", "--output", "RUN"], 1, "missing does not exist"),
        (["train", "empty", "--output", "RUN"], 1, "empty holds no images"),
        (["train", "corrupt", "--output", "RUN"], 1, "0.png cannot be read"),
        (["train", "DATA", "--output", "DATA/train/good/000.png/run"], 1, "000.png"),
        (["score", "TRAINED", "missing", "--output", "OUT"], 1, "missing does not exist"),
        (["score", "TRAINED", "empty", "--output", "OUT"], 1, "empty holds no images"),
        (["score", "TRAINED", "DATA", "--output", "DATA/train/good/000.png/out"], 1, "000.png"),
        (["score", "missing", "DATA", "--output", "OUT"], 1, "train a detector first"),
        (["score", "empty", "DATA", "--output", "OUT"], 1, "train a detector first"),
        (["score", "version", "DATA", "--output", "OUT"], 1, "format version 99"),
        (["score", "shape", "DATA", "--output", "OUT"], 1, "size mismatch"),
        (["eval", "TRAINED", "missing"], 1, "missing does not exist"),
        (["eval", "TRAINED", "DATA/train/good"], 1, "labelled images"),
        (["eval", "TRAINED", "unmasked"], 1, "003.png is anomalous and has no mask"),
        (["eval", "TRAINED", "lonely"], 1, "009_mask.png belongs to no image"),
    ],
)
def test_every_error_is_a_sentence_with_its_exit_code(
    trained: tuple[Path, Path], tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run, data = trained
    Path("empty").mkdir()
    Path("corrupt").mkdir()
    Path("corrupt/0.png").write_bytes(b"?")
    Path("wrong.json").write_text('{"training": {"speed": 3}}')
    if "unmasked" in arguments:
        (build_category(Path("unmasked")) / "ground_truth/spot/003_mask.png").unlink()
    if "lonely" in arguments:
        mask = build_category(Path("lonely")) / "ground_truth/spot/003_mask.png"
        mask.with_name("009_mask.png").write_bytes(mask.read_bytes())
    tensors, meta = load_checkpoint(run / "detector.safetensors", "detector")
    for name, change in (("version", {"format_version": 99}), ("shape", {"model": meta["model"] | {"channels": 16}})):
        Path(name).mkdir()
        save_checkpoint(
            Path(name, "detector.safetensors"),
            "detector",
            tensors,
            {k: v for k, v in (meta | change).items() if k != "kind"},
        )
    if arguments[:1] == ["train"] and "--config" not in arguments:
        arguments = [*arguments, "--config", config]
    full = [a.replace("DATA", str(data)).replace("TRAINED", str(run)) for a in arguments]
    given, out, error = call(capsys, *full)
    assert (given, out) == (code, "")
    assert says in sentence(error)
    assert not Path("OUT").exists() and not Path("RUN").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(
    trained: tuple[Path, Path], tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = trained
    for arguments in (
        ["score", run, data, "--output", tmp_path / "o"],
        ["train", data, "--output", tmp_path / "o", "--config", config],
    ):
        code, _, error = call(capsys, *arguments, "--device", "cuda")
        assert code in (1, 2) and "no CUDA device" in sentence(error) and "\n" not in sentence(error)


def test_options_reach_the_detector(
    category: Path, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--framing",
        "tile",
        "--image-size",
        20,
        "--noise",
        "gmm",
        "--augment",
        "hflip,shift=0.1",
        "--batch-size",
        3,
    ]
    options += ["--seed", 5, "--max-steps", 2, "--channels", 3]
    code, out, _ = call(capsys, "train", category, "--output", tmp_path / "run", "--config", config, *options)
    assert code == 0 and "threshold" in out
    detector = dn.load(tmp_path / "run")
    assert (
        detector.framing == dn.Framing(20, "tile")
        and detector.noise == dn.noise.GaussianMixture()
        and detector.channels == 3
    )
    assert detector.scoring.seed == 5 and detector.scoring.starts == (100,)
    training = detector.provenance["training"]
    assert (training["batch_size"], training["seed"], training["max_steps"], training["max_minutes"]) == (3, 5, 2, None)
    assert training["augment"]["hflip"] is True and training["augment"]["shift"] == 0.1


def test_colour_is_found(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good").mkdir()
    for i in range(4):
        pixels = texture(i, 20, 20)
        Image.fromarray(pixels if i < 3 else np.stack([pixels] * 3, -1)).save(tmp_path / "good" / f"{i}.png")
    code, _, _ = call(capsys, "train", tmp_path / "good", "--output", tmp_path / "run", "--config", config)
    assert code == 0 and dn.load(tmp_path / "run").channels == 3


def test_resume_continues_or_refuses(
    category: Path, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", category, "--output", tmp_path / "run", "--config", config, "--json"]
    assert json.loads(call(capsys, *command, "--resume")[1])["steps"] == 6  # nothing there yet: begins
    code, out, _ = call(capsys, *command, "--resume", "--max-steps", 9)
    assert code == 0 and json.loads(out)["steps"] == 9
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    for change, says in ((["--seed", 4], "seed"), (["--noise", "gmm"], "noise"), (["--image-size", 20], "frame size")):
        code, out, error = call(capsys, *command, "--resume", *change)
        assert (code, out) == (1, "") and says in sentence(error) and "another folder" in sentence(error)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 1), (RuntimeError("The machine is tired."), 1)])
def test_an_interrupted_run_keeps_what_it_has(
    trained: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    run, data = trained
    original = dn.Detector.predict_files

    def interrupted(self: dn.Detector, paths: object) -> object:
        for done, result in enumerate(original(self, paths)):
            if done == 3:
                raise error
            yield result

    monkeypatch.setattr(dn.Detector, "predict_files", interrupted)
    for command, output in ((["score", run, data / "test"], tmp_path / "a"), (["eval", run, data], tmp_path / "b")):
        given, out, text = call(capsys, *command, "--output", output, "--json")
        assert (given, out) == (code, "") and "Traceback" not in text
        rows = table(output)
        assert len(rows) == 3 and all((output / row["map_path"]).is_file() for row in rows)
        assert (output / "report.html").is_file()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[:2] == (0, f"diffnoise {dn.__version__}\n")


def test_an_earlier_run_is_replaced_only_when_asked(category: Path, config: str, tmp_path: Path, capsys) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert call(capsys, "train", category, "--output", run, "--config", config)[0] == 0
    assert call(capsys, "score", run, category / "test", "--output", out)[0] == 0
    before = (out / "scores.csv").read_bytes()
    code, _, error = call(capsys, "score", run, category / "train/good", "--output", out)
    assert code == 1 and "earlier run" in sentence(error) and "--overwrite" in sentence(error)
    assert (out / "scores.csv").read_bytes() == before
    assert call(capsys, "score", run, category / "train/good", "--output", out, "--overwrite")[0] == 0
    assert (out / "scores.csv").read_bytes() != before
    code, _, error = call(capsys, "train", category, "--output", run, "--config", config)
    assert code == 1 and "already holds a training" in sentence(error)


def test_resume_refuses_other_images_of_the_same_number(category: Path, config: str, tmp_path: Path, capsys) -> None:
    assert call(capsys, "train", category, "--output", tmp_path / "run", "--config", config)[0] == 0
    first = sorted((category / "train/good").iterdir())[0]
    pixels = np.asarray(Image.open(first))
    Image.fromarray(255 - pixels).save(first)
    code, _, error = call(capsys, "train", category, "--output", tmp_path / "run", "--config", config, "--resume")
    assert code == 1 and "other settings (images)" in sentence(error)
