#pragma once

// CPU: what an octave of OpenSimplex adds to a tile of a map.
//
// On a map every coordinate but x and y is constant: an octave is a plane through the lattice, and each lattice point
// near the plane reaches a disc of pixels. So the lattice points are walked and each adds its kernel to its pixels:
// its gradient is looked up once, not once per pixel. Lattice points come in families whose discs are translates of each
// other, so that at whole-pixel wavelengths the kernel's weights are computed once for many lattice points.
//
// A pixel's sum does not depend on the tile: positions are computed from the family's origin alone, and terms are added
// in the order of the lattice.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "isa.h"
#include "opensimplex.h"
#include "simplex_noise_at.h"

namespace diffnoise {

// Safety margin of every reach, in wavelengths: far above float's rounding, so that a pixel left out would have
// received exactly 0.
constexpr double kMargin = 1e-4;

// Tiles start at multiples of this in absolute x, so that whole registers meet them aligned.
constexpr std::int64_t kTileAlignment = 16;

// A tile of one map with its sum so far.
template <class T>
struct Tile {
    std::int64_t y, x;  // absolute, of the first pixel; x is a multiple of kTileAlignment
    std::int64_t rows, columns;
    std::int64_t skip;    // columns that nobody wants: they only fill up to the alignment
    T* sum;               // with kTileAlignment pixels to spare on either side of every row
    std::int64_t stride;  // from row to row of sum
};

// A permutation, and the gradient that each of its entries stands for.
struct LatticeTables {
    std::uint8_t permutation[256], gradient[256];
};

template <int D>
void make_tables(std::int64_t seed, LatticeTables& tables) {
    make_permutation(seed, tables.permutation);
    for (int i = 0; i < 256; ++i) tables.gradient[i] = static_cast<std::uint8_t>(gradient_of<D>(tables.permutation[i]));
}

// The plane that an octave cuts out of the lattice, in wavelengths.
template <int D>
struct Plane {
    double wavelength, amplitude;
    double shift[2];     // of x and y
    double constant[2];  // the other coordinates, shift included
    const LatticeTables* tables;
    bool by_points;
};

// Lattice points (u, v) at (u + x, v + y) in the plane.
struct Family {
    double x, y;
    double left;             // 2 minus the squared distance along the constant axes
    double d[2];             // offsets along the constant axes
    double reach;            // radius of the disc, margin included
    std::int64_t index[2];   // along the constant axes; of the line 0 in 3-D
    std::int64_t rest;       // u + v; of the line 0 in 3-D
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
            const std::int64_t first = ceiling((middle - high - across) / 6), last = floored((middle - low + across) / 6);
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

// max(left - dx^2, 0)^4
template <class V, class T>
DN_HD V kernel(T left, V dx_squared) {
    V attenuation = left - dx_squared;
    attenuation = attenuation > 0 ? attenuation : V{};
    attenuation *= attenuation;
    return attenuation * attenuation;
}

// Pixels within `reach` wavelengths of a position as [begin, end), clipped to `count` pixels from `start` on.
struct Span {
    std::int32_t begin, end;
};
DN_HD Span within(double position, double reach, double wavelength, std::int64_t start, std::int64_t count) {
    const double from = static_cast<double>(start), limit = static_cast<double>(count);
    const double low = std::ceil((position - reach) * wavelength) - from;
    const double high = std::floor((position + reach) * wavelength) + 1 - from;
    return {static_cast<std::int32_t>(low < 0 ? 0 : low > limit ? limit : low),
            static_cast<std::int32_t>(high < 0 ? 0 : high > limit ? limit : high)};
}

// The largest wavelength of the form below, and what its discs need at most.
constexpr double kStencilWavelength = 32;
constexpr int kStencilRows = 96;
constexpr std::int64_t kStencilWeights = kStencilRows * (kStencilRows + 2 * kTileAlignment);

// The weights of a disc on its pixels, in columns of one register's length.
template <class T, int Lanes>
class Stencil {
  public:
    explicit Stencil(T* weights) : weights_(weights) {}

    // For the family's point (u, 0), the first column at a multiple of `alignment`.
    DN_HD void build(const Family& family, std::int64_t u, double wavelength, int alignment) {
        const double step = 1 / wavelength, x = static_cast<double>(u) + family.x, y = family.y;
        row = ceiling((y - family.reach) * wavelength);
        rows_ = static_cast<int>(floored((y + family.reach) * wavelength) - row + 1);
        const std::int64_t begin = ceiling((x - family.reach) * wavelength);
        const std::int64_t end = floored((x + family.reach) * wavelength) + 1;
        column = begin & -static_cast<std::int64_t>(alignment);
        columns_ = end > begin && rows_ > 0 ? static_cast<int>((end - column + Lanes - 1) / Lanes) : 0;
        T left[kStencilRows];
        for (int i = 0; i < rows_; ++i) {
            const double d = static_cast<double>(row + i) * step - y;
            dy_[i] = static_cast<T>(d);
            left[i] = static_cast<T>(family.left - d * d);
        }
        for (int c = 0; c < columns_; ++c) {
            const std::int64_t start = column + c * Lanes;
            for (int lane = 0; lane < Lanes; ++lane) {
                dx_[c][lane] = static_cast<T>(static_cast<double>(start + lane) * step - x);
            }
            const double low = static_cast<double>(start) * step - x, high = low + (Lanes - 1) * step;
            const double nearest = low > 0 ? low : high < 0 ? high : 0;
            const Span span = within(y, reach_of(family.left - nearest * nearest), wavelength, row, rows_);
            first_[c] = span.begin, last_[c] = span.end;
            const V d = *reinterpret_cast<const V*>(dx_[c]), squared = d * d;
            V* weight = column_weights(c);
            for (int i = first_[c]; i < last_[c]; ++i) weight[i] = kernel(left[i], squared);
        }
    }

    bool empty() const { return columns_ == 0; }

    // Adds the disc of the point whose first pixel is at (y, x) of the tile.
    template <class Isa>
    DN_HD void add(const Slope<T>& slope, std::int64_t y, std::int64_t x, const Tile<T>& tile) const {
        T* sum = tile.sum + y * tile.stride + x;
        if (y >= 0 && y + rows_ <= tile.rows && x > -Lanes && x + columns_ * Lanes < tile.columns + Lanes) {
            for (int c = 0; c < columns_; ++c) add_column<Isa>(slope, c, first_[c], last_[c], sum, tile.stride);
            return;
        }
        const int low = static_cast<int>(std::max<std::int64_t>(-y, 0));
        const int high = static_cast<int>(std::min<std::int64_t>(rows_, tile.rows - y));
        for (int c = 0; c < columns_; ++c) {
            const std::int64_t at = x + c * Lanes;
            if (at <= -Lanes || at >= tile.columns) continue;
            add_column<Isa>(slope, c, std::max(low, first_[c]), std::min(high, last_[c]), sum, tile.stride);
        }
    }

    std::int64_t row = 0, column = 0;  // of the first pixel

  private:
    using V = Vector<T, Lanes>;
    static constexpr int kColumns = (kStencilRows + Lanes - 1) / Lanes + 1;

    DN_HD V* column_weights(int c) const { return reinterpret_cast<V*>(weights_) + c * rows_; }

    template <class Isa>
    DN_HD void add_column(const Slope<T>& slope, int c, int begin, int end, T* sum, std::int64_t stride) const {
        const V g_x = slope.g_0 + slope.g_x * *reinterpret_cast<const V*>(dx_[c]), g_y = slope.g_y - V{};
        const V* weight = column_weights(c);
        sum += begin * stride + c * Lanes;
        for (int i = begin; i < end; ++i, sum += stride) {
            UnalignedVector<T, Lanes>& total = *reinterpret_cast<UnalignedVector<T, Lanes>*>(sum);
            const V g = multiply_add<Isa>(g_y, dy_[i] - V{}, g_x);
            total = multiply_add<Isa>(weight[i], g, V(total));
        }
    }

    int rows_ = 0, columns_ = 0;
    int first_[kColumns], last_[kColumns];  // rows with any weight
    T dy_[kStencilRows];
    alignas(64) T dx_[kColumns][Lanes];
    T* weights_;  // by column, then row
};

// An octave of a whole-pixel wavelength: points of a family whose u differ by a multiple of `period` share a stencil.
template <class Isa, int Lanes, int D, class T>
DN_HD void add_stencils(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile, T* weights) {
    const ScaledGradients<D, T> gradients(plane.amplitude);
    const std::int64_t pixels = static_cast<std::int64_t>(plane.wavelength);
    // Points of a family that lie a whole column apart share an aligned stencil; one after the other they do not wait for each
    // other's sums.
    const int period = Lanes % pixels == 0 ? static_cast<int>(Lanes / pixels) : 1;
    // A disc that fits a column whatever its place need not be aligned, and one stencil serves all points.
    const bool aligned = 2 * std::sqrt(kRadiusSquared) * plane.wavelength + 1 > Lanes && (Lanes % pixels == 0 || pixels % Lanes == 0);
    Stencil<T, Lanes> stencil(weights);
    for_each_family(plane, bounds, [&](const Family& family) __attribute__((always_inline)) {
        const T d_2 = static_cast<T>(family.d[0]), d_3 = static_cast<T>(family.d[1]);
        for (int phase = 0; phase < period; ++phase) {
            if (aligned || phase == 0) stencil.build(family, aligned ? phase : 0, plane.wavelength, aligned ? Lanes : 1);
            if (stencil.empty()) continue;
            const std::int64_t y = stencil.row - tile.y, x = stencil.column - tile.x - (aligned ? phase * pixels : 0);
            for (std::int64_t n = 0; n < family.lines; ++n) {
                const Line line = line_of<D>(family, n);
                const Range range = range_of(family, line, bounds);
                std::int64_t u = range.begin + ((phase - range.begin) & (period - 1));
                for (; u <= range.end; u += period) {
                    const Slope<T> slope = gradients(*plane.tables, line, u, d_2, d_3);
                    stencil.template add<Isa>(slope, y + (line.rest - u) * pixels, x + u * pixels, tile);
                }
            }
        }
    });
}

// A lattice point and its disc: of every column of registers that the tile has, the rows in reach.
template <class T>
struct Disc {
    double x, y, left;  // in wavelengths
    Slope<T> slope;
    std::int64_t row_begin, row_end, column_begin, column_end;  // pixels of the tile in reach
};

// Room for what an octave needs on the way.
template <class T>
class Scratch {
  public:
    std::vector<Disc<T>> discs;
    std::vector<std::int32_t> first, last;  // rows in reach, by disc and column of registers
    T* weights() { return weights_[0].numbers; }

  private:
    struct alignas(64) CacheLine {
        T numbers[64 / sizeof(T)];
    };
    std::unique_ptr<CacheLine[]> weights_{new CacheLine[kStencilWeights * sizeof(T) / 64]};
};

// Rows of a tile that the form below handles at a time: what fits the nearest cache.
constexpr std::int64_t kStripRows = 32;

// Adds a disc to the tile's rows from `start` on. first, last: of the disc.
template <class Isa, class T>
DN_HD void add_disc(const Disc<T>& disc, double step, const Tile<T>& tile, std::int64_t start, const std::int32_t* first,
                    const std::int32_t* last) {
    constexpr int lanes = Isa::bytes / sizeof(T);
    using V = Vector<T, lanes>;
    const std::int64_t stop = std::min({start + kStripRows, tile.rows, disc.row_end});
    start = std::max(start, disc.row_begin);
    if (start >= stop) return;
    T left[kStripRows], dy[kStripRows];
    for (std::int64_t i = start; i < stop; ++i) {
        const double d = static_cast<double>(tile.y + i) * step - disc.y;
        left[i - start] = static_cast<T>(disc.left - d * d);
        dy[i - start] = static_cast<T>(d);
    }
    const V g_y = disc.slope.g_y - V{};
    for (std::int64_t column = disc.column_begin / lanes; column * lanes < disc.column_end; ++column) {
        const std::int64_t begin = std::max<std::int64_t>(first[column], start), end = std::min<std::int64_t>(last[column], stop);
        if (begin >= end) continue;
        alignas(64) T dx[lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            dx[lane] = static_cast<T>(static_cast<double>(tile.x + column * lanes + lane) * step - disc.x);
        }
        const V d = *reinterpret_cast<const V*>(dx), squared = d * d, g_x = disc.slope.g_0 + disc.slope.g_x * d;
        T* sum = tile.sum + begin * tile.stride + column * lanes;
        for (std::int64_t i = begin - start; i < end - start; ++i, sum += tile.stride) {
            V& total = *reinterpret_cast<V*>(sum);
            total = multiply_add<Isa>(kernel(left[i], squared), multiply_add<Isa>(g_y, dy[i] - V{}, g_x), total);
        }
    }
}

// An octave of any wavelength, disc by disc.
template <class Isa, int D, class T>
DN_HD void add_discs(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile, Scratch<T>& scratch) {
    constexpr int lanes = Isa::bytes / sizeof(T);
    const ScaledGradients<D, T> gradients(plane.amplitude);
    const double step = 1 / plane.wavelength, width = (lanes - 1) * step;
    const std::int64_t columns = (tile.columns + lanes - 1) / lanes;
    scratch.discs.clear(), scratch.first.clear(), scratch.last.clear();
    for_each_family(plane, bounds, [&](const Family& family) __attribute__((always_inline)) {
        const T d_2 = static_cast<T>(family.d[0]), d_3 = static_cast<T>(family.d[1]);
        for (std::int64_t n = 0; n < family.lines; ++n) {
            const Line line = line_of<D>(family, n);
            const Range range = range_of(family, line, bounds);
            for (std::int64_t u = range.begin; u <= range.end; ++u) {
                const double x = static_cast<double>(u) + family.x, y = static_cast<double>(line.rest - u) + family.y;
                const Span rows = within(y, family.reach, plane.wavelength, tile.y, tile.rows);
                const Span reached = within(x, family.reach, plane.wavelength, tile.x, tile.columns);
                if (rows.begin >= rows.end || reached.begin >= reached.end) continue;
                scratch.discs.push_back({x, y, family.left, gradients(*plane.tables, line, u, d_2, d_3), rows.begin,
                                         rows.end, reached.begin, reached.end});
                const std::size_t size = scratch.first.size();
                scratch.first.resize(size + columns), scratch.last.resize(size + columns);
                std::int32_t *first = scratch.first.data() + size, *last = scratch.last.data() + size;
                for (std::int64_t c = 0; c < columns; ++c) {
                    const double low = static_cast<double>(tile.x + c * lanes) * step - x, high = low + width;
                    const double nearest = low > 0 ? low : high < 0 ? high : 0;
                    const Span span = within(y, reach_of(family.left - nearest * nearest), plane.wavelength, tile.y, tile.rows);
                    first[c] = span.begin, last[c] = span.end;
                }
            }
        }
    });
    for (std::int64_t row = 0; row < tile.rows; row += kStripRows) {
        const std::int32_t *first = scratch.first.data(), *last = scratch.last.data();
        for (const Disc<T>& disc : scratch.discs) {
            add_disc<Isa>(disc, step, tile, row, first, last);
            first += columns, last += columns;
        }
    }
}

// An octave whose lattice is finer than the pixels: point by point.
template <int D, class T>
DN_HD void add_points(const Plane<D>& plane, const Tile<T>& tile) {
    double p[4];
    for (int axis = 2; axis < D; ++axis) p[axis] = plane.constant[axis - 2];
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        p[1] = static_cast<double>(tile.y + row) / plane.wavelength + plane.shift[1];
        for (std::int64_t column = tile.skip; column < tile.columns; ++column) {
            p[0] = static_cast<double>(tile.x + column) / plane.wavelength + plane.shift[0];
            tile.sum[row * tile.stride + column] +=
                static_cast<T>(plane.amplitude * lattice_sum<D>(p, plane.tables->permutation));
        }
    }
}

// Adds an octave to a tile.
template <int D>
struct AddOctave {
    template <class Isa, class T>
    static DN_HD void run(const Plane<D>& plane, const Tile<T>& tile, Scratch<T>& scratch) {
        constexpr int lanes = Isa::bytes / sizeof(T);
        const double wavelength = plane.wavelength;
        if (wavelength < 1 || plane.by_points) return add_points(plane, tile);
        const Bounds bounds{static_cast<double>(tile.x) / wavelength,
                            static_cast<double>(tile.x + tile.columns - 1) / wavelength,
                            static_cast<double>(tile.y) / wavelength,
                            static_cast<double>(tile.y + tile.rows - 1) / wavelength};
        if (wavelength > kStencilWavelength || wavelength != std::floor(wavelength)) {
            return add_discs<Isa>(plane, bounds, tile, scratch);
        }
        if (wavelength == 1) return add_stencils<Isa, 4>(plane, bounds, tile, scratch.weights());
        if (wavelength == 2) return add_stencils<Isa, 8>(plane, bounds, tile, scratch.weights());
        add_stencils<Isa, lanes>(plane, bounds, tile, scratch.weights());
    }
};

}  // namespace diffnoise
