"""The papers' tables on data: each figure against an evaluation of its own, what is shared, what survives a kill, what is written."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_category
from PIL import Image
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity
from sklearn.metrics import average_precision_score, roc_auc_score

import diffnoise as dn
from diffnoise import cli
from diffnoise.data import find_samples, read_image, read_mask
from diffnoise.methods import PRESETS
from diffnoise.noise import NOISE_VERSION
from diffnoise.study import EXPERIMENTS, Cell, Row, Study, measures, run
from diffnoise.study.experiments import FUCKA
from diffnoise.study.identity import fingerprint, identity, plain
from diffnoise.study.ledger import Ledger
from diffnoise.study.paper_figures import PUBLISHED

NETWORK = {"channels": 8, "channel_mult": [1, 2], "norm_groups": 4, "patch_size": 2, "head_channels": 8}
TINY = {
    "model": NETWORK,
    "framing": {"size": 16},
    "scoring": {"starts": [50], "samples": 1},
    "features": {"backbone": "test_resnet", "weights": "random", "layers": [1, 2]},
    "training": {"max_steps": 1, "warmup": 1, "precision": "fp32", "batch_size": 4},
}
HOSTILE = '<img src=x onerror="alert(1)">&amp;'


def quiet(text: str) -> None:
    pass


def tiny_study(data: Path, output: Path, **settings: object) -> Study:
    return Study(data, output, changes=[TINY], reverse_steps=2, device="cpu", **settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_category(tmp_path_factory.mktemp("data") / HOSTILE, train=24, good=2, bad=3)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, dict]]:
    """(folder, exit code, standard output) of all experiments through the command line. Read only."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    with pytest.MonkeyPatch.context() as patch:
        for name in PRESETS:
            patch.setitem(PRESETS, name, {part: TINY[part] for part in ("model", "framing", "scoring")})
        patch.setattr("diffnoise.study.plots.PANELS", 1)  # drawing is slow
        shown: list[str] = []
        patch.setattr("builtins.print", lambda *texts, file=None, **_: shown.append(texts[0]) if file is None else None)
        code = cli.main(
            ["study", str(data), "--output", str(folder / "out"), "--config", str(folder / "tiny.json"), "--device", "cpu",
             "--reverse-steps", "2", "--kinds", "gaussian", "--size", "32", "--samples", "2", "--json"]
        )  # fmt: skip
    [line] = shown
    yield folder / "out", code, json.loads(line)


def results(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"{name}.json").read_text(), parse_constant=pytest.fail)["rows"]


# The whole.


def test_every_cell_has_a_figure_or_says_why_not(whole):
    folder, code, shown = whole
    left_out = 0
    for name, experiment in EXPERIMENTS.items():
        rows = results(folder, name)
        assert [row["at"] for row in rows][: len(experiment.cells)] == [cell.at for cell in experiment.cells]
        for row in rows[: len(experiment.cells)]:
            if "ms_ssim" in str(row["at"]):  # needs images of 161 pixels
                assert "161" in row["left_out"] and set(row["values"].values()) == {None} and row["error"] == ""
                left_out += 1
            else:
                assert row["error"] == row["left_out"] == "" and set(row["values"]) == set(experiment.quantities)
                assert all(value is not None and math.isfinite(value) for value in row["values"].values())
                assert (row["training"] is None) == (name in ("forward", "time"))
    assert code == 0 and left_out == 4
    cells = sum(len(experiment.cells) for experiment in EXPERIMENTS.values())
    page = str(folder / "study.html")
    assert shown == {
        "settings": cells + 1, "failed": 0, "output": str(folder), "page": page, "noise_version": NOISE_VERSION,
    }  # fmt: skip


def test_trainings_are_shared(whole):
    """One for each noise, the dynamic steps' own, and one for each loss but l2, which is that of the noise."""
    folder, *_ = whole
    finished = {path.parent.name for path in (folder / "trainings").glob("*/detector.safetensors")}
    kinds = [name.split("-")[0] for name in finished]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "gaussian": 2, "simplex": 1, "gmm": 1, "tsimplex": 6, "tsg": 1, "kts": 1,
    }  # fmt: skip
    used = {row["training"] for name in EXPERIMENTS for row in results(folder, name) if not row["error"]}
    assert used - {None} == finished


def test_tables_and_pictures_are_written(whole):
    folder, *_ = whole
    for name, experiment in EXPERIMENTS.items():
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        rows = results(folder, name)
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            assert [line[key] for key in row["at"]] == [str(value) for value in row["at"].values()]
            for key in experiment.quantities:
                value = row["values"][key]
                assert line[key] == ("" if value is None else str(value))
                if key in row["paper"]:
                    assert float(line[f"paper: {key}"]) == row["paper"][key]
            assert line["error"] == row["error"]
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 200 and len(picture.convert("RGB").getcolors(1 << 24)) > 5
    assert (folder / "forward_pictures.png").is_file() and (folder / "noises" / "study.json").is_file()


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text: str) -> None:
        self.texts.append(text.strip())


def test_the_page_needs_nothing_else_and_escapes(whole):
    folder, *_ = whole
    text = (folder / "study.html").read_text(encoding="utf-8")
    page = Page(text)
    assert f"The papers' tables on {HOSTILE}" in page.texts  # as text, not as a tag
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe"} == set()
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == len(EXPERIMENTS) + 1 + 2  # one for each, the forward process, two of the noises
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    said = " ".join(page.texts)
    for sentence in (
        "do not reproduce the papers",
        "Precision and Recall are probably swapped",
        f"noise {NOISE_VERSION}",
    ):
        assert sentence in said
    for name, experiment in EXPERIMENTS.items():
        assert experiment.title in page.texts and any(attributes.get("id") == name for _, attributes in page.tags)


def test_a_second_call_measures_nothing(whole, data, monkeypatch):
    folder, *_ = whole
    for name, measure in measures.MEASURES.items():
        monkeypatch.setitem(measures.MEASURES, name, measure._replace(function=lambda *_, **__: pytest.fail("again")))
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, {part: TINY[part] for part in ("model", "framing", "scoring")})
    before = (folder / "measurements.jsonl").read_bytes()
    chosen = [experiment for name, experiment in EXPERIMENTS.items() if name != "losses"]
    rows, trainings = run(tiny_study(data, folder), chosen, quiet)
    assert (folder / "measurements.jsonl").read_bytes() == before
    for experiment in chosen:
        for row, written in zip(rows[experiment.name], results(folder, experiment.name), strict=False):
            assert {name: row.values[name] for name in experiment.quantities} == written["values"]
    assert all(facts["steps"] == 1 == facts["training"]["max_steps"] for facts in trainings.values())


# The figures.


def test_detection_is_that_of_the_detector_itself(whole, data):
    """Loaded, calibrated and scored through the public way, its metrics taken by scikit-learn."""
    folder, *_ = whole
    samples = find_samples(data, "test")
    good = [read_image(sample.path, 1) for sample in find_samples(data, "train")][:5]
    for name, at in (
        ("noise-steps", {"noise": "simplex", "T'": 50}),
        ("filter-size", {"noise": "gmm", "filter": 17}),
        ("omega", {"omega": 0.3}),
    ):
        [row] = [row for row in results(folder, name) if row["at"] == at]
        [cell] = [cell for cell in EXPERIMENTS[name].cells if cell.at == at]
        detector = dn.load(folder / "trainings" / row["training"], device="cpu")
        wanted = EXPERIMENTS[name].base | cell.scoring
        detector.scoring = dn.Scoring(**wanted | {"steps": 2})
        detector.calibrate(good)
        found = list(detector.predict_files([sample.path for sample in samples]))
        labels = [sample.label for sample in samples]
        masks = [
            np.zeros(each.anomaly_map.shape[1:], bool) if sample.mask is None else read_mask(sample.mask, each.anomaly_map.shape[1:]).numpy()
            for sample, each in zip(samples, found, strict=True)
        ]  # fmt: skip
        pixels = np.concatenate([each.anomaly_map.numpy().ravel() for each in found])
        truth = np.concatenate([mask.ravel() for mask in masks])
        assert row["values"]["image_AUROC"] == pytest.approx(roc_auc_score(labels, [each.pred_score for each in found]))
        assert row["values"]["pixel_AUROC"] == pytest.approx(roc_auc_score(truth, pixels), abs=1e-4)
        assert row["values"]["pixel_AP"] == pytest.approx(average_precision_score(truth, pixels), abs=1e-3)


def test_segmentation_is_counted_from_the_masks(whole, data):
    folder, *_ = whole
    samples = find_samples(data, "test")
    for kind, largest in (("squared", 4), ("absolute", 2)):
        [row] = [row for row in results(folder, "losses") if row["at"] == {"loss": "l1", "map": kind}]
        detector = dn.load(folder / "trainings" / row["training"], device="cpu")
        assert detector.provenance["training"]["loss"] == "l1"
        base = EXPERIMENTS["losses"].base
        detector.scoring = dn.Scoring(**base | {"starts": [200], "steps": 2, "map": kind, "normalization": "none"})
        detector.calibrate([read_image(samples[0].path, 1)])
        found = {name: [] for name in ("Dice", "IoU", "precision", "recall", "pixel_AUROC_per_image")}
        confidences, truths = [], []
        for sample, each in zip(samples, detector.predict_files([s.path for s in samples]), strict=True):
            values = each.anomaly_map[0].numpy().astype(np.float64)
            mask = np.zeros(values.shape, bool) if sample.mask is None else read_mask(sample.mask, values.shape).numpy()
            confidences.append(values.ravel() / largest)
            truths.append(mask.ravel())
            if not sample.label:
                continue
            guess = values > threshold_otsu(values)
            tp, fp, fn = (guess & mask).sum(), (guess & ~mask).sum(), (~guess & mask).sum()
            found["Dice"].append(2 * tp / (2 * tp + fp + fn))
            found["IoU"].append(tp / (tp + fp + fn))
            found["precision"].append(tp / (tp + fp))
            found["recall"].append(tp / (tp + fn))
            found["pixel_AUROC_per_image"].append(roc_auc_score(mask.ravel(), values.ravel()))
        for name, values in found.items():
            assert row["values"][name] == pytest.approx(np.mean(values), abs=0.01), name
        assert row["values"]["Dice_sd"] == pytest.approx(np.std(found["Dice"]), abs=0.01)
        confidence, truth = np.concatenate(confidences), np.concatenate(truths)
        bins = np.minimum((confidence * 10).astype(int), 9)
        gaps = [abs((truth[bins == b] - confidence[bins == b]).sum()) for b in range(10)]
        assert row["values"]["ECE"] == pytest.approx(sum(gaps) / len(truth), abs=1e-4)
        assert row["values"]["pixel_AUROC"] == pytest.approx(roc_auc_score(truth, confidence), abs=1e-4)


def test_similarity_is_that_of_scikit_image(whole, data):
    folder, *_ = whole
    samples = find_samples(data, "test")
    [row] = [r for r in results(folder, "ssim-steps") if r["at"] == {"noise": "kts", "T'": 100}]
    detector = dn.load(folder / "trainings" / row["training"], device="cpu")
    detector.scoring = dn.Scoring(**EXPERIMENTS["ssim-steps"].base | {"starts": [100], "steps": 2})
    detector.calibrate([read_image(samples[0].path, 1)])
    found = []
    for sample in samples:
        [frame] = detector.framing.split(read_image(sample.path, 1))[0]
        made = detector.predict((frame + 1) / 2).reconstruction[0, 0].double().numpy()
        wanted = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2}
        _, full = structural_similarity(frame[0].double().numpy(), made, full=True, **wanted)
        found.append(full[5:-5, 5:-5].mean())  # scikit-image pads by reflection
    labels = np.array([sample.label for sample in samples])
    assert row["values"]["SSIM"] == pytest.approx(np.mean(found), abs=1e-4)
    assert row["values"]["SSIM_good"] == pytest.approx(np.mean(np.array(found)[labels == 0]), abs=1e-4)
    assert row["values"]["SSIM_anomalous"] == pytest.approx(np.mean(np.array(found)[labels == 1]), abs=1e-4)


def test_the_forward_process_is_that_of_the_schedule(whole, data):
    folder, *_ = whole
    frames = [dn.Framing(16).split(read_image(s.path, 1))[0][0] for s in find_samples(data, "test")]
    size = math.sqrt(torch.stack(frames).square().mean())
    alpha_bars = np.cumprod(1 - np.linspace(1e-4, 1e-2, 1000))
    for row in results(folder, "forward"):
        alpha_bar, values = alpha_bars[row["at"]["T'"] - 1], row["values"]
        assert values["signal"] == pytest.approx(math.sqrt(alpha_bar), rel=1e-9)
        if row["at"]["process"] == "scaling":
            assert values["noise"] == 0 and values["correlation"] == pytest.approx(1, abs=1e-5)
            assert values["rms"] == pytest.approx((1 - math.sqrt(alpha_bar)) * size, rel=1e-4)
        else:
            assert values["noise"] == pytest.approx(math.sqrt(1 - alpha_bar), rel=1e-9)
            expected = (1 - math.sqrt(alpha_bar)) ** 2 * size**2 + (1 - alpha_bar)
            assert values["rms"] == pytest.approx(math.sqrt(expected), rel=0.1)  # 1536 values of noise


def test_time_counts_network_calls(whole):
    folder, *_ = whole
    rows = {row["at"]["settings"]: row for row in results(folder, "time")}
    assert set(PRESETS) <= set(rows)
    values = rows["this study"]["values"]
    assert values["fps"] == pytest.approx(1 / values["seconds"]) and values["pixels"] == 16
    assert (values["calls"], values["preset_calls"]) == (1, 1)
    model = dn.UNet(dn.UNetConfig(**{**NETWORK, "channel_mult": (1, 2)}))
    assert values["million_parameters"] == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6)
    assert rows["paper: dynamic noise (theirs)"]["paper"] == {"seconds": 0.34, "fps": 2.9}


def test_the_limit_of_network_calls_is_reported(data, tmp_path):
    changes = TINY | {"scoring": {"starts": [50, 7], "steps": 20, "samples": 3}}
    experiment = replace(EXPERIMENTS["time"], cells=EXPERIMENTS["time"].cells[:1])
    study = Study(data, tmp_path, changes=[changes], reverse_steps=10, device="cpu", limit=2)
    [row] = run(study, [experiment], quiet)[0]["time"]
    assert (row.values["calls"], row.values["preset_calls"]) == (3 * (10 + 7), 3 * (20 + 7))
    ratio = row.values["preset_seconds"] / row.values["seconds"]
    assert ratio == pytest.approx(81 / 51)


# The papers.


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_published_figures_stand_where_cells_are(name):
    experiment, published = EXPERIMENTS[name], PUBLISHED[name]
    places = [cell.at for cell in experiment.cells]
    for at, values in published.rows:
        assert at in places or name == "time"
        assert set(values) <= set(experiment.quantities)
        assert all(0 <= value <= 1 for value in values.values()) or name == "time"
    assert len({str(at) for at, _ in published.rows}) == len(published.rows)


def test_tables_of_the_noise_study_as_printed():
    """The text of tables 3 and 4."""
    steps = {"gaussian": "87.2 90.8 93.0 90.1", "simplex": "81.7 82.4 83.5 82.8", "gmm": "89.0 89.1 90.4 89.6"}
    sizes = {"gaussian": "80.8 90.3 93.0 92.8", "simplex": "80.3 81.5 83.5 82.8", "gmm": "89.8 90.4 90.2 89.9"}
    for name, column, values, table in (
        ("noise-steps", "T'", (10, 50, 200, 500), steps),
        ("filter-size", "filter", (1, 5, 11, 17), sizes),
    ):
        for kind, line in table.items():
            for value, figure in zip(values, line.split(), strict=True):
                found = PUBLISHED[name].at({"noise": kind, column: value})["image_AUROC"]
                assert found == pytest.approx(float(figure) / 100, abs=1e-12)


def test_the_columns_that_the_paper_swapped_can_be_true():
    """A mask's AUC is (recall + true negative rate) / 2: with the printed columns three rows are impossible, as shown here none is."""
    rows = [(at, values) for at, values in PUBLISHED["losses"].rows if "pixel_AUROC_per_image" in values]
    as_shown = [at["loss"] for at, v in rows if v["pixel_AUROC_per_image"] > (v["recall"] + 1) / 2]
    as_printed = [at["loss"] for at, v in rows if v["pixel_AUROC_per_image"] > (v["precision"] + 1) / 2]
    assert as_shown == [] and as_printed == ["ms_ssim", "l2+vlb+ssim", "l2+vlb+ms_ssim"]


# What is shared and what survives.


def small(name: str, *chosen: int) -> object:
    cells = EXPERIMENTS[name].cells
    return replace(EXPERIMENTS[name], cells=tuple(cells[i] for i in chosen))


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The trainings of which a denoising was made, in order."""
    made: list[str] = []
    denoise = measures.denoise

    def counting(detector, samples):
        made.append(detector.noise.kind)
        return denoise(detector, samples)

    monkeypatch.setattr(measures, "denoise", counting)
    return made


def test_filters_share_one_denoising(data, tmp_path, counted):
    """All four sizes and the same cell of the other table; the larger filter is that of SciPy on the errors of the smallest."""
    experiments = [small("noise-steps", 2), small("filter-size", 0, 1, 2, 3)]
    rows, _ = run(tiny_study(data, tmp_path), experiments, quiet)
    assert counted == ["gaussian"]
    assert rows["noise-steps"][0].values == rows["filter-size"][2].values
    assert len({row.values["pixel_AUROC"] for row in rows["filter-size"]}) == 4


def test_a_killed_study_goes_on(data, tmp_path, monkeypatch):
    experiment, done = small("omega", 0, 5, 10), []
    detection = measures.MEASURES["detection"]

    def killed(subject):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(subject.config.scoring.omega)
        return detection.function(subject)

    monkeypatch.setitem(measures.MEASURES, "detection", detection._replace(function=killed))
    with pytest.raises(KeyboardInterrupt):
        run(tiny_study(data, tmp_path), [experiment], quiet)
    assert done == [0.0, 0.5]
    path = tmp_path / "measurements.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-9])  # the last line was being written
    monkeypatch.setitem(measures.MEASURES, "detection", detection)
    trained = next((tmp_path / "trainings").glob("*/detector.safetensors")).stat().st_mtime_ns
    rows, _ = run(tiny_study(data, tmp_path), [experiment], quiet)
    assert [row.at["omega"] for row in rows["omega"]] == [0.0, 0.5, 1.0]
    again = path.read_bytes()
    assert again.startswith(content[:-9] + b"\n") and again.count(b"\n") == content.count(b"\n") + 2
    assert next((tmp_path / "trainings").glob("*/detector.safetensors")).stat().st_mtime_ns == trained
    cut = json.loads(content.splitlines()[-1])
    assert json.loads(again.splitlines()[-2])["values"] == cut["values"]
    run(tiny_study(data, tmp_path), [experiment], quiet)
    assert path.read_bytes() == again


def test_a_cell_that_fails_does_not_stop_the_others(data, tmp_path, capsys):
    changes = TINY | {"training": TINY["training"] | {"t_max": 60}}
    study = Study(data, tmp_path, changes=[changes], reverse_steps=2, device="cpu")
    cells = (
        *EXPERIMENTS["noise-steps"].cells[:3],
        Cell({"noise": "perlin", "T'": 1}, "detection", {"noise": {"kind": "perlin"}}),
    )
    log: list[str] = []
    rows = run(study, [replace(EXPERIMENTS["noise-steps"], cells=cells)], log.append)[0]["noise-steps"]
    assert [bool(row.error) for row in rows] == [False, False, True, True]
    assert "trained for noise scales up to 60" in rows[2].error and "Unknown noise 'perlin'" in rows[3].error
    assert sum("up to 60" in line for line in log) == 1
    assert rows[0].values["image_AUROC"] is not None and rows[3].values == {}


def test_a_training_that_fails_is_tried_once(data, tmp_path, monkeypatch):
    calls = []

    def diverges(self, *_, **__):
        calls.append(self)
        raise RuntimeError("The loss is nan.")

    monkeypatch.setattr(dn.Detector, "fit", diverges)
    rows, trainings = run(tiny_study(data, tmp_path), [small("omega", 0, 1, 2)], quiet)
    assert [row.error for row in rows["omega"]] == ["The loss is nan."] * 3 and len(calls) == 1 and trainings == {}


def test_an_image_that_cannot_be_read_is_named(data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    bad = copy / "test" / "good" / "000.png"
    bad.write_bytes(b"no image")
    rows, _ = run(tiny_study(copy, tmp_path / "out"), [small("omega", 0)], quiet)
    assert str(bad) in rows["omega"][0].error


# Names, lines and settings.


def test_the_ledger_skips_what_is_no_measurement(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b'{"key": "a", "x": 1}\n[1]\n\xff\n{"no": 1}\n{"key": "b"')
    ledger = Ledger(path)
    assert "a" in ledger and "b" not in ledger and ledger["a"]["x"] == 1
    ledger.add({"key": "b", "x": 2})
    ledger.add({"key": "a", "x": 3})
    again = Ledger(path)
    assert (again["a"]["x"], again["b"]["x"]) == (3, 2) and path.read_bytes().endswith(b"}\n")
    with pytest.raises(ValueError):
        ledger.add({"key": "c", "x": math.nan})


def test_identities_follow_the_settings(data, tmp_path):
    assert identity({"b": 1, "a": (2, 3)}) == identity({"a": [2, 3], "b": 1}) != identity({"b": 1, "a": [3, 2]})
    schedules = [dn.Schedule.linear(1e-4, end) for end in (1e-2, 2e-2)]
    assert identity(schedules[0]) == identity(dn.Schedule.linear(1e-4, 1e-2)) != identity(schedules[1])
    assert plain(dn.noise.Gaussian()) == {"kind": "gaussian"}
    samples = find_samples(data, "test")
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    assert fingerprint(find_samples(moved, "test")) == fingerprint(samples)
    Image.new("L", (24, 20), 3).save(moved / "test" / "good" / "000.png")
    assert fingerprint(find_samples(moved, "test")) != fingerprint(samples) != fingerprint(samples[1:])


def test_a_change_of_settings_is_another_training_and_another_measurement(data, tmp_path, counted):
    experiment = small("noise-steps", 0)
    longer = TINY | {"training": TINY["training"] | {"max_steps": 2}}
    for changes in (TINY, longer, TINY | {"scoring": {"seed": 1}}):
        run(Study(data, tmp_path, changes=[changes], reverse_steps=2, device="cpu"), [experiment], quiet)
    run(tiny_study(data, tmp_path, limit=4), [experiment], quiet)
    assert len(counted) == 4 and len(list((tmp_path / "trainings").iterdir())) == 2


def test_the_limit_spreads_over_the_test_images(data, tmp_path):
    everything = find_samples(data, "test")
    assert tiny_study(data, tmp_path).samples == everything == tiny_study(data, tmp_path, limit=99).samples
    assert [everything.index(sample) for sample in tiny_study(data, tmp_path, limit=3).samples] == [0, 1, 3]


def test_a_configuration_file_changes_the_papers_scoring_but_not_the_cells(data, tmp_path):
    changes = TINY | {"scoring": {"top_k": 3, "filter_size": 7, "starts": [9]}}
    study = Study(data, tmp_path, changes=[changes], device="cpu")
    experiment = EXPERIMENTS["noise-steps"]
    config = study.cell_config(experiment, experiment.cells[1])
    assert (config.scoring.starts, config.scoring.steps, config.scoring.filter_size) == ((50,), 50, 11)
    assert config.scoring.top_k == 3 and config.scoring.variance == FUCKA["variance"]
    assert study.limited(config).scoring.steps == 10 and config.features is None
    assert config.training.t_max == 500 and config.model.image_channels == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (["--experiments", "omegas"], "Unknown experiment omegas; choose from noise-steps"),
        (["--experiments", "omega"], "need DATA"),
        (["DATA", "--preset", "tall"], "Unknown preset 'tall'"),
        (["DATA", "--max-minutes", "-1"], "max_minutes must be positive"),
        (["DATA", "--samples", "1"], "at least 2 samples"),
    ),
)
def test_usage_errors(data, tmp_path, capsys, arguments, sentence):
    arguments = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert cli.main(["study", *arguments, "--output", str(tmp_path / "x")]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_unusable_data_is_refused_before_any_work(tmp_path, capsys):
    missing = tmp_path / "missing"
    assert cli.main(["study", str(missing), "--output", str(tmp_path / "x"), "--device", "cpu"]) == 1
    assert str(missing) in capsys.readouterr().err and not (tmp_path / "x").exists()
    (tmp_path / "plain").mkdir()
    Image.new("L", (20, 20)).save(tmp_path / "plain" / "a.png")
    assert cli.main(["study", str(tmp_path / "plain"), "--output", str(tmp_path / "x"), "--device", "cpu"]) == 1
    assert "without labels" in capsys.readouterr().err


def test_rows_of_another_experiment_are_left_alone(data, tmp_path):
    """Only what is asked for is measured."""
    rows, _ = run(tiny_study(data, tmp_path), [small("forward", 0, 8)], quiet)
    assert list(rows) == ["forward"] and all(isinstance(row, Row) for row in rows["forward"])
    assert list((tmp_path / "trainings").iterdir()) == []
