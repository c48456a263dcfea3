"""The anomalous regions of a mask."""

from __future__ import annotations

import numpy as np


def region_shares(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """1 / (area of its 8-connected region) for each pixel of a mask [H, W] in the order of `mask[mask]`, and how many regions there are."""
    from scipy.ndimage import label

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(0), 0
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # labelling takes long
    components, count = label(box, structure=np.ones((3, 3)))
    component = components[box]
    return 1 / np.bincount(component)[component], count
