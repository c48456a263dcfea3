#pragma once

// The OpenSimplex v1 lattice (K. Spencer, 2014) in D = 2, 3 and 4 dimensions, as in diffnoise/ops/_opensimplex.py.
//
// A lattice point v lies at v + squish * sum(v) and adds max(2 - r^2, 0)^4 * (gradient . offset) / norm.

#include <cstdint>

#include "host_device.h"
#include "philox.h"

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

// Where an octave's origin lies when octaves are shifted: D numbers in [0, 256) wavelengths.
template <int D>
DN_HD void octave_shift(std::int64_t lattice_seed, std::int64_t octave, double* shift) {
    const Words words = Address(lattice_seed, 0, 0, octave, kStreamShift)(0);
    const std::uint32_t word[4] = {words.w0, words.w1, words.w2, words.w3};
    for (int axis = 0; axis < D; ++axis) shift[axis] = 256 * uniform<double>(word[axis]);
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

// The last entry of the permutation, of 256, that lattice point v leads to.
template <int D>
DN_HD std::uint8_t lattice_hash(const std::uint8_t* permutation, const std::int64_t* v) {
    std::uint8_t h = static_cast<std::uint8_t>(v[0]);
    for (int axis = 1; axis < D; ++axis) h = static_cast<std::uint8_t>(permutation[h] + v[axis]);
    return h;
}

// Which gradient the permutation's entry stands for.
template <int D>
DN_HD int gradient_of(std::uint8_t entry) {
    if constexpr (D == 2) return (entry & 0x0E) >> 1;
    if constexpr (D == 3) return entry % 24;
    return entry >> 2;
}

// Index of the gradient at lattice point v.
template <int D>
DN_HD int gradient_index(const std::uint8_t* permutation, const std::int64_t* v) {
    return gradient_of<D>(permutation[lattice_hash<D>(permutation, v)]);
}

// One coordinate of a gradient: the sign is a bit of the index's group, one axis of each group is long.
template <int D>
DN_HD constexpr int gradient_component(int index, int axis) {
    const int group = index / D, length = index % D == axis ? Lattice<D>::large : Lattice<D>::small;
    // The 3-D table lists the negative x first.
    const bool negative = ((group >> axis) & 1) != (D == 3 && axis == 0);
    return negative ? -length : length;
}

// All gradients as a table.
template <int D>
struct Gradients {
    double component[Lattice<D>::gradients][D];

    constexpr Gradients() : component() {
        for (int index = 0; index < Lattice<D>::gradients; ++index) {
            for (int axis = 0; axis < D; ++axis) component[index][axis] = gradient_component<D>(index, axis);
        }
    }
};
template <int D>
constexpr Gradients<D> kGradients;

// All gradients in the upper bytes of an integer, the last component in the highest.
template <int D>
struct PackedGradients {
    std::int32_t of[Lattice<D>::gradients];

    constexpr PackedGradients() : of() {
        for (int index = 0; index < Lattice<D>::gradients; ++index) {
            std::uint32_t bytes = 0;
            for (int axis = 0; axis < D; ++axis) {
                bytes |= static_cast<std::uint32_t>(gradient_component<D>(index, axis) & 255) << 8 * (4 - D + axis);
            }
            of[index] = static_cast<std::int32_t>(bytes);
        }
    }
};
template <int D>
constexpr PackedGradients<D> kPackedGradients;

}  // namespace diffnoise
