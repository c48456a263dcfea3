import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from diffnoise.report import CONTOUR, Row, colormap, overlay, roc, write_report

HOSTILE = "a/<script>alert(1)</script>&\"'><img src=x onerror=alert(2)>.png"


class Page(HTMLParser):
    """Collects the tags, and of each table row its attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.rows, self.text, self.in_row = [], [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr" and "data-groups" in dict(attrs):
            self.in_row = True
            self.rows.append(dict(attrs, text=""))

    def handle_endtag(self, tag):
        self.in_row = self.in_row and tag != "tr"

    def handle_data(self, data):
        self.text += data
        if self.in_row:
            self.rows[-1]["text"] += data


@pytest.fixture
def report(tmp_path):
    def write(rows, *, title="Report", threshold=0.5, metrics=None, settings=None):
        path = tmp_path / "report.html"
        write_report(path, rows, title=title, threshold=threshold, metrics=metrics or {}, settings=settings or {})
        assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
        return Page(path.read_text(encoding="utf-8"))

    return write


def labelled(n=60):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    scores = np.round(rng.random(n) + 0.3 * labels, 1)  # with ties
    return labels, scores


def test_every_row_is_there_by_falling_score(report):
    labels, scores = labelled()
    page = report(
        Row(f"{i}.png", float(s), int(s > 0.5), int(y)) for i, (y, s) in enumerate(zip(labels, scores, strict=True))
    )
    shown = [float(row["data-score"]) for row in page.rows]
    assert shown == sorted(scores, reverse=True)
    assert {row["data-name"] for row in page.rows} == {f"/{i}.png" for i in range(60)}
    wrong = sum("wrong" in row["data-groups"].split() for row in page.rows)
    assert wrong == np.sum((scores > 0.5) != labels)


def test_hostile_text_is_escaped(report):
    page = report(
        [Row(HOSTILE, 0.7, 1, 1, defect=HOSTILE), Row(HOSTILE, error=HOSTILE)],
        title=HOSTILE,
        metrics={HOSTILE: 1.0},
        settings={HOSTILE: HOSTILE},
    )
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(tag == "img" or any(name.startswith("on") for name in attrs) for tag, attrs in page.tags)
    assert len(page.rows) == 2 and all(row["data-name"] == HOSTILE for row in page.rows)


def test_a_name_that_is_not_utf8(report):
    assert r"\udcff" in report([Row("\udcff.png", 0.1, 0)]).text


def test_nothing_is_loaded_from_elsewhere(report):
    picture = np.zeros((8, 8, 3), np.uint8)
    page = report([Row("a.png", 0.7, 1, 1, "", "", picture, picture, picture, picture[..., 0] > 0)])
    sources = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "srcset", "data") if key in attrs]
    assert len(sources) == 4 and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page.rawdata + page.text)
    assert "link" not in dict(page.tags)


def test_errors_come_first_and_are_never_good(report):
    reason = "OSError: cannot identify image file"
    page = report(
        [
            Row("good.png", 0.1, 0, 0),
            Row("broken.png", pred_label=0, gt_label=0, error=reason),
            Row("nan.png", float("nan"), 0, 0),
            Row("none.png", None, 0),
        ]
    )
    assert [row["data-decision"] for row in page.rows] == ["error"] * 3 + ["good"]
    assert all(row["data-groups"].split() == ["all", "error"] for row in page.rows[:3])
    texts = {row["data-name"]: row["text"] for row in page.rows}
    assert reason in texts["/broken.png"] and "no finite score" in texts["/nan.png"]
    assert "3 of 4 images could not be scored" in page.text


def test_thumbnails(report):
    image = np.tile(np.linspace(0, 255, 500).astype(np.uint8), (250, 1))
    mask = np.zeros((20, 10), bool)
    mask[:10] = True
    page = report([Row("a.png", 0.7, 1, 1, image=image, mask=mask)])
    uris = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    large, small = (Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris)
    assert large.size == (192, 96) and large.format == "JPEG"
    np.testing.assert_array_equal(np.asarray(small) > 0, mask)


@pytest.mark.parametrize("picture", [np.zeros((4, 4)), np.zeros((4, 4, 1), np.uint8), np.zeros(4, np.uint8)])
def test_other_pictures_are_refused_and_leave_no_file(picture, tmp_path):
    with pytest.raises(ValueError, match="picture"):
        write_report(
            tmp_path / "r.html", [Row("a", 0.1, image=picture)], title="", threshold=None, metrics={}, settings={}
        )
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_report(path, [Row("a", 0.1)], title="", threshold=None, metrics={}, settings={})
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("threshold", [None, 0.5, 7.0])
@pytest.mark.parametrize("scores", [[], [0.0], [-1e-9, 3e8], [0.1] * 5])
def test_any_scores_make_a_report(report, scores, threshold):
    page = report([Row("a", score) for score in scores], threshold=threshold, metrics={"image_AUROC": None})
    assert len(page.rows) == len(scores) and "ROC curve" not in page.text


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_threshold_must_be_finite(report, threshold):
    with pytest.raises(ValueError, match="threshold"):
        report([], threshold=threshold)


def test_roc_is_that_of_sklearn(report):
    labels, scores = labelled()
    false, true = roc(labels, scores)
    expected_false, expected_true, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)
    page = report(Row("a", float(s), int(s > 0.5), int(y)) for y, s in zip(labels, scores, strict=True))
    drawn = next(attrs["points"] for tag, attrs in page.tags if tag == "polyline")
    points = np.array([point.split(",") for point in drawn.split()], float)
    np.testing.assert_allclose(points, np.stack([expected_false * 200, 200 - expected_true * 200], 1), atol=0.006)
    assert f"area {roc_auc_score(labels, scores):.4f}" in page.text


def test_histogram_counts_every_score(report):
    labels, scores = labelled()
    truth = [int(y) if i % 3 else None for i, y in enumerate(labels)]
    page = report(Row("a", float(s), gt_label=y) for y, s in zip(truth, scores, strict=True))
    drawn = dict.fromkeys(("good", "anomalous", "unknown"), 0)
    for count, kind in re.findall(r"(\d+) (good|anomalous|unknown), [\d.]+ to", page.text):
        drawn[kind] += int(count)
    assert drawn == {"good": truth.count(0), "anomalous": truth.count(1), "unknown": truth.count(None)}


def test_colormap_is_inferno():
    matplotlib = pytest.importorskip("matplotlib")
    values = np.linspace(-0.1, 1.1, 300).reshape(10, 30)
    colours = colormap(values)
    assert colours.shape == (10, 30, 3) and colours.dtype == np.uint8
    expected = matplotlib.colormaps["inferno"](values, bytes=True)[..., :3]
    assert np.abs(colours.astype(int) - expected).max() <= 10
    with pytest.raises(ValueError, match="NaN"):
        colormap(np.full((2, 2), np.nan))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_overlay(channels):
    image = torch.zeros(channels, 32, 48)
    scores = torch.zeros(32, 48)
    scores[8:16, 8:16] = 1
    picture = overlay(image, scores, 0.5, 0.0, 1.0)
    assert picture.shape == (32, 48, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0, 0], 128)  # nothing at the low end of the scale
    on_contour = (picture == CONTOUR).all(axis=-1)
    assert on_contour.sum() == 28 and on_contour[8, 8:16].all()  # the rim of an 8 x 8 square
    np.testing.assert_array_equal(picture, overlay(image.numpy(), scores.numpy(), 0.5, 0.0, 1.0))
    assert not (overlay(image, scores, 2.0, 0.0, 1.0) == CONTOUR).all(axis=-1).any()


def test_overlay_colours_compare_between_images():
    image = torch.zeros(1, 4, 4)
    alone = overlay(image, torch.full((4, 4), 0.3), 9.0, 0.0, 1.0)
    beside_more = overlay(image, torch.tensor([[0.3] * 3 + [1.0]] * 4), 9.0, 0.0, 1.0)
    np.testing.assert_array_equal(alone[:, :3], beside_more[:, :3])


@pytest.mark.parametrize(
    ("image", "scores", "low", "high"),
    [
        (torch.zeros(4, 4), torch.zeros(4, 4), 0, 1),
        (torch.zeros(1, 4, 4), torch.zeros(4, 5), 0, 1),
        (torch.zeros(1, 4, 4), torch.full((4, 4), torch.nan), 0, 1),
        (torch.zeros(1, 4, 4), torch.zeros(4, 4), 1, 0),
    ],
)
def test_overlay_refuses(image, scores, low, high):
    with pytest.raises(ValueError):
        overlay(image, scores, 0.5, low, high)
