#pragma once

// The OpenSimplex v1 lattice (K. Spencer, 2014) in D = 2, 3 and 4 dimensions, as in diffnoise/ops/_opensimplex.py.
//
// A lattice point v lies at v + squish * sum(v) and adds max(2 - r^2, 0)^4 * (gradient . offset) / norm.

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace diffnoise {

constexpr double kRadiusSquared = 2.0;

template <int D>
struct Lattice;
template <>
struct Lattice<2> {
    static constexpr double stretch = -0.21132486540518713, squish = 0.3660254037844386, norm = 47;
    static constexpr int gradients = 8, large = 5, small = 2;
};
template <>
struct Lattice<3> {
    static constexpr double stretch = -1.0 / 6, squish = 1.0 / 3, norm = 103;
    static constexpr int gradients = 24, large = 11, small = 4;
};
template <>
struct Lattice<4> {
    static constexpr double stretch = -0.13819660112501053, squish = 0.30901699437494745, norm = 30;
    static constexpr int gradients = 64, large = 3, small = 1;
};

// The seed of a channel whose lattice is its own: golden-ratio steps from the sample's.
DN_HD std::int64_t channel_seed(std::int64_t seed, std::int64_t channel) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(seed) +
                                     static_cast<std::uint64_t>(channel) * 0x9E3779B97F4A7C15u);
}

// The original's seeded shuffle of 0..255.
DN_HD void make_permutation(std::int64_t seed, std::uint8_t* table) {
    std::uint64_t state = static_cast<std::uint64_t>(seed);
    const auto step = [&state] { state = state * 6364136223846793005u + 1442695040888963407u; };
    for (int i = 0; i < 3; ++i) step();
    std::uint8_t source[256];
    for (int i = 0; i < 256; ++i) source[i] = static_cast<std::uint8_t>(i);
    for (int i = 255; i >= 0; --i) {
        step();
        std::int64_t r = static_cast<std::int64_t>(state + 31) % (i + 1);
        if (r < 0) r += i + 1;
        table[i] = source[r];
        source[r] = source[i];
    }
}

// Index of the gradient at lattice point v; a permutation has 256 entries.
template <int D>
DN_HD int gradient_index(const std::uint8_t* permutation, const std::int64_t* v) {
    std::uint8_t h = static_cast<std::uint8_t>(v[0]);
    for (int axis = 1; axis < D; ++axis) h = static_cast<std::uint8_t>(permutation[h] + v[axis]);
    h = permutation[h];
    if constexpr (D == 2) return (h & 0x0E) >> 1;
    if constexpr (D == 3) return h % 24;
    return h >> 2;
}

// One coordinate of a gradient: the sign is a bit of the index's group, one axis of each group is long.
template <int D>
DN_HD int gradient_component(int index, int axis) {
    const int group = index / D, length = index % D == axis ? Lattice<D>::large : Lattice<D>::small;
    // The 3-D table lists the negative x first.
    const bool negative = ((group >> axis) & 1) != (D == 3 && axis == 0);
    return negative ? -length : length;
}

// Offsets from a cell's base point to the lattice points in reach of the cell; one hexadecimal digit per axis, plus 2.
constexpr std::uint16_t kOffsets2[] = {
    0x12, 0x13, 0x21, 0x22, 0x23, 0x24, 0x31, 0x32, 0x33, 0x34, 0x42, 0x43,
};
constexpr std::uint16_t kOffsets3[] = {
    0x123, 0x132, 0x133, 0x213, 0x222, 0x223, 0x224, 0x231, 0x232, 0x233, 0x234, 0x242,
    0x243, 0x312, 0x313, 0x321, 0x322, 0x323, 0x324, 0x331, 0x332, 0x333, 0x342, 0x422,
    0x423, 0x432,
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
    if constexpr (D == 2) return kOffsets2;
    else if constexpr (D == 3) return kOffsets3;
    else return kOffsets4;
}

// One octave at a point: the sum over all lattice points with r^2 < 2.
template <int D>
DN_HD double lattice_sum(const double* p, const std::uint8_t* permutation) {
    constexpr double squish = Lattice<D>::squish;
    double sum = 0;
    for (int axis = 0; axis < D; ++axis) sum += p[axis];
    std::int64_t base[D], base_sum = 0;
    double from_base[D];
    for (int axis = 0; axis < D; ++axis) {
        const double cell = std::floor(p[axis] + sum * Lattice<D>::stretch);
        base[axis] = static_cast<std::int64_t>(cell);
        base_sum += base[axis];
    }
    for (int axis = 0; axis < D; ++axis) {
        from_base[axis] = p[axis] - static_cast<double>(base[axis]) - squish * static_cast<double>(base_sum);
    }
    double total = 0;
    for (const unsigned code : offsets<D>()) {
        std::int64_t v[D];
        double d[D], offset_sum = 0, left = kRadiusSquared;
        for (int axis = 0; axis < D; ++axis) {
            v[axis] = static_cast<int>((code >> (4 * (D - 1 - axis))) & 15) - 2;
            offset_sum += static_cast<double>(v[axis]);
        }
        for (int axis = 0; axis < D; ++axis) {
            d[axis] = from_base[axis] - static_cast<double>(v[axis]) - squish * offset_sum;
            left -= d[axis] * d[axis];
        }
        if (left <= 0) continue;
        for (int axis = 0; axis < D; ++axis) v[axis] += base[axis];
        const int index = gradient_index<D>(permutation, v);
        double product = 0;
        for (int axis = 0; axis < D; ++axis) product += gradient_component<D>(index, axis) * d[axis];
        total += (left * left) * (left * left) * product;
    }
    return total / Lattice<D>::norm;
}

}  // namespace diffnoise
