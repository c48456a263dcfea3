"""What the papers print, for the tables of `experiments`; shares, not per cent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A paper's own figures.

    source: paper and table. conditions: what they were measured on. rows: (at, values), with the keys of the cells' `at` and of the
    experiment's quantities; where `at` is that of no cell, the row stands alone. notes: what to know about them.
    """

    source: str
    conditions: str
    rows: tuple[tuple[dict[str, Any], dict[str, float]], ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, place: dict[str, Any]) -> dict[str, float]:
        """The values printed for a cell, empty if none are."""
        return next((values for at, values in self.rows if at == place), {})


_S1 = "Tebbe and Tayyub 2024 (Dynamic Addition of Noise in a Diffusion Model for Anomaly Detection)"
_S2 = "Fučka, Zavrtanik and Skočaj 2024 (noise distributions in diffusion models for surface anomaly detection)"
_S4 = "Kumar et al. 2025 (DTU-Net)"
_VISA = "means over the 12 categories of VisA; the ablation of the ICLR 2024 submission of the same work"


def _table(columns: str, values: tuple[int, ...], kinds: dict[str, tuple[float, ...]]) -> list[tuple[Any, Any]]:
    return [
        ({"noise": kind, columns: value}, {"image_AUROC": round(figure / 100, 3)})
        for kind, figures in kinds.items()
        for value, figure in zip(values, figures, strict=True)
    ]


def _noise_steps() -> tuple[tuple[dict[str, Any], dict[str, float]], ...]:
    kinds = {
        "gaussian": (87.2, 90.8, 93.0, 90.1),
        "simplex": (81.7, 82.4, 83.5, 82.8),
        "gmm": (89.0, 89.1, 90.4, 89.6),
    }
    pixels = {"gaussian": (0.923, 0.662), "simplex": (0.831, 0.423), "gmm": (0.884, 0.511)}  # table 2, at T' = 200
    rows = _table("T'", (10, 50, 200, 500), kinds)
    for at, values in rows:
        if at["T'"] == 200:
            values |= dict(zip(("pixel_AUROC", "pixel_AP"), pixels[at["noise"]], strict=True))
    return tuple(rows)


def _ablation(image: float, pro: float, pixel: float) -> dict[str, float]:
    return {
        "image_AUROC": round(image / 100, 3),
        "pixel_AUPRO": round(pro / 100, 3),
        "pixel_AUROC": round(pixel / 100, 3),
    }


def _losses() -> tuple[tuple[dict[str, Any], dict[str, float]], ...]:
    # Dice and its deviation, IoU, AUC, "Precision", "Recall", ECE(ae), ECE(se), as printed.
    printed = {
        "l1": (0.3861, 0.2267, 0.2657, 0.6961, 0.4436, 0.4192, 0.0342, 0.0705),
        "l2": (0.3970, 0.2320, 0.2757, 0.6946, 0.4415, 0.4454, 0.3011, 0.0900),
        "ssim": (0.3541, 0.2259, 0.2401, 0.6717, 0.4083, 0.3737, 0.0435, 0.0674),
        "ms_ssim": (0.2239, 0.1471, 0.1347, 0.6682, 0.5827, 0.1549, 0.0293, 0.0722),
        "l2+vlb": (0.4210, 0.2390, 0.2977, 0.7084, 0.4634, 0.4621, 0.0332, 0.0711),
        "l2+vlb+ssim": (0.2772, 0.2080, 0.1802, 0.6810, 0.5858, 0.2124, 0.0164, 0.0716),
        "l2+vlb+ms_ssim": (0.2648, 0.1947, 0.1691, 0.6791, 0.5891, 0.1980, 0.0828, 0.0621),
    }
    rows: list[tuple[dict[str, Any], dict[str, float]]] = []
    for loss, (dice, spread, iou, auc, as_precision, as_recall, ece_ae, ece_se) in printed.items():
        shares = {
            "Dice": dice,
            "Dice_sd": spread,
            "IoU": iou,
            "pixel_AUROC_per_image": auc,
            "precision": as_recall,
            "recall": as_precision,
        }
        rows += [
            ({"loss": loss, "map": "squared"}, shares | {"ECE": ece_se}),
            ({"loss": loss, "map": "absolute"}, {"ECE": ece_ae}),
        ]
    rows += [
        ({"loss": "l2+tv", "map": "squared"}, {"ECE": 0.06214}),
        ({"loss": "l2+tv", "map": "absolute"}, {"ECE": 0.08288}),
    ]
    return tuple(rows)


PUBLISHED = {
    "noise-steps": Published(
        f"{_S2}, tables 3 and 2",
        "means over the 15 categories of MVTec AD, 2000 epochs",
        _noise_steps(),
        (
            "The paper's text swaps Gaussian and mixture noise (90.4 and 93.0); abstract, tables and conclusion agree on 93.0 for Gaussian noise. "
            "Its conclusion gives simplex noise 81.5, its tables 83.5.",
        ),
    ),
    "filter-size": Published(
        f"{_S2}, table 4",
        "means over the 15 categories of MVTec AD, 2000 epochs",
        tuple(
            _table(
                "filter",
                (1, 5, 11, 17),
                {
                    "gaussian": (80.8, 90.3, 93.0, 92.8),
                    "simplex": (80.3, 81.5, 83.5, 82.8),
                    "gmm": (89.8, 90.4, 90.2, 89.9),
                },
            )
        ),
    ),
    "omega": Published(
        f"{_S1}, figure 13",
        _VISA,
        (({"omega": 0.0}, _ablation(96.0, 94.1, 97.9)), ({"omega": 1.0}, _ablation(90.8, 83.8, 93.2))),
        (
            "The figure prints no numbers; the text says that all decline as omega rises. The two ends are from the ablation with and without "
            "noiseless scaling.",
        ),
    ),
    "dynamic-steps": Published(
        f"{_S1}, ablation of the number of steps",
        _VISA,
        (
            ({"T'": 20}, _ablation(95.2, 94.3, 96.7)),
            ({"T'": 40}, _ablation(94.7, 94.1, 96.6)),
            ({"T'": 60}, _ablation(95.0, 94.2, 96.7)),
            ({"T'": 80}, _ablation(95.4, 94.0, 96.7)),
            ({"T'": "dynamic"}, _ablation(96.0, 94.1, 97.9)),
        ),
    ),
    "losses": Published(
        f"{_S4}, tables 5 and 7",
        "BrainMRI, T' and threshold not given",
        _losses(),
        (
            "The paper's columns Precision and Recall are probably swapped, and are shown here under the names that they probably deserve: the "
            "authors' code counts as false positive what is anomalous and was not found, and three rows as printed contradict the printed AUC if it is "
            "that of a mask.",
            "The paper does not say how its AUC is made. The authors' code averages one AUC per image, in one script over the map, in another over "
            "the mask, where it is the balanced accuracy.",
            "The paper's ECE has the number of bins for a divisor where the number of pixels belongs. Here it is the number of pixels.",
            "Table 7 prints for L2+TV the two ECE that table 5 prints for L2+vlb+MS-SSIM; one of the labels is wrong. The ECE(ae) of L2 is ten times "
            "all others.",
        ),
    ),
    "ssim-steps": Published(
        f"{_S4}, figures 6 and 13",
        "DTU-Net; a results file of the authors' code for step 50",
        tuple(
            ({"noise": kind, "T'": 50}, {"SSIM": value})
            for kind, value in (("gaussian", 0.7535), ("simplex", 0.83), ("tsimplex", 0.733), ("kts", 0.898))
        ),
        (
            "The figures print no numbers. The text says that KTs keeps the highest similarity and repairs anomalies poorly.",
        ),
    ),
    "forward": Published(f"{_S1}, figures 10 to 12", "pictures of VisA, without numbers"),
    "time": Published(
        f"{_S1}, table 9",
        "VisA, Nvidia Quadro 8000, batches of 30",
        tuple(
            ({"settings": f"paper: {name}"}, {"seconds": seconds, "fps": fps})
            for name, seconds, fps in (
                ("RD4AD", 0.21, 4.8),
                ("PatchCore", 0.21, 4.8),
                ("DRAEM", 0.23, 4.3),
                ("dynamic noise (theirs)", 0.34, 2.9),
            )
        ),
    ),
}
