"""The papers' tables and figures as data: what is trained, how it scores and what is measured, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..methods import PRESETS
from ..similarity import least_size
from .paper_figures import PUBLISHED, Published

Changes = dict[str, dict[str, Any]]  # sections of a `Config` and the keys that change in them

# What none of the tables has, whatever the preset.
PLAIN: dict[str, Any] = {"guidance": 0.0, "target": "image", "features": "none", "top_k": 1, "samples": 1}
# S2: every step out and back with sigma^2 = beta, squared error, mean filter, maximum.
FUCKA: dict[str, Any] = PLAIN | {
    "sampler": "ddpm",
    "variance": "fixed_large",
    "omega": 1.0,
    "map": "squared",
    "filter": "mean",
    "filter_size": 11,
}
# S1: scaled without noise, ten DDIM steps back, absolute error, Gaussian filter, maximum.
TEBBE: dict[str, Any] = PLAIN | {
    "steps": 10,
    "sampler": "ddim",
    "eta": 0.0,
    "omega": 0.0,
    "map": "absolute",
    "filter": "gaussian",
    "filter_sigma": 4.0,
}
# S4: the reverse process draws the noise that the forward process draws; the map is not filtered.
KUMAR: dict[str, Any] = PLAIN | {
    "sampler": "ddpm",
    "variance": "fixed_large",
    "omega": 1.0,
    "reverse_noise": "same",
    "map": "squared",
    "filter": "none",
}
FORWARD_STEPS = tuple(range(100, 801, 100))
FILTER_SIZES = {"gaussian": 11, "simplex": 11, "gmm": 5}  # S2's choice for each noise
LOSSES = ("l1", "l2", "l2+tv", "ssim", "ms_ssim", "l2+vlb", "l2+vlb+ssim", "l2+vlb+ms_ssim")
DETECTION = {
    "image_AUROC": "image AUROC",
    "image_AUROC_low": "95 % from",
    "image_AUROC_high": "to",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AP": "pixel AP",
    "pixel_AUPRO": "AUPRO (limit 0.3)",
}


@dataclass(frozen=True)
class Cell:
    """One row of a table.

    at: where it stands, parameter -> value. measure: a key of `measures.MEASURES`. changes: sections of the configuration that its training
    depends on; scoring: keys of that section. settings: the measure's own arguments. preset: stands in for the study's configuration.
    least_size: of the frames, in pixels; on smaller ones it is left out.
    """

    at: dict[str, str | int | float]
    measure: str
    changes: Changes = field(default_factory=dict)
    scoring: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    least_size: int = 1


@dataclass(frozen=True)
class Experiment:
    """One table or figure of a paper.

    quantities: key of a measured value -> its name. base: the paper's scoring, which a configuration file may change; a cell's own keys may
    not be changed. x: the parameter along the plot's axis; None for bars.
    """

    name: str
    title: str
    quantities: dict[str, str]
    base: dict[str, Any]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    x: str | None = None

    @property
    def published(self) -> Published:
        return PUBLISHED[self.name]


def noise(kind: str) -> Changes:
    return {"noise": {"kind": kind}}


_ALL = (
    Experiment(
        "noise-steps",
        "Kinds of noise and number of steps",
        DETECTION,
        FUCKA,
        tuple(
            Cell(
                {"noise": kind, "T'": start},
                "detection",
                noise(kind),
                {"starts": [start], "steps": start, "filter_size": size},
            )
            for kind, size in FILTER_SIZES.items()
            for start in (10, 50, 200, 500)
        ),
        ("The paper varies the number of reverse steps and does not say how far the image is noised; here both are T'.",),
        x="T'",
    ),
    Experiment(
        "filter-size",
        "Size of the mean filter",
        DETECTION,
        FUCKA,
        tuple(
            Cell(
                {"noise": kind, "filter": size},
                "detection",
                noise(kind),
                {"starts": [200], "steps": 200, "filter": "mean", "filter_size": size},
            )
            for kind in FILTER_SIZES
            for size in (1, 5, 11, 17)
        ),
        ("Pixels of the frame that the network sees. The errors of one denoising, filtered in each way.",),
        x="filter",
    ),
    Experiment(
        "omega",
        "Share of the noise that is added",
        DETECTION,
        TEBBE,
        tuple(
            Cell({"omega": tenth / 10}, "detection", noise("gaussian"), {"starts": [80], "omega": tenth / 10})
            for tenth in range(11)
        ),
        (
            "The paper works on the latents of a large pretrained autoencoder, with guidance and features of a ResNet; here the space is that of "
            "the configuration (pixels, unless it says otherwise), as is the schedule (the paper's hides more at the same T': its alpha_bar is 0.838 at "
            "T' = 80), and neither guidance nor features are used.",
        ),
        x="omega",
    ),
    Experiment(
        "dynamic-steps",
        "Static against dynamic steps",
        DETECTION,
        TEBBE,
        (
            *(
                Cell({"T'": start}, "detection", noise("gaussian"), {"starts": [start], "steps": 10})
                for start in (20, 40, 60, 80)
            ),
            Cell({"T'": "dynamic"}, "detection", noise("gaussian") | {"features": {}}, {"dynamic": {}}),
        ),
        (
            "Space, schedule, guidance and features of the map as for the share of noise. The dynamic choice compares features of the images by the backbone "
            "of the configuration, by default a ResNet-34, with those of the training images; T' runs from 20 to 80.",
        ),
    ),
    Experiment(
        "losses",
        "Training losses",
        {
            "Dice": "Dice",
            "Dice_sd": "its deviation",
            "IoU": "IoU",
            "pixel_AUROC_per_image": "AUC, mean over images",
            "balanced_accuracy": "balanced accuracy",
            "precision": "precision",
            "recall": "recall",
            "ECE": "ECE",
            "pixel_AUROC": "pixel AUROC",
        },
        KUMAR,
        tuple(
            Cell(
                {"loss": loss, "map": kind},
                "segmentation",
                noise("tsimplex") | {"training": {"loss": loss}},
                {"starts": [200], "steps": 200, "map": kind},
                least_size=least_size() if "ms_ssim" in loss else 1,
            )
            for loss in LOSSES
            for kind in ("squared", "absolute")
        ),
        (
            "ECE(se) of the paper is the ECE of the squared map here, ECE(ae) that of the absolute one. Network and schedule are those of the "
            "configuration; the paper's are DTU-Net and cosine.",
            "Masks are cut from each map at its own Otsu threshold. Dice, IoU, precision, recall, balanced accuracy and AUC are means over the anomalous "
            "images, as in the authors' code; pixel AUROC pools the pixels of all images. ECE takes the errors of images in [0, 1], which lie in [0, 1] "
            "themselves, as confidences.",
        ),
    ),
    Experiment(
        "ssim-steps",
        "Similarity of reconstruction and input against diffusion steps",
        {"SSIM": "SSIM", "SSIM_good": "SSIM, good images", "SSIM_anomalous": "SSIM, anomalous images"},
        KUMAR,
        tuple(
            Cell({"noise": kind, "T'": start}, "similarity", noise(kind), {"starts": [start], "steps": start})
            for kind in ("gaussian", "simplex", "tsimplex", "tsg", "kts")
            for start in (10, 50, 100, 200, 500)
        ),
        ("Between the frames that the network sees, in [-1, 1], window 11. A high similarity of anomalous images means that the anomalies stay.",),
        x="T'",
    ),
    Experiment(
        "forward",
        "The forward process: noising and noiseless scaling",
        {
            "correlation": "correlation of x_t and x_0",
            "rms": "root mean square of x_t - x_0",
            "signal": "√ᾱ_t",
            "noise": "ω √(1-ᾱ_t)",
        },
        {},
        tuple(
            Cell({"process": process, "T'": start}, "forward", noise("gaussian"), settings={"start": start, "omega": omega})
            for process, omega in (("noising", 1.0), ("scaling", 0.0))
            for start in FORWARD_STEPS
        ),
        ("In pixels, as in the paper, with the schedule of the configuration. Scaling loses no structure: its correlation stays 1.",),
        x="T'",
    ),
    Experiment(
        "time",
        "Time per image",
        {
            "seconds": "seconds per image",
            "fps": "images per second",
            "calls": "network calls per image",
            "preset_calls": "network calls of the preset",
            "preset_seconds": "seconds with those (estimate)",
            "million_parameters": "million parameters",
            "pixels": "frame, pixels",
        },
        {},
        (
            Cell({"settings": "this study"}, "speed"),
            *(Cell({"settings": name}, "speed", preset=name) for name in PRESETS),
        ),
        (
            "Untrained networks, whose speed is the same. From the image in memory to its score, each image alone, all threads of the machine. "
            "The estimate scales the time with the number of network calls.",
        ),
    ),
)  # fmt: skip

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
NOISES = "noises"  # uses no data and is no table: see `noises`
# The farthest that any cell noises an image, so that all cells of a noise share one training.
T_MAX = max(start for experiment in _ALL for cell in experiment.cells for start in cell.scoring.get("starts", [1]))
