"""OpenSimplex as the original sums it: over the lattice points that its case analysis looks at, which leaves out a few."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from ._opensimplex import NORM, RADIUS_SQUARED, _gradient_index, gradients

# With the original's 15 digits: where coordinates tie, its choice hangs on the last bit.
STRETCH = {2: -0.211324865405187, 3: -1 / 6, 4: -0.138196601125011}
SQUISH = {2: 0.366025403784439, 3: 1 / 3, 4: 0.309016994374947}
# Besides its region's corners the original looks at D - 1 more lattice points. In regions 1 and 2, as offsets along the axes
# in the order of falling in-cell coordinates; in those above the middle, the mirror image.
FURTHER = {
    2: [[(1, 1, -1)]],
    3: [[(1, 1, -1, 0), (1, 1, 0, -1)], [(2, 0, 0, 0), (1, 1, 1, -1)]],
    4: [
        [(1, 1, -1, 0, 0), (1, 1, 0, -1, 0), (1, 1, 0, 0, -1)],
        [(2, 0, 0, 0, 0), (1, 1, 1, -1, 0), (1, 1, 1, 0, -1)],
    ],
}


@functools.cache
def looked_at(dims: int) -> list[list[tuple[int, ...]]]:
    """The offsets of each region 1 .. D; the last of a shorter list repeats out of reach, as (2, 2, ...)."""
    lists = []
    for region in range(1, dims + 1):
        corners = [c for c in itertools.product((0, 1), repeat=dims + 1) if sum(c) == region]
        if 2 * region <= dims + 1:
            further = FURTHER[dims][region - 1]
        else:
            further = [tuple(1 - v for v in reversed(c)) for c in FURTHER[dims][dims - region]]
        lists.append(corners + further)
    longest = max(map(len, lists))
    return [offsets + [(2,) * (dims + 1)] * (longest - len(offsets)) for offsets in lists]


class _BestTwo:
    """The two best of a series of sets of axes (as bits): a later one displaces the worse of the two, where it is better."""

    def __init__(self, sets: list[Tensor], scores: list[Tensor]) -> None:
        self.sets, self.scores = list(sets), list(scores)

    def challenge(self, other: Tensor, score: Tensor) -> None:
        second_is_worse = self.scores[0] >= self.scores[1]
        for i, worse in enumerate((~second_is_worse, second_is_worse)):
            better = worse & (score > self.scores[i])
            self.sets[i] = torch.where(better, other, self.sets[i])
            self.scores[i] = torch.where(better, score, self.scores[i])


def _nearest_corners(f: list[Tensor], region: Tensor) -> tuple[Tensor, Tensor]:
    """The two corners of each point's region that are nearest by the original's comparisons, as bits of axes."""
    dims = len(f) - 1
    bits = [torch.full_like(region, 1 << axis) for axis in range(dims + 1)]
    best = _BestTwo(bits[:2], f[:2])
    for axis in range(2, dims + 1):
        best.challenge(bits[axis], f[axis])
    if dims == 2:
        return best.sets[0], best.sets[1]
    if dims == 3:
        pairs = []
        for a, b in ((0, 1), (0, 2), (1, 2)):
            corner, beyond = bits[a] | bits[b], f[a] + f[b]
            far = beyond > 1
            pairs.append((torch.where(far, corner, 15 ^ corner), torch.where(far, beyond - 1, 1 - beyond)))
        middle = _BestTwo([pairs[1][0], pairs[0][0]], [pairs[1][1], pairs[0][1]])
        middle.challenge(*pairs[2])
    else:
        pairs = []
        for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
            one, other = f[a] + f[b], f[c] + f[d]
            pairs.append((torch.where(one > other, bits[a] | bits[b], bits[c] | bits[d]), torch.maximum(one, other)))
        middle = _BestTwo([pairs[0][0], pairs[1][0]], [pairs[0][1], pairs[1][1]])
        middle.challenge(*pairs[2])
        for axis in range(4):
            middle.challenge(bits[4] | bits[axis], f[4] + f[axis])
    at_end = (region == 1) | (region == dims)
    return tuple(torch.where(at_end, end, mid) for end, mid in zip(best.sets, middle.sets, strict=True))


def _ranks(f: list[Tensor], region: Tensor) -> list[Tensor]:
    """Each axis's rank in the order of falling in-cell coordinates, ties as the original decides them."""
    dims = len(f) - 1
    mirrored = 2 * region > dims + 1
    first, second = _nearest_corners([torch.where(mirrored, -c, c) for c in f], region)
    # 0 for an axis of both corners, 1 of one, 2 of none
    group = [2 - ((first >> axis) & 1) - ((second >> axis) & 1) for axis in range(dims + 1)]
    ranks = []
    for axis, own in enumerate(group):
        rank = sum((other < own) | ((other == own) & (i < axis)) for i, other in enumerate(group)).to(torch.int64)
        ranks.append(torch.where(mirrored, dims - rank, rank))
    return ranks


def original_sum(points: Tensor, table: Tensor) -> Tensor:
    """One octave with the original's lattice points: floating [N, P, D] and int64 [N, 256] to [N, P]."""
    dims = points.shape[-1]
    p = points.unbind(-1)
    stretch = sum(p[1:], p[0]) * STRETCH[dims]
    base = [torch.floor(c + stretch) for c in p]
    f = [c + stretch - b for c, b in zip(p, base, strict=True)]
    inside = sum(f[1:], f[0])
    region = torch.ones_like(inside, dtype=torch.int64)
    for border in range(1, dims):
        region = region + (inside >= border if border == dims - 1 > 1 else inside > border)
    squish = sum(base[1:], base[0]) * SQUISH[dims]
    from_base = [c - (b + squish) for c, b in zip(p, base, strict=True)]
    ranks = _ranks([*f, region - inside], region)
    offsets = torch.tensor(looked_at(dims), device=points.device)  # [region, n, rank]
    vectors = torch.tensor(gradients(dims), dtype=points.dtype, device=points.device)
    total = torch.zeros_like(p[0])
    for n in range(offsets.shape[1]):
        offset = [offsets[region - 1, n, rank] for rank in ranks[:dims]]
        squish = sum(offset).to(points.dtype) * SQUISH[dims]
        delta = [c - o - squish for c, o in zip(from_base, offset, strict=True)]
        attenuation = (RADIUS_SQUARED - sum(d * d for d in delta)).clamp_min(0)
        lattice = [b.to(torch.int64) + o for b, o in zip(base, offset, strict=True)]
        gradient = vectors[_gradient_index(table, lattice)]
        total = total + attenuation**4 * sum(g * d for g, d in zip(gradient.unbind(-1), delta, strict=True))
    return total / NORM[dims]
