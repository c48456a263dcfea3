#pragma once

// OpenSimplex for the GPU: the lattice as parallel lines.
//
// All lattice points v with the same sum and the same last indices lie on one line along (1, -1), sqrt(2) apart, which
// is the radius of a kernel. So a line that passes a point within the radius has exactly two lattice points that can
// reach it, those around the point's foot on the line, and every thread does the same work for every line. With
//     along = (x - y + v_x + v_y) / 2,  across = (x + y - v_x - v_y) / 2 - squish sum(v),  u = along - v_x
// the squared distance is 2 (u^2 + across^2) + (the squared distance along the constant axes).
// Attenuations are halved here, so that they are at most 1 and the GPU's saturation is their maximum with 0.

#include <cmath>
#include <cstdint>
#include <limits>

#include "opensimplex.h"

namespace diffnoise {

constexpr double kRadius = 1.4142135623730951;
// Integers in an open interval of the kernel's diameter: at most.
constexpr int kAcross = 3;
// Lines with the same sum that can reach a point: at most.
template <int D>
constexpr int kLinesPerSum = D == 2   ? 1
                             : D == 3 ? kAcross
                                      : kAcross * kAcross;
// The same, without those that lie too far along the constant axes already: points of Z^2 in an open disc, at most.
template <int D>
constexpr int kReachedPerSum = D == 2   ? 1
                               : D == 3 ? kAcross
                                        : 7;
// How much sum(p) grows from one sum(v) to the next, and how far a kernel reaches in it.
template <int D>
constexpr double kSumSpacing = 1 + D * Lattice<D>::squish;
template <int D>
constexpr double kSumReach = D == 2   ? 2.0
                             : D == 3 ? 2.449489742783178
                                      : 2.8284271247461903;
// What the halved attenuation leaves of the divisor.
template <int D>
constexpr double kLineScale = 16 / Lattice<D>::norm;
// Beyond this a coordinate keeps too few digits behind the point, and in the end its indices are not exact.
constexpr double kFarthest = 0x1p50;

// The first sum(v) in reach of points whose sum is at least `low`.
template <int D>
DN_HD std::int64_t first_sum(double low) {
    return static_cast<std::int64_t>(std::ceil((low - kSumReach<D>) / kSumSpacing<D>));
}

// How many sums are in reach of points whose sum spans `extent`: at most.
template <int D>
DN_HD int count_sums(double extent) {
    return static_cast<int>((extent + 2 * kSumReach<D>) / kSumSpacing<D>) + 1;
}

// max(x, 0) of what is at most 1.
DN_HD float positive(float x) {
#ifdef __CUDA_ARCH__
    return __saturatef(x);
#else
    return x > 0 ? x : 0;
#endif
}
DN_HD double positive(double x) { return x > 0 ? x : 0; }

DN_HD int lowest_bit(std::uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __ffs(static_cast<int>(bits)) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

// A gradient in the plane's directions, two small integers as the two halves (bfloat16) of one word, and along the
// constant axes.
template <class T>
struct Gradient {
    std::uint32_t plane;
    T constant[2];
};
// The halves: gradient . offset = gradient_along * u + gradient_across * across + (constant axes).
DN_HD float gradient_along(std::uint32_t plane) { return std::bit_cast<float>(plane & 0xFFFF0000u); }
DN_HD float gradient_across(std::uint32_t plane) { return std::bit_cast<float>(plane << 16); }

template <int D, class T>
DN_HD Gradient<T> make_gradient(int index) {
    const float x = static_cast<float>(gradient_component<D>(index, 0));
    const float y = static_cast<float>(gradient_component<D>(index, 1));
    Gradient<T> gradient{std::bit_cast<std::uint32_t>(x - y) | std::bit_cast<std::uint32_t>(x + y) >> 16, {}};
    for (int axis = 2; axis < D; ++axis)
        gradient.constant[axis - 2] = static_cast<T>(gradient_component<D>(index, axis));
    return gradient;
}

// A permutation, and what its entries stand for: the last look-up of a lattice point's hash gives the gradient at once.
template <int D, class T>
struct LatticeTable {
    std::uint8_t permutation[256];
    Gradient<T> gradient[256];

    DN_HD void set(int i, std::uint8_t entry) {
        permutation[i] = entry;
        gradient[i] = make_gradient<D, T>(D == 2 ? (entry & 0x0E) >> 1 : D == 3 ? entry % 24 : entry >> 2);
    }
    // v: the lattice point, or its low bits. As gradient_index in opensimplex.h.
    template <class Index>
    DN_HD const Gradient<T>& at(const Index* v) const {
        std::uint8_t hash = static_cast<std::uint8_t>(v[0]);
        for (int axis = 1; axis < D; ++axis) hash = static_cast<std::uint8_t>(permutation[hash] + v[axis]);
        return gradient[hash];
    }
};

// The octaves' sum: sum over k of gain persistence^k n(2^k p / wavelength + shift_k).
struct FractalSum {
    std::int64_t octaves;
    double persistence, wavelength, gain;
    bool shift;
};

// A place in an octave's lattice.
template <int D>
DN_HD void octave_point(const double* place, double step, bool shift, std::int64_t lattice_seed, std::int64_t octave,
                        double* p) {
    double origin[4] = {};
    if (shift) octave_shift<D>(lattice_seed, octave, origin);
    for (int axis = 0; axis < D; ++axis) p[axis] = place[axis] * step + origin[axis];
}

// kernel * (gradient . offset) of one lattice point, less kLineScale.
template <class T>
DN_HD T line_term(T half_attenuation, T product) {
    const T square = half_attenuation * half_attenuation;
    return square * (square * product);
}

// One octave at a point, less kLineScale: the lines around it, each with its two lattice points.
template <int D, class T>
DN_HD T gather(const double* p, const LatticeTable<D, T>& table) {
    double total = 0;
    for (int axis = 0; axis < D; ++axis) {
        if (!(std::fabs(p[axis]) < kFarthest)) return std::numeric_limits<T>::quiet_NaN();
        total += p[axis];
    }
    std::int64_t sum = first_sum<D>(total);
    T result = 0;
    for (int i = 0; i < kAcross; ++i, ++sum) {
        const double shift = Lattice<D>::squish * static_cast<double>(sum);
        std::int64_t first[2] = {}, rest = sum;
        T d[2] = {};
        for (int axis = 2; axis < D; ++axis) {
            const double c = p[axis] - shift, low = std::ceil(c - kRadius);
            d[axis - 2] = static_cast<T>(c - low);
            first[axis - 2] = static_cast<std::int64_t>(low);
            rest -= first[axis - 2];
        }
        const double half_rest = 0.5 * static_cast<double>(rest), foot = 0.5 * (p[0] - p[1]) + half_rest;
        const T middle = static_cast<T>(0.5 * (p[0] + p[1]) - half_rest - shift);
        // What a line, the slot-th of its sum, leaves of the attenuation on the line itself, and its `across`.
        const auto line = [&](int slot, T& across) {
            T left = 1;
            for (int axis = 2; axis < D; ++axis) {
                const T offset = d[axis - 2] - static_cast<T>(axis == 2 ? slot % kAcross : slot / kAcross);
                left -= T(0.5) * offset * offset;
            }
            across = middle + T(0.5) * static_cast<T>(slot % kAcross + slot / kAcross);
            return left - across * across;
        };
        std::uint32_t reached = 0;
        for (int slot = 0; slot < kLinesPerSum<D>; ++slot) {
            T across;
            reached |= static_cast<std::uint32_t>(line(slot, across) > 0) << slot;
        }
        for (; reached; reached &= reached - 1) {
            const int slot = lowest_bit(reached), step = slot % kAcross + slot / kAcross;
            T across;
            const T left = line(slot, across);
            const double here = foot - 0.5 * step, below = std::floor(here);
            T u = static_cast<T>(here - below);
            std::int64_t v[4] = {static_cast<std::int64_t>(below), 0, first[0] + slot % kAcross,
                                 first[1] + slot / kAcross};
            for (int point = 0; point < 2; ++point, ++v[0], u -= 1) {
                v[1] = rest - step - v[0];
                const Gradient<T>& gradient = table.at(v);
                T product = gradient_along(gradient.plane) * u + gradient_across(gradient.plane) * across;
                for (int axis = 2; axis < D; ++axis) {
                    product += gradient.constant[axis - 2] *
                               (d[axis - 2] - static_cast<T>(axis == 2 ? slot % kAcross : slot / kAcross));
                }
                result += line_term(positive(left - u * u), product);
            }
        }
    }
    return result;
}

}  // namespace diffnoise
