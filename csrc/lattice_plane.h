#pragma once

// The plane that a map cuts out of the lattice, where every coordinate but x and y is constant, and the lattice points
// near it. They come in families whose discs in the plane are translates of each other.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "opensimplex.h"

namespace diffnoise {

// Safety margin of every reach, in wavelengths: far above float's rounding, so that a pixel left out would have
// received exactly 0.
constexpr double kMargin = 1e-4;

// A permutation, and the gradient that each of its entries stands for: its index, and as in PackedGradients.
struct LatticeTables {
    std::uint8_t permutation[256], gradient[256];
    std::int32_t packed[256];
};

template <int D>
void make_tables(std::int64_t seed, LatticeTables& tables) {
    make_permutation(seed, tables.permutation);
    for (int i = 0; i < 256; ++i) {
        const int index = gradient_of<D>(tables.permutation[i]);
        tables.gradient[i] = static_cast<std::uint8_t>(index);
        tables.packed[i] = kPackedGradients<D>.of[index];
    }
}

// The plane that an octave cuts out of the lattice, in wavelengths.
template <int D>
struct Plane {
    double wavelength, amplitude;
    double shift[2];     // of x and y
    double constant[2];  // the other coordinates, shift included
    const LatticeTables* tables;
};

// Lattice points (u, v) at (u + x, v + y) in the plane.
struct Family {
    double x, y;
    double left;            // 2 minus the squared distance along the constant axes
    double d[2];            // offsets along the constant axes
    double reach;           // radius of the disc, margin included
    std::int64_t index[2];  // along the constant axes; of the line 0 in 3-D
    std::int64_t rest;      // u + v; of the line 0 in 3-D
    std::int64_t lines;
};

// A line of a family: u + v = rest. i = u + diagonal, j = v + diagonal are the point's indices along x and y.
struct Line {
    std::int64_t rest, diagonal, index[2];
};

template <int D>
DN_HD Line line_of(const Family& family, std::int64_t n) {
    if constexpr (D == 3) {
        const std::int64_t k = family.index[0] + n;
        return {family.rest - 6 * n, k, {k, 0}};
    }
    return {family.rest, 0, {family.index[0], family.index[1]}};
}

struct Bounds {
    double x_low, x_high, y_low, y_high;  // in wavelengths
};

DN_HD std::int64_t ceiling(double x) { return static_cast<std::int64_t>(std::ceil(x)); }
DN_HD std::int64_t floored(double x) { return static_cast<std::int64_t>(std::floor(x)); }
DN_HD double reach_of(double left) { return std::sqrt(left > 0 ? left : 0) + kMargin; }

// Calls found(family) for all lattice points in reach of the bounds, in an order that depends on the lattice only.
template <int D, class F>
DN_HD void for_each_family(const Plane<D>& plane, const Bounds& bounds, const F& found) {
    constexpr double squish = Lattice<D>::squish;
    const double x_shift = plane.shift[0], y_shift = plane.shift[1];
    const double low = bounds.x_low + bounds.y_low + x_shift + y_shift;
    const double high = bounds.x_high + bounds.y_high + x_shift + y_shift;
    Family family{};
    const auto set = [&](double offset, double left) __attribute__((always_inline)) {
        family.x = offset - x_shift, family.y = offset - y_shift, family.left = left, family.reach = reach_of(left);
    };
    if constexpr (D == 2) {
        // The line i + j = s lies at x + y = s (1 + 2 squish).
        const double reach = reach_of(2 * kRadiusSquared), spacing = 1 + 2 * squish;
        const std::int64_t end = floored((high + reach) / spacing);
        for (std::int64_t s = ceiling((low - reach) / spacing); s <= end; ++s) {
            set(squish * static_cast<double>(s), kRadiusSquared);
            family.rest = s, family.lines = 1;
            found(family);
        }
    } else if constexpr (D == 3) {
        // All points at the same z = m / 3: k = any, i + j = m - 4 k, so that u + v = m - 6 k for u = i - k, v = j - k.
        const double z = plane.constant[0], reach = reach_of(kRadiusSquared);
        const std::int64_t end = floored(3 * (z + reach));
        for (std::int64_t m = ceiling(3 * (z - reach)); m <= end; ++m) {
            const double offset = static_cast<double>(m) / 3;
            family.d[0] = z - offset;
            set(offset, kRadiusSquared - family.d[0] * family.d[0]);
            const double across = reach_of(2 * family.left), middle = static_cast<double>(m) + 2 * offset;
            const std::int64_t first = ceiling((middle - high - across) / 6),
                               last = floored((middle - low + across) / 6);
            if (last < first) continue;
            family.index[0] = first, family.rest = m - 6 * first, family.lines = last - first + 1;
            found(family);
        }
    } else {
        const double z = plane.constant[0], w = plane.constant[1], reach = reach_of(4 * kRadiusSquared);
        const double spacing = 1 + 4 * squish;
        const std::int64_t end = floored((high + z + w + reach) / spacing);
        for (std::int64_t s = ceiling((low + z + w - reach) / spacing); s <= end; ++s) {
            const double offset = squish * static_cast<double>(s);
            const double far_w = reach_of(kRadiusSquared);
            const std::int64_t l_end = floored(w - offset + far_w);
            for (std::int64_t l = ceiling(w - offset - far_w); l <= l_end; ++l) {
                family.d[1] = w - offset - static_cast<double>(l);
                const double left = kRadiusSquared - family.d[1] * family.d[1], far_z = reach_of(left);
                const std::int64_t k_end = floored(z - offset + far_z);
                for (std::int64_t k = ceiling(z - offset - far_z); k <= k_end; ++k) {
                    family.d[0] = z - offset - static_cast<double>(k);
                    set(offset, left - family.d[0] * family.d[0]);
                    const double middle = static_cast<double>(s - k - l) + 2 * offset;
                    const double across = reach_of(2 * family.left);
                    if (middle < low - across || middle > high + across) continue;
                    family.index[0] = k, family.index[1] = l, family.rest = s - k - l, family.lines = 1;
                    found(family);
                }
            }
        }
    }
}

// The u of a line's points in reach of the bounds, as [begin, end].
struct Range {
    std::int64_t begin, end;
};
DN_HD Range range_of(const Family& family, const Line& line, const Bounds& bounds) {
    const double r = family.reach;
    return {std::max(ceiling(bounds.x_low - r - family.x), line.rest - floored(bounds.y_high + r - family.y)),
            std::min(floored(bounds.x_high + r - family.x), line.rest - ceiling(bounds.y_low - r - family.y))};
}

// A lattice point's gradient, scaled: gradient . offset = g_0 + g_x dx + g_y dy.
template <class T>
struct Slope {
    T g_x, g_y, g_0;
};

// All gradients times amplitude / norm.
template <int D, class T>
struct ScaledGradients {
    T component[Lattice<D>::gradients][4];

    DN_HD explicit ScaledGradients(double amplitude) {
        for (int index = 0; index < Lattice<D>::gradients; ++index) {
            for (int axis = 0; axis < 4; ++axis) {
                component[index][axis] =
                    axis < D ? static_cast<T>(amplitude / Lattice<D>::norm * gradient_component<D>(index, axis)) : T{};
            }
        }
    }

    DN_HD Slope<T> operator()(const LatticeTables& tables, const Line& line, std::int64_t u, T d_2, T d_3) const {
        const std::int64_t v[4] = {u + line.diagonal, line.rest - u + line.diagonal, line.index[0], line.index[1]};
        const T* g = component[tables.gradient[lattice_hash<D>(tables.permutation, v)]];
        if constexpr (D == 2) return {g[0], g[1], T{}};
        if constexpr (D == 3) return {g[0], g[1], g[2] * d_2};
        return {g[0], g[1], g[2] * d_2 + g[3] * d_3};
    }
};

}  // namespace diffnoise
