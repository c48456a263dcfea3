#pragma once

// Gather form of OpenSimplex: the lattice points around one point.
//
// Stretched coordinates, with minus their sum as one more axis, make the lattice's D + 1 axes alike and squared
// distances sums of squares. Within its unit cell a point then has coordinates f_0 .. f_D from 0 to 1 whose sum is
// whole: the cell's region, 1 .. D. Which lattice points are in reach depends on the region and on the order of the f
// alone.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "opensimplex.h"

namespace diffnoise {

// With the original's 15 digits: where coordinates tie, its choice of lattice points hangs on the last bit.
template <int D>
constexpr double kStretch = D == 2   ? -0.211324865405187
                            : D == 3 ? -1.0 / 6
                                     : -0.138196601125011;
template <int D>
constexpr double kSquish = D == 2   ? 0.366025403784439
                           : D == 3 ? 1.0 / 3
                                    : 0.309016994374947;

// The lattice points in reach of regions 1 and 2 that are no corners of the region itself: offsets from the cell's base
// point along the axes in the order of falling f. The original looks at the first D - 1 of each.
struct Further {
    int count;
    int offset[6][5];
};
constexpr Further kFurther[3][2] = {
    {{1, {{1, 1, -1}}}},
    {{3, {{1, 1, -1, 0}, {1, 1, 0, -1}, {1, 0, 1, -1}}}, {2, {{2, 0, 0, 0}, {1, 1, 1, -1}}}},
    {{6, {{1, 1, -1, 0, 0}, {1, 1, 0, -1, 0}, {1, 1, 0, 0, -1}, {1, 0, 1, -1, 0}, {1, 0, 1, 0, -1}, {1, 0, 0, 1, -1}}},
     {5, {{2, 0, 0, 0, 0}, {1, 1, 1, -1, 0}, {1, 1, 1, 0, -1}, {1, 1, 0, 1, -1}, {1, 0, 1, 1, -1}}}},
};

// All lattice points in reach, and those that the original looks at. A word holds the n-th of every region, two bits
// for an offset plus 1: those of an axis begin at bit 2 * place, where place = (region - 1) * (D + 1) + the axis's
// rank.
template <int D>
struct Corners {
    static constexpr int count = D == 2 ? 4 : D == 3 ? 8 : 15, original_count = D == 4 ? 13 : count;
    std::uint64_t all[count], original[original_count];

    constexpr Corners() : all(), original() {
        constexpr int axes = D + 1;
        for (int region = 1; region <= D; ++region) {
            std::uint64_t found[count] = {};
            int number = 0;
            for (std::uint64_t corner = 0; corner < 1 << axes; ++corner) {
                int sum = 0;
                for (int rank = 0; rank < axes; ++rank) sum += corner >> rank & 1;
                if (sum != region) continue;
                for (int rank = 0; rank < axes; ++rank) found[number] |= ((corner >> rank & 1) + 1) << 2 * rank;
                ++number;
            }
            const int in_original = number + D - 1;
            // Regions above the middle are mirror images: 1 - offset, in the opposite order.
            const bool mirrored = 2 * region > axes;
            const Further& further = kFurther[D - 2][(mirrored ? axes - region : region) - 1];
            for (int i = 0; i < further.count; ++i, ++number) {
                for (int rank = 0; rank < axes; ++rank) {
                    const int offset = mirrored ? 1 - further.offset[i][D - rank] : further.offset[i][rank];
                    found[number] |= static_cast<std::uint64_t>(offset + 1) << 2 * rank;
                }
            }
            const std::uint64_t out_of_reach = (1 << 2 * axes) - 1;
            const int shift = 2 * axes * (region - 1);
            for (int n = 0; n < count; ++n) all[n] |= (n < number ? found[n] : out_of_reach) << shift;
            for (int n = 0; n < original_count; ++n) {
                original[n] |= (n < in_original ? found[n] : out_of_reach) << shift;
            }
        }
    }
};
template <int D>
constexpr Corners<D> kCorners;

template <class Real>
DN_HD Real round_down(Real x) {
    if constexpr (std::is_same_v<Real, double>) {
        return std::floor(x);
    } else {
        for (std::size_t i = 0; i < sizeof(x) / sizeof(x[0]); ++i) x[i] = __builtin_floor(x[i]);
        return x;
    }
}

// Where a point lies in its cell, computed as the original does. Real is double or, for as many points, a vector of
// them.
template <int D, class Real = double>
struct Cell {
    Real base[D];       // the cell's base point, an index
    Real from_base[D];  // from there to the point
    Real f[D + 1];
    Real region;

    explicit DN_HD Cell(const Real* p) {
        Real sum = p[0], base_sum = {}, inside = {};
        for (int axis = 1; axis < D; ++axis) sum += p[axis];
        const Real stretch = sum * kStretch<D>;
        for (int axis = 0; axis < D; ++axis) {
            base[axis] = round_down(p[axis] + stretch);
            f[axis] = p[axis] + stretch - base[axis];
            base_sum += base[axis];
            inside += f[axis];
        }
        for (int axis = 0; axis < D; ++axis) from_base[axis] = p[axis] - (base[axis] + base_sum * kSquish<D>);
        const Real one = Real{} + 1;
        region = one;
        for (int border = 1; border < D; ++border) {
            const Real at = Real{} + border;
            region += (D > 2 && border == D - 1 ? inside >= at : inside > at) ? one : Real{};
        }
        f[D] = region - inside;
    }
};

// a < b ? x : y. In vectors by bits, as GCC takes conditions that depend on each other apart with AVX-512.
template <class Real>
DN_HD Real if_less(Real a, Real b, Real x, Real y) {
    if constexpr (std::is_same_v<Real, double>) {
        return a < b ? x : y;
    } else {
        using Words = decltype(a < b);
        const Words less = (Words)(a - b) >> 63;
        return (Real)((less & (Words)x) | (~less & (Words)y));
    }
}

// The two best of a series of corners, as the original finds them: a later one displaces the worse, where it is better.
template <class Real>
struct BestTwo {
    Real first, second, first_score, second_score;

    DN_HD void challenge(Real corner, Real score) {
        const Real new_first = if_less(first_score, score, corner, first);
        const Real new_second = if_less(second_score, score, corner, second);
        const Real better_first = if_less(first_score, score, score, first_score);
        const Real better_second = if_less(second_score, score, score, second_score);
        const Real first_before = first_score, second_before = second_score;
        first = if_less(first_before, second_before, new_first, first);
        second = if_less(first_before, second_before, second, new_second);
        first_score = if_less(first_before, second_before, better_first, first_score);
        second_score = if_less(first_before, second_before, second_score, better_second);
    }
};

// The two nearest corners of the point's region, by the original's comparisons. It places its further lattice points
// around them, which matters where coordinates tie. A corner is the sum of 4^axis over its axes, and the result is that
// of both.
template <int D, class Real>
DN_HD Real nearest_corners(const Cell<D, Real>& cell) {
    const Real one = Real{} + 1;
    const auto corner = [](int a, int b) { return Real{} + ((1 << 2 * a) + (1 << 2 * b)); };
    Real f[D + 1];  // in regions above the middle all is mirrored
    for (int axis = 0; axis <= D; ++axis) {
        f[axis] = if_less(Real{} + (D + 1), 2 * cell.region, -cell.f[axis], cell.f[axis]);
    }

    BestTwo<Real> best{one, Real{} + 4, f[0], f[1]};
    for (int axis = 2; axis <= D; ++axis) best.challenge(Real{} + (1 << 2 * axis), f[axis]);
    const Real at_end = best.first + best.second;
    if constexpr (D == 2) {
        return at_end;
    } else {
        // Between the ends corners are pairs of axes, and opposite ones have none in common.
        Real nearer[3], score[3];
        for (int i = 0; i < 3; ++i) {
            const int a = D == 3 && i == 2 ? 1 : 0, b = D == 3 && i == 2 ? 2 : i + 1;
            const int c = i == 0 ? 2 : D == 3 && i == 2 ? 0 : 1, d = D == 3 || i < 2 ? 3 : 2;
            const Real sum = f[a] + f[b], opposite = D == 3 ? one : f[c] + f[d];
            nearer[i] = if_less(opposite, sum, corner(a, b), corner(c, d));
            if constexpr (D == 3) {
                score[i] = if_less(one, sum, sum - one, one - sum);
            } else {
                score[i] = if_less(opposite, sum, sum, opposite);
            }
        }
        // Of equals, the third displaces the first in 3-D and the second in 4-D.
        constexpr int i = D == 3 ? 1 : 0, j = 1 - i;
        BestTwo<Real> middle{nearer[i], nearer[j], score[i], score[j]};
        middle.challenge(nearer[2], score[2]);
        for (int axis = 0; D == 4 && axis < D; ++axis) middle.challenge(corner(axis, D), f[D] + f[axis]);
        const Real between = middle.first + middle.second;
        return if_less(one, cell.region, if_less(cell.region, Real{} + D, between, at_end), at_end);
    }
}

// A number of the axis by which the original's order falls: of the nearest corners with that axis, in mirrored regions
// less.
template <int D, class Integer>
DN_HD Integer original_key(Integer corners, Integer region, int axis) {
    const Integer count = corners >> 2 * axis & 3;
    return 2 * region > Integer{} + (D + 1) ? -count : count;
}

// One octave at a point: the sum over all lattice points with r^2 < 2, or over those that the original looks at.
template <int D>
DN_HD double lattice_sum(const double* p, const std::uint8_t* permutation, bool original = false) {
    constexpr Corners<D> corners;  // a copy: device code cannot index kCorners
    const Cell<D> cell(p);
    const int region = static_cast<int>(cell.region), first_place = (region - 1) * (D + 1);
    double key[D + 1];
    int rank[D + 1] = {};  // of each axis, in the order of falling keys
    const int nearest = original ? static_cast<int>(nearest_corners(cell)) : 0;
    for (int axis = 0; axis <= D; ++axis) key[axis] = original ? original_key<D>(nearest, region, axis) : cell.f[axis];
    for (int a = 0; a <= D; ++a) {
        for (int b = a + 1; b <= D; ++b) {
            const int later = key[b] > key[a];
            rank[a] += later;
            rank[b] += 1 - later;
        }
    }
    double total = 0;
    for (int n = 0; n < (original ? corners.original_count : corners.count); ++n) {
        const std::uint64_t word = original ? corners.original[n] : corners.all[n];
        std::int64_t v[D];
        double offset[D], squish = 0, left = kRadiusSquared, product = 0;
        for (int axis = 0; axis < D; ++axis) {
            const int digit = word >> 2 * (first_place + rank[axis]) & 3;
            offset[axis] = digit - 1;
            squish += kSquish<D> * offset[axis];
            v[axis] = static_cast<std::int64_t>(cell.base[axis]) + digit - 1;
        }
        const int gradient = gradient_index<D>(permutation, v);
        for (int axis = 0; axis < D; ++axis) {
            const double d = cell.from_base[axis] - offset[axis] - squish;
            left -= d * d;
#ifdef __CUDA_ARCH__
            product += gradient_component<D>(gradient, axis) * d;
#else
            product += kGradients<D>.component[gradient][axis] * d;
#endif
        }
        left = left <= 0 ? 0 : left;  // a NaN must stay in
        total += (left * left) * (left * left) * product;
    }
    return total / Lattice<D>::norm;
}

}  // namespace diffnoise
