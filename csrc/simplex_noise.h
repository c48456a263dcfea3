#pragma once

// Scatter form of OpenSimplex on an image: every coordinate but x and y is constant, so an octave is a plane through
// the lattice, and each lattice point near the plane reaches a disc of pixels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "opensimplex.h"

namespace diffnoise {

// Safety margin of every reach, in lattice units: far above float's rounding, so that a pixel left out would have
// received exactly 0, whatever the tile.
constexpr double kMargin = 1e-4;

// A lattice point as the plane sees it.
struct Vertex {
    double x, y;           // its position, in wavelengths
    double left;           // 2 minus the squared distance along the constant axes
    double g_x, g_y, g_0;  // gradient . offset = g_0 + g_x dx + g_y dy
};

// Part of a plane: x and y ranges and the constant coordinates, in wavelengths.
template <int D>
struct Patch {
    double x_low, x_high, y_low, y_high;
    double constant[2];
};

// Calls found(v, squish * sum(v), d, left) for every lattice point in reach of the patch, in an order that depends on
// the lattice only: by the sum of the indices, then the last index down to the third, then the first. d: offsets along
// the constant axes.
template <int D, class F>
void walk_lattice(const Patch<D>& patch, const F& found) {
    constexpr double squish = Lattice<D>::squish;
    double middle = 0;
    for (int axis = 2; axis < D; ++axis) middle += patch.constant[axis - 2];
    const double reach = std::sqrt(kRadiusSquared * D) + kMargin, spacing = 1 + D * squish;
    const auto first = [](double bound) { return static_cast<std::int64_t>(std::ceil(bound)); };
    const auto last = [](double bound) { return static_cast<std::int64_t>(std::floor(bound)); };

    std::int64_t v[4];
    double d[2];
    const std::int64_t sum_end = last((patch.x_high + patch.y_high + middle + reach) / spacing);
    for (std::int64_t sum = first((patch.x_low + patch.y_low + middle - reach) / spacing); sum <= sum_end; ++sum) {
        const double shift = squish * static_cast<double>(sum);
        const auto row = [&](std::int64_t rest, double left) {
            const double r = std::sqrt(left > 0 ? left : 0) + kMargin;
            const std::int64_t begin = std::max(first(patch.x_low - r - shift), rest - last(patch.y_high + r - shift));
            const std::int64_t end = std::min(last(patch.x_high + r - shift), rest - first(patch.y_low - r - shift));
            for (v[0] = begin; v[0] <= end; ++v[0]) {
                v[1] = rest - v[0];
                found(v, shift, d, left);
            }
        };
        const auto constant_axis = [&](auto self, auto axis, std::int64_t rest, double left) -> void {
            constexpr int a = decltype(axis)::value;
            if constexpr (a < 2) {
                row(rest, left);
            } else {
                const double c = patch.constant[a - 2] - shift, r = std::sqrt(left > 0 ? left : 0) + kMargin;
                const std::int64_t end = last(c + r);
                for (std::int64_t i = first(c - r); i <= end; ++i) {
                    v[a] = i;
                    d[a - 2] = c - static_cast<double>(i);
                    self(self, std::integral_constant<int, a - 1>{}, rest - i, left - d[a - 2] * d[a - 2]);
                }
            }
        };
        constant_axis(constant_axis, std::integral_constant<int, D - 1>{}, sum, kRadiusSquared);
    }
}

// What a lattice point adds to pixels: T is a number or a vector of them. left: 2 minus the squared distance along y
// and the constant axes. g: gradient . offset along the same axes.
template <class T, class S>
DN_HD T vertex_term(S left, S g, T dx, T g_dx) {
    T attenuation = left - dx * dx;
    attenuation = attenuation > 0 ? attenuation : T{};
    attenuation *= attenuation;
    return attenuation * attenuation * (g + g_dx);
}

}  // namespace diffnoise
