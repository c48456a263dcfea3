"""What one value of a result takes at least: operations on one lane of a vector register, counted by hand."""

from __future__ import annotations

import math

from ..ops._opensimplex import RADIUS_SQUARED, SQUISH

FLOP_PER_OPERATION = 2
"""An operation takes the place of a fused multiply-add, which the measured rate counts as two."""

EXP = 10
# Per output word of Philox4x32-10: 15; per value of Box and Muller's transform: 32 (logarithm, root, sine and cosine for two).
NORMAL = 47
# x_0 from x_t and the output 2, clipping 2, x_{t-1} from x_0, x_t and the output 3; its noise 1; a learned deviation 4 and exp.
STEP, ADD_NOISE, LEARNED = 7, 1, 4 + EXP
# The difference from the target, its share of x_0, and of x_{t-1}.
GUIDE = 3
# Per channel: the step's x_0 and clipping 4, the difference 2, log variances 2, square, products and sums 4, one exp.
DIVERGENCE = 12 + EXP
# The squared error, and per axis: three additions and a product for a mean of any size, else a multiply-add per tap.
SQUARED_ERROR, MEAN_FILTER = 2, 8
# Moments 3, normalising 2, SiLU: exp, a sum, a reciprocal of 6 and a product.
NORM_SILU = 5 + EXP + 8
# A value's key 4, its bucket 3, two comparisons with a sum each 4, its cell 3 and one more in its count.
RANK = 15
# A lattice point's term on a grid, where all but x is known per row: r^2, its positive part, two squarings, the gradient's
# product, the sum.
TERM_ON_A_GRID = 6


def vertices(dims: int) -> float:
    """Lattice points within reach of a point, on average: the kernel's ball over the lattice's cell."""
    ball = math.pi ** (dims / 2) / math.gamma(dims / 2 + 1) * RADIUS_SQUARED ** (dims / 2)
    return ball / (1 + dims * SQUISH[dims])


def filter_of(taps: int) -> float:
    return 2 * taps


def fractal(dims: int, octaves: int) -> float:
    return octaves * vertices(dims) * TERM_ON_A_GRID


def at_a_point(dims: int) -> float:
    """As on a grid, but r^2 and the gradient's product take an operation per dimension."""
    return vertices(dims) * (TERM_ON_A_GRID + 2 * (dims - 1))


def mixture(components: int, standardize: bool) -> float:
    """The separable sum; standardising multiplies and adds once more."""
    return components + (1 if standardize else 0)
