#pragma once

// Gather form of OpenSimplex: the lattice points around one point.

#include <cmath>
#include <cstdint>

#include "opensimplex.h"

namespace diffnoise {

// Offsets from a cell's base point to the lattice points in reach of the cell; one hexadecimal digit per axis, plus 2.
constexpr std::uint16_t kOffsets2[] = {
    0x12, 0x13, 0x21, 0x22, 0x23, 0x24, 0x31, 0x32, 0x33, 0x34, 0x42, 0x43,
};
constexpr std::uint16_t kOffsets3[] = {
    0x123, 0x132, 0x133, 0x213, 0x222, 0x223, 0x224, 0x231, 0x232, 0x233, 0x234, 0x242, 0x243,
    0x312, 0x313, 0x321, 0x322, 0x323, 0x324, 0x331, 0x332, 0x333, 0x342, 0x422, 0x423, 0x432,
};
constexpr std::uint16_t kOffsets4[] = {
    0x1223, 0x1232, 0x1233, 0x1322, 0x1323, 0x1332, 0x1333, 0x2123, 0x2132, 0x2133, 0x2213, 0x2222,
    0x2223, 0x2224, 0x2231, 0x2232, 0x2233, 0x2234, 0x2242, 0x2243, 0x2312, 0x2313, 0x2321, 0x2322,
    0x2323, 0x2324, 0x2331, 0x2332, 0x2333, 0x2334, 0x2342, 0x2343, 0x2422, 0x2423, 0x2432, 0x2433,
    0x3122, 0x3123, 0x3132, 0x3133, 0x3212, 0x3213, 0x3221, 0x3222, 0x3223, 0x3224, 0x3231, 0x3232,
    0x3233, 0x3234, 0x3242, 0x3243, 0x3312, 0x3313, 0x3321, 0x3322, 0x3323, 0x3324, 0x3331, 0x3332,
    0x3333, 0x3342, 0x3422, 0x3423, 0x3432, 0x4222, 0x4223, 0x4232, 0x4233, 0x4322, 0x4323, 0x4332,
};

template <int D>
constexpr auto& offsets() {
    if constexpr (D == 2)
        return kOffsets2;
    else if constexpr (D == 3)
        return kOffsets3;
    else
        return kOffsets4;
}

// The same as numbers: the lattice points around a cell's base point, by index and by position.
template <int D>
struct Neighbours {
    static constexpr int count = sizeof(offsets<D>()) / sizeof(std::uint16_t);
    int index[count][D];
    double position[D][count];

    constexpr Neighbours() : index(), position() {
        for (int n = 0; n < count; ++n) {
            int sum = 0;
            for (int axis = 0; axis < D; ++axis) {
                index[n][axis] = ((offsets<D>()[n] >> (4 * (D - 1 - axis))) & 15) - 2;
                sum += index[n][axis];
            }
            for (int axis = 0; axis < D; ++axis) position[axis][n] = index[n][axis] + Lattice<D>::squish * sum;
        }
    }
};
template <int D>
constexpr Neighbours<D> kNeighbours;

// One octave at a point: the sum over all lattice points with r^2 < 2.
template <int D>
DN_HD double lattice_sum(const double* p, const std::uint8_t* permutation) {
    constexpr const Neighbours<D>& near = kNeighbours<D>;
    double sum = 0, base_sum = 0, from_base[D];
    std::int64_t base[D];
    for (int axis = 0; axis < D; ++axis) sum += p[axis];
    for (int axis = 0; axis < D; ++axis) {
        const double cell = std::floor(p[axis] + sum * Lattice<D>::stretch);
        base[axis] = static_cast<std::int64_t>(cell);
        base_sum += cell;
        from_base[axis] = p[axis] - cell;
    }
    for (int axis = 0; axis < D; ++axis) from_base[axis] -= Lattice<D>::squish * base_sum;

    double left[near.count];
    for (int n = 0; n < near.count; ++n) {
        left[n] = kRadiusSquared;
        for (int axis = 0; axis < D; ++axis) {
            const double d = from_base[axis] - near.position[axis][n];
            left[n] -= d * d;
        }
    }
    int reached[near.count], reached_count = 0;
    for (int n = 0; n < near.count; ++n) {
        reached[reached_count] = n;
        reached_count += !(left[n] <= 0);  // a NaN must stay in
    }
    double total = 0;
    for (int i = 0; i < reached_count; ++i) {
        const int n = reached[i];
        std::int64_t v[D];
        for (int axis = 0; axis < D; ++axis) v[axis] = base[axis] + near.index[n][axis];
        const double* gradient = kGradients<D>.component[gradient_index<D>(permutation, v)];
        double product = 0;
        for (int axis = 0; axis < D; ++axis) product += gradient[axis] * (from_base[axis] - near.position[axis][n]);
        total += (left[n] * left[n]) * (left[n] * left[n]) * product;
    }
    return total / Lattice<D>::norm;
}

}  // namespace diffnoise
