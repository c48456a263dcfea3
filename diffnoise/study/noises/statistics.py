"""What the study measures of noise: moments, histograms, asymmetry and radial power spectra, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np

BIN = 0.05  # width of a histogram's bin
REACH = 200  # bins on either side of the central one: values beyond +-10 count in the outermost ones
BLOCK = 1 << 20  # values that are worked on at a time


@dataclass(frozen=True)
class Moments:
    """Count, mean, sums of powers of deviations and extremes of a set of values; `a + b` describes the two sets as one.

    With m_k = mean((x - mean)^k): deviation = sqrt(m_2), skewness = m_3 / m_2^1.5 (0 where the distribution is symmetric about its
    mean), kurtosis = m_4 / m_2^2 (not in excess: 3 for a normal distribution), NaN where all values are equal. Sources: Kumar et
    al. 2025 (DTU-Net), section 8.1; merging by Pebay 2008 (SAND2008-6212), equations 1.5 and 1.6.
    """

    count: int
    mean: float
    second: float  # sum of (x - mean)^2
    third: float
    fourth: float
    minimum: float
    maximum: float

    @staticmethod
    def of(values: np.ndarray) -> Moments:
        """Those of an array of any shape; raises `ValueError` if it is empty."""
        flat = np.asarray(values).reshape(-1)
        if flat.size == 0:
            raise ValueError("There are no moments of no values.")
        return reduce(Moments.__add__, (_moments(flat[at : at + BLOCK]) for at in range(0, flat.size, BLOCK)))

    def __add__(self, other: Moments) -> Moments:
        a, b, n = self.count, other.count, self.count + other.count
        delta = other.mean - self.mean
        step = delta / n
        fourth = self.fourth + other.fourth
        fourth += delta * step**3 * a * b * (a * a - a * b + b * b)
        fourth += 6 * step**2 * (a * a * other.second + b * b * self.second)
        fourth += 4 * step * (a * other.third - b * self.third)
        third = self.third + other.third + delta * step**2 * a * b * (a - b)
        third += 3 * step * (a * other.second - b * self.second)
        second = self.second + other.second + delta * step * a * b
        low, high = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return Moments(n, self.mean + b * step, second, third, fourth, low, high)

    @property
    def deviation(self) -> float:
        return math.sqrt(self.second / self.count)

    @property
    def skewness(self) -> float:
        return self.third / self.count / self.deviation**3 if self.second else math.nan

    @property
    def kurtosis(self) -> float:
        return self.fourth * self.count / self.second**2 if self.second else math.nan


def _moments(values: np.ndarray) -> Moments:
    x = values.astype(np.float64)
    mean = float(x.mean())
    x -= mean
    square = x * x
    sums = (float(square.sum()), float(square @ x), float(square @ square))
    return Moments(x.size, mean, *sums, float(values.min()), float(values.max()))


def histogram(values: np.ndarray) -> np.ndarray:
    """Counts in bins of width `BIN` around k * BIN, k = -REACH..REACH, int64 [2 REACH + 1]; add those of several arrays.

    The bins lie symmetrically about 0, the central one around it. Values beyond the last bins count in these.
    """
    counts = np.zeros(2 * REACH + 1, np.int64)
    flat = np.asarray(values).reshape(-1)
    for at in range(0, flat.size, BLOCK):
        index = np.rint(flat[at : at + BLOCK].astype(np.float64) / BIN).clip(-REACH, REACH).astype(np.int64)
        counts += np.bincount(index + REACH, minlength=counts.size)
    return counts


def asymmetry(counts: np.ndarray) -> float:
    """How far a histogram [2 K + 1] is from its mirror image about 0: sum_k |p_k - p_-k| / 2, with p its shares.

    It is the share of the values that would have to move: 0 for a histogram that is symmetric about 0, 1 where all values have
    one sign. It takes in both a shift of the centre and a skewed shape.
    """
    shares = counts / counts.sum()
    return float(np.abs(shares - shares[::-1]).sum() / 2)


def radial_power(images: np.ndarray) -> np.ndarray:
    """Power against spatial frequency, averaged over directions: [..., H, W] -> float64 [..., K], K = max(H, W) // 2.

    Entry k - 1 belongs to the frequency k / max(H, W) cycles per pixel, and is the mean of |DFT(w (x - m))|^2 / sum(w^2) over all
    frequencies (f_y, f_x) whose length rounds to it. w is the Hann window sin^2(pi (y + 1/2) / H) sin^2(pi (x + 1/2) / W), without which the
    jump between opposite borders would look like a 1/f^2 part, and m the mean weighted by w. White noise of variance v has
    power v everywhere.
    """
    height, width = images.shape[-2:]
    side = max(height, width)
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))
    values = images.astype(np.float64)
    values -= (values * window).sum((-2, -1), keepdims=True) / window.sum()
    spectrum = np.fft.rfft2(values * window)
    power = (spectrum.real**2 + spectrum.imag**2) / (window**2).sum()
    radius = side * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    ring = np.rint(radius).astype(np.int64).clip(0, side // 2 + 1).ravel()
    # The half-plane holds one of each pair of opposite frequencies; the columns 0 and width / 2 hold both.
    column = np.arange(width // 2 + 1)
    pairs = np.broadcast_to(np.where((column > 0) & (2 * column < width), 2.0, 1.0), radius.shape).ravel()
    weight = np.bincount(ring, pairs, side // 2 + 2)[1 : side // 2 + 1]
    rows = power.reshape(-1, ring.size)
    sums = np.array([np.bincount(ring, row * pairs, side // 2 + 2)[1 : side // 2 + 1] for row in rows])
    return (sums / weight).reshape(*images.shape[:-2], side // 2)


def spectral_slope(power: np.ndarray, side: int, low: float = 1 / 32, high: float = 1 / 4) -> float:
    """The exponent a of power ~ f^a: a straight line through log power [K] from `radial_power`, low <= f <= high cycles per pixel.

    Least squares in log f and log power, each frequency weighted by 1/f, so that every octave counts the same. side: max(H, W) of
    the images. A fractal sum with persistence p has -2 + 2 log2(p): from one octave to the next, the energy changes by p^2 and the area that
    it covers in the plane of frequencies by 4. Raises `ValueError` where fewer than two frequencies lie in the range.
    """
    k = np.arange(1, len(power) + 1)
    inside = (k >= low * side) & (k <= high * side)
    if inside.sum() < 2:
        raise ValueError(f"Images of {side} pixels have fewer than two frequencies between {low} and {high}.")
    k, power = k[inside], power[inside]
    return float(np.polyfit(np.log(k), np.log(power), 1, w=1 / np.sqrt(k))[0])
