"""The noise study: its statistics against SciPy, sums written out here and published figures; what the command leaves on disk."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from diffnoise import cli, study
from diffnoise.noise import (
    KINDS,
    NOISE_VERSION,
    Gaussian,
    KomalTsimplex,
    Simplex,
    Tsimplex,
    TsimplexGaussian,
    from_config,
)
from diffnoise.study import noises
from diffnoise.study.noises import Moments, Setting, asymmetry, histogram, radial_power, spectral_slope
from diffnoise.study.noises.claims import claims
from diffnoise.study.noises.panels import image
from diffnoise.study.noises.pictures import draw
from diffnoise.study.noises.statistics import BIN, BLOCK, REACH

ROOT = Path(__file__).parent.parent
RESULT = json.loads((ROOT / "benchmarks/results/noise_study.json").read_text())


# Statistics.


def skewed(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, size=size)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("offset", (0, 1000))
def test_moments_are_those_of_scipy(dtype, offset):
    values = (skewed(50_000) + offset).astype(dtype)
    exact = values.astype(np.float64)
    pieces = np.split(values, [1, 700, 20_000])
    for moments in (Moments.of(values), sum(map(Moments.of, pieces[1:]), Moments.of(pieces[0]))):
        assert moments.count == len(values)
        assert (moments.minimum, moments.maximum) == (values.min(), values.max())
        assert moments.mean == pytest.approx(exact.mean(), rel=1e-12)
        assert moments.deviation == pytest.approx(exact.std(), rel=1e-9)
        assert moments.skewness == pytest.approx(stats.skew(exact), rel=1e-8)
        assert moments.kurtosis == pytest.approx(stats.kurtosis(exact, fisher=False), rel=1e-8)


def test_moments_of_more_values_than_fit_into_a_block():
    values = skewed(2 * BLOCK + 17).astype(np.float32).reshape(-1, 1)
    moments = Moments.of(values)
    assert moments.count == values.size
    assert moments.kurtosis == pytest.approx(
        stats.kurtosis(values.astype(np.float64), axis=None, fisher=False), rel=1e-9
    )
    assert histogram(values).sum() == values.size


def test_moments_without_a_shape():
    assert math.isnan(Moments.of(np.ones(7)).kurtosis) and math.isnan(Moments.of(np.ones(7)).skewness)
    with pytest.raises(ValueError, match="no values"):
        Moments.of(np.empty(0))


def test_histogram_is_that_of_numpy():
    values = np.random.default_rng(1).normal(0.2, 1, 20_000).astype(np.float32)
    edges = (np.arange(-REACH, REACH + 2) - 0.5) * BIN
    np.testing.assert_array_equal(histogram(values), np.histogram(values.astype(np.float64), edges)[0])
    np.testing.assert_array_equal(histogram(-values), histogram(values)[::-1])
    beyond = histogram(np.array([[-1e30, 50.0], [0.0, 10.01]]))
    assert (beyond[0], beyond[REACH], beyond[-1], beyond.sum()) == (1, 1, 2, 4)


def test_asymmetry_is_the_distance_to_the_mirror_image():
    values = np.random.default_rng(2).normal(0, 1, 30_000)
    assert asymmetry(histogram(np.concatenate([values, -values]))) == 0
    assert asymmetry(histogram(np.abs(values) + BIN)) == 1
    # A normal distribution shifted by m and its mirror image share all but 2 Phi(m) - 1.
    for m in (0.2, 0.5, 1.0):
        chance = (2 * REACH + 1) ** 0.5 / len(values) ** 0.5
        assert asymmetry(histogram(values + m)) == pytest.approx(2 * stats.norm.cdf(m) - 1, abs=chance)
    assert asymmetry(histogram(skewed(1000) - 2)) > 0.15  # mean 0, but not symmetric


def dft(length: int) -> np.ndarray:
    n = np.arange(length)
    return np.exp(-2j * np.pi * np.outer(n, n) / length)


@pytest.mark.parametrize("shape", ((16, 16), (9, 16), (15, 15), (13, 8)))
def test_radial_power_is_the_sum_over_all_frequencies(shape):
    """The Fourier transform as a product of matrices, and a loop over the whole plane of frequencies."""
    (height, width), side = shape, max(shape)
    images = np.random.default_rng(3).normal(1, 2, (2, *shape))
    y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    window = y[:, None] * x
    expected = np.zeros((2, side // 2))
    for i, values in enumerate(images):
        centred = (values - (window * values).sum() / window.sum()) * window
        power = np.abs(dft(height) @ centred @ dft(width)) ** 2 / (window**2).sum()
        for k in range(1, side // 2 + 1):
            ring = [
                power[a, b]
                for a, b in np.ndindex(shape)
                if round(side * math.hypot(min(a, height - a) / height, min(b, width - b) / width)) == k
            ]
            expected[i, k - 1] = np.mean(ring)
    np.testing.assert_allclose(radial_power(images), expected, rtol=1e-10)
    np.testing.assert_allclose(radial_power(images[0].astype(np.float32)), expected[0], rtol=1e-4)


def test_the_spectrum_of_white_noise_is_its_variance():
    power = radial_power(np.random.default_rng(4).normal(5, 3, (400, 32, 32))).mean(0)
    # Under a Hann window about 400 * 2 pi k / 2 * 0.5 independent powers, each as uncertain as it is large, lie on ring k.
    tolerance = 4 / np.sqrt(400 * np.pi / 2 * np.arange(1, 17))
    assert (np.abs(power / 9 - 1)[2:] < tolerance[2:]).all()  # the mean that is taken out is a part of the first two
    assert abs(spectral_slope(power[2:], 32)) < 0.1


def test_the_spectrum_of_a_wave_is_a_peak():
    y, x = np.mgrid[:64, :64]
    power = radial_power(np.sin(2 * np.pi * (12 * y + 9 * x) / 64))  # 15 periods in the image, obliquely
    assert power.argmax() == 14 and power[:11].max() < 1e-20 * power[14] and power[18:].max() < 1e-20 * power[14]


@pytest.mark.parametrize("exponent", (-1.0, -2.0, -4.0))
def test_a_known_slope_is_found(exponent):
    """A crop of a field with random phases and power f^exponent; it is not periodic, as noise is not."""
    rng, large = np.random.default_rng(5), 512
    f = np.hypot(np.fft.fftfreq(large)[:, None], np.fft.fftfreq(large))
    f[0, 0] = np.inf
    fields = [
        np.fft.ifft2(np.fft.fft2(rng.normal(size=f.shape)) * f ** (exponent / 2)).real[:128, :128] for _ in range(12)
    ]
    assert spectral_slope(radial_power(np.stack(fields)).mean(0), 128) == pytest.approx(exponent, abs=0.1)


def test_slope_of_a_power_law():
    k = np.arange(1, 129)
    assert spectral_slope(7.0 * k**-2.5, 256) == pytest.approx(-2.5, abs=1e-12)
    with pytest.raises(ValueError, match="fewer than two frequencies"):
        spectral_slope(np.ones(2), 4)


@pytest.mark.parametrize("persistence", (0.5, 0.7, 1.0))
@pytest.mark.parametrize("dims", (3, 4))
def test_the_slope_of_a_fractal_sum_is_that_of_its_persistence(dims, persistence):
    """-2 + 2 log2(persistence), but for the ripple of octaves and the missing ones beyond the last."""
    model = (Tsimplex if dims == 4 else Simplex)(7, persistence, 64, dims)
    found = noises.measure(Setting("", None, model), 128, 12, 0)
    assert found["slope"] == pytest.approx(-2 + 2 * math.log2(persistence), abs=0.2)


# Measurements.

# Noise, deviation, kurtosis and mean extremes of an image, measured on the papers' code over 60 images of 256 x 256 pixels.
PUBLISHED = [
    (Simplex(6, 0.8, 64, dims=2), 0.600, None, 2.05),
    (Simplex(6, 0.8, 64), 0.505, 2.77, 1.74),
    (Tsimplex(6, 0.8, 64), 0.396, 2.85, 1.4),
    (Tsimplex(6, 0.9, 64), 0.480, 2.87, 1.79),
    (Tsimplex(10, 0.8, 128), 0.397, 2.85, 1.34),
]


@pytest.mark.parametrize(("model", "deviation", "kurtosis", "extreme"), PUBLISHED)
def test_the_figures_of_the_papers_code(model, deviation, kurtosis, extreme):
    """Within 4 standard errors of a difference between two such measurements."""
    found = noises.measure(Setting("", None, model), 256, 60, 0)
    images, values = found["images"], found["values"]

    def uncertainty(name: str) -> float:
        return 4 * math.sqrt(2 / 60) * images[name]["deviation"]

    # The pooled variance is the mean of the images' variances and the variance of their means.
    squares = images["deviation"]["rms"] ** 2 + images["mean"]["rms"] ** 2 - values["mean"] ** 2
    assert values["deviation"] == pytest.approx(math.sqrt(squares), rel=1e-6)
    of_mean = 4 * math.sqrt(2 / 60) * math.sqrt(2) * images["mean"]["rms"] ** 2 / (2 * deviation)
    assert abs(values["deviation"] - deviation) < uncertainty("deviation") + of_mean
    if kurtosis is not None:
        assert abs(images["kurtosis"]["mean"] - kurtosis) < uncertainty("kurtosis")
        assert abs(values["kurtosis"] - images["kurtosis"]["mean"]) < 0.1
    assert abs(images["maximum"]["mean"] - extreme) < uncertainty("maximum") + 0.005
    assert abs(images["minimum"]["mean"] + extreme) < uncertainty("minimum") + 0.005
    assert abs(values["skewness"]) < 4 * images["skewness"]["rms"] / math.sqrt(60)  # no side is preferred


def test_the_mean_of_an_image_is_as_uncertain_as_measured():
    """The deviation of the means of 3-D noise was 0.073 over 60 images; over as many it is uncertain by 1 / sqrt(2 * 60)."""
    found = noises.measure(Setting("", None, Simplex(6, 0.8, 64)), 256, 60, 0)["images"]["mean"]["deviation"]
    assert found == pytest.approx(0.073, rel=4 * math.sqrt(2 / 120))


def test_a_measurement_is_that_of_all_images_together():
    setting = Setting("t", 500, TsimplexGaussian(octaves=2), 400, 600)
    found = noises.measure(setting, 48, 5, 7)
    steps, seeds = torch.tensor([400, 450, 500, 550, 600]), torch.arange(7, 12)
    images = setting.noise((5, 1, 48, 48), t=steps, seeds=seeds).double().numpy()[:, 0]
    values, each = found["values"], found["images"]
    assert values["count"] == images.size
    assert values["mean"] == pytest.approx(images.mean(), abs=1e-9)
    assert values["deviation"] == pytest.approx(images.std(), rel=1e-9)
    assert values["skewness"] == pytest.approx(stats.skew(images, axis=None), abs=1e-9)
    assert values["kurtosis"] == pytest.approx(stats.kurtosis(images, axis=None, fisher=False), rel=1e-9)
    assert (values["minimum"], values["maximum"]) == (images.min(), images.max())
    assert values["share_within_1"] == (np.abs(images) <= 1).mean()
    assert values["asymmetry"] == asymmetry(histogram(images))
    kurtosis = stats.kurtosis(images.reshape(5, -1), axis=1, fisher=False)
    assert each["kurtosis"]["mean"] == pytest.approx(kurtosis.mean(), rel=1e-9)
    assert each["kurtosis"]["deviation"] == pytest.approx(kurtosis.std(ddof=1), rel=1e-6)
    skewness = stats.skew(images.reshape(5, -1), axis=1)
    assert each["skewness"]["rms"] == pytest.approx(math.sqrt((skewness**2).mean()), rel=1e-6)
    assert each["asymmetry"]["mean"] == pytest.approx(np.mean([asymmetry(histogram(i)) for i in images]))
    np.testing.assert_allclose(found["power"], radial_power(images).mean(0), rtol=1e-9)
    counts, first = np.array(found["histogram"]["counts"]), round(found["histogram"]["first"] / BIN)
    np.testing.assert_array_equal(histogram(images)[REACH + first :][: len(counts)], counts)
    assert counts.sum() == images.size


def test_memory_does_not_grow_with_the_samples():
    def peak(samples: int) -> int:
        tracemalloc.start()
        noises.measure(Setting("", None, Gaussian()), 64, samples, 0)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(64) < 1.2 * peak(8)


def test_settings_of_every_kind():
    for kind, cls in KINDS.items():
        found = list(noises.settings(kind))
        assert found[0] == Setting("defaults", None, cls()) and all(setting.noise.kind == kind for setting in found)
        swept = {p: [s.value for s in found if s.parameter == p] for p in ("octaves", "persistence", "wavelength", "t")}
        fractal = kind not in ("gaussian", "gmm")
        assert swept["octaves"] == (list(range(1, 11)) if fractal else [])
        assert swept["persistence"] == ([0.5, 0.6, 0.7, 0.8, 0.9, 1.0] if fractal else [])
        assert swept["wavelength"] == ([2**mu for mu in range(8)] if fractal else [])
        assert swept["t"] == (list(range(0, 1001, 100)) if kind == "tsg" else [])
        for setting in found:
            if setting.parameter == "wavelength":
                assert setting.noise == type(setting.noise)(**{**vars(cls()), "frequency": setting.value})
    assert Setting("paper", "figure 11d", Tsimplex(10, 0.8, 128), 0, 100) in noises.settings("tsimplex")
    assert Setting("paper", "2-D", Simplex(dims=2)) in noises.settings("simplex")


def test_a_setting_that_is_refused_says_why(monkeypatch):
    refused = Setting("defaults", None, KomalTsimplex(sigma=0.01))
    monkeypatch.setattr(
        "diffnoise.study.noises.measurement.settings", lambda kind: [refused, Setting("paper", "x", Gaussian())]
    )
    found = noises.run(["kts"], 64, 2)
    first, second = found["settings"]
    assert "raise sigma" in first["error"] and "values" not in first
    assert "error" not in second and second["values"]["count"] == 2 * 64 * 64


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        ((["perlin"], 64, 2, 0), "Unknown noise perlin; choose from gaussian"),
        (([], 64, 2, 0), "Unknown noise none"),
        ((["gmm"], 31, 2, 0), "at least 32 pixels wide for their spectrum, not 31"),
        ((["gmm"], 64, 1, 0), "at least 2 samples"),
        ((["gmm"], 64, 2, 2**63 - 1), "must fit into 64 bits"),
    ),
)
def test_refusals(arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        noises.run(*arguments)
    assert str(caught.value).endswith(".")


def test_claims_follow_from_the_rows():
    def row(parameter, value, mean=0.1, asymmetry=0.1, deviation=0.4):
        over = {"mean": 3.0, "deviation": 0.1, "rms": mean}
        images = {"kurtosis": over, "mean": over, "asymmetry": over | {"mean": asymmetry}}
        values = {"deviation": deviation, "share_within_1": 0.96, "minimum": -1.5, "maximum": 1.5}
        return {"kind": "tsimplex", "parameter": parameter, "value": value, "images": images, "values": values}

    rows = [row("paper", "figure 11d")]
    rows += [row("octaves", n, mean=1 / n) for n in range(1, 11)]
    rows += [row("persistence", p, deviation=p) for p in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    rows += [row("wavelength", 2**mu, asymmetry=0.01 * mu) for mu in range(8)]
    found = claims(rows)
    assert [claim["holds"] for claim in found] == [True] * 5
    assert found[0]["measured"] == {"mean": 3.0, "deviation": 0.1}
    assert found[4]["measured"]["128"] == 0.07
    rows[0]["images"]["kurtosis"]["mean"], rows[0]["values"]["share_within_1"] = 3.3, 0.9
    rows[11]["values"]["deviation"] = 0.65
    rows[10]["images"]["mean"]["rms"] = 0.3
    rows[17]["images"]["asymmetry"]["mean"] = 0.065
    assert [claim["holds"] for claim in claims(rows)] == [False] * 5
    assert claims([dict(r, kind="kts") for r in rows]) == []


# What the command leaves on disk.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "new"
    arguments = ["study", "--output", str(folder), "--kinds", "simplex", "gaussian", "--size", "40", "--samples", "3"]
    assert cli.main([*arguments, "--seed", "-5"]) == 0
    return folder


def test_the_study_is_recorded(written: Path):
    found = json.loads((written / "study.json").read_text(), parse_constant=pytest.fail)
    assert found["noise_version"] == NOISE_VERSION
    assert (found["size"], found["samples"], found["seeds"], found["claims"]) == (40, 3, [-5, -3], [])
    assert found["versions"]["torch"] == torch.__version__
    assert {row["kind"] for row in found["settings"]} == {"simplex", "gaussian"}
    assert len(found["settings"]) == len(list(noises.settings("simplex"))) + 1
    for row in found["settings"]:
        setting = Setting(row["parameter"], row["value"], from_config(row["noise"]), *row["t"])
        again = noises.measure(setting, 40, 3, -5)
        assert ("power" in row) == (row["parameter"] == "defaults")
        assert row["histogram"]["counts"] == again["histogram"]["counts"]
        assert row["images"]["kurtosis"]["mean"] == pytest.approx(again["images"]["kurtosis"]["mean"], rel=1e-5)
        assert row["values"]["deviation"] == pytest.approx(again["values"]["deviation"], rel=1e-5)


def test_the_pictures_are_drawn(written: Path, tmp_path: Path):
    names = {"overview.png", "samples.png", "histograms.png", "statistics.png", "spectra.png"}
    assert {path.name for path in written.iterdir()} == names | {"study.json"}
    for name in names:
        with Image.open(written / name) as picture:
            assert min(picture.size) > 200 and len(picture.convert("RGB").getcolors(1 << 24)) > 50
    found = json.loads((written / "study.json").read_text())
    found["settings"] = [
        row for row in found["settings"] if row["parameter"] == "defaults" and row["kind"] == "gaussian"
    ]
    assert [path.name for path in draw(found, tmp_path)] == ["overview.png", "spectra.png"]
    found["settings"][0]["error"] = "no."
    assert draw(found, tmp_path) == []


@pytest.mark.parametrize("size", (40, 150))
def test_a_sample_is_the_noise_at_its_address(size):
    row = {
        "parameter": "t",
        "value": 3,
        "noise": Tsimplex(2).to_config(),
        "t": [100, 200],
        "values": {"deviation": 0.4},
    }
    axes = Figure().subplots()
    image(axes, {"size": size, "samples": 3, "seeds": [8, 10]}, row)
    expected = Tsimplex(2)((1, 1, size, size), t=torch.tensor([150]), seeds=torch.tensor([9]))[0, 0].numpy()
    middle = slice(11, 139) if size == 150 else slice(None)
    np.testing.assert_array_equal(axes.images[0].get_array(), expected[middle, middle])
    assert axes.images[0].get_clim() == (-1.0, 1.0)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["study", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_json_on_standard_output(tmp_path: Path, capsys):
    code, out, _ = call(capsys, "--output", tmp_path, "--kinds", "gmm", "--size", 32, "--samples", 2, "--json")
    assert code == 0
    assert json.loads(out) == {"settings": 1, "failed": 0, "output": str(tmp_path), "noise_version": NOISE_VERSION}


@pytest.mark.parametrize("options", (["--size", 8], ["--samples", 1], ["--seed", 2**63]))
def test_usage_errors(tmp_path: Path, capsys, options):
    code, out, error = call(capsys, "--output", tmp_path / "x", *options)
    assert (code, out) == (2, "") and error.startswith("diffnoise: ") and error.endswith(".\n")
    assert not (tmp_path / "x").exists()


def test_what_failed_is_named_and_the_rest_is_drawn(tmp_path: Path, capsys, monkeypatch):
    rows = [Setting("defaults", None, Gaussian()), Setting("octaves", 3, KomalTsimplex(sigma=0.01))]
    monkeypatch.setattr("diffnoise.study.noises.measurement.settings", lambda kind: rows)
    code, _, error = call(capsys, "--output", tmp_path, "--kinds", "gaussian", "--size", 64, "--samples", 2)
    assert code == 3 and "octaves 3" in error and "raise sigma" in error
    assert (tmp_path / "overview.png").is_file()
    monkeypatch.setattr("diffnoise.study.noises.measurement.settings", lambda kind: rows[1:])
    assert call(capsys, "--output", tmp_path, "--kinds", "gaussian", "--size", 64, "--samples", 2)[0] == 1


def test_without_matplotlib_the_command_says_what_to_install(tmp_path: Path, capsys, monkeypatch):
    for name in ("drawing", "plots", "results", "noises.panels", "noises.pictures", "noises.report"):
        monkeypatch.delitem(sys.modules, f"diffnoise.study.{name}", raising=False)
    for package, names in ((study, ("results",)), (noises, ("report", "pictures"))):
        for name in names:
            monkeypatch.delattr(package, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, error = call(capsys, "--output", tmp_path / "x")
    assert code == 1 and "pip install matplotlib" in error and not (tmp_path / "x").exists()


# The published result.


def test_the_result_file_is_of_this_noise():
    """A row of it, measured again; the others follow from the same addresses."""
    assert RESULT["noise_version"] == NOISE_VERSION
    assert {row["kind"] for row in RESULT["settings"]} == set(KINDS)
    assert [row for row in RESULT["settings"] if "error" in row] == []
    for row in RESULT["settings"]:
        if (row["kind"], row["parameter"]) in {("simplex", "defaults"), ("gmm", "defaults")}:
            setting = Setting("", None, from_config(row["noise"]), *row["t"])
            again = noises.measure(setting, RESULT["size"], RESULT["samples"], RESULT["seeds"][0])
            for name, value in row["values"].items():
                assert again["values"][name] == pytest.approx(value, rel=1e-4, abs=1e-5)
            assert again["slope"] == pytest.approx(row["slope"], abs=1e-3)
    assert claims(RESULT["settings"]) == RESULT["claims"]


def test_the_readme_says_what_was_measured():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    tsimplex = {(r["parameter"], r["value"]): r for r in RESULT["settings"] if r["kind"] == "tsimplex"}
    white = next(r for r in RESULT["settings"] if r["kind"] == "gaussian")
    figure, images = tsimplex["paper", "figure 11d"]["values"], tsimplex["paper", "figure 11d"]["images"]
    uneven = {mu: tsimplex["wavelength", 2**mu]["images"]["asymmetry"]["mean"] for mu in range(8)}
    centre = {n: tsimplex["octaves", n]["images"]["mean"]["rms"] for n in range(1, 11)}
    short = [uneven[mu] for mu in range(6)]
    skewness = max(abs(r["values"]["skewness"]) for key, r in tsimplex.items())
    assert len({f"{value:.2f}" for n, value in centre.items() if n > 1}) == 1
    for text in (
        f"{RESULT['samples']} images of {RESULT['size']} × {RESULT['size']}",
        f"{figure['share_within_1']:.1%} of its values lie in ±1".replace("%", " %"),
        f"kurtosis is {images['kurtosis']['mean']:.2f} ± {images['kurtosis']['deviation']:.2f}",
        f"{min(short):.2f} to {max(short):.2f} up to 2⁵ pixels, {uneven[6]:.2f} at 2⁶ and {uneven[7]:.2f} at 2⁷",
        f"white noise: {white['images']['asymmetry']['mean']:.2f}",
        f"skewness at most {skewness:.2f}",
        f"{centre[1]:.2f} with one octave and {centre[2]:.2f} with two to ten",
        f"{tsimplex['persistence', 0.5]['slope']:.1f} at 0.5, {tsimplex['persistence', 1.0]['slope']:.1f} at 1".replace(
            "-", "−"
        ),
    ):
        assert text in readme, text
