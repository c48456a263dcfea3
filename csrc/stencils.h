#pragma once

// CPU: an octave of a whole-pixel wavelength. The discs of a family lie alike on the pixels, so the kernel's weights
// are computed once for many lattice points.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "lattice_plane.h"
#include "tile.h"
#include "vector.h"

namespace diffnoise {

// The largest wavelength of this form, and what its discs need at most.
constexpr double kStencilWavelength = 32;
constexpr int kStencilRows = 96;
constexpr std::int64_t kStencilWeights = kStencilRows * (kStencilRows + 2 * kTileAlignment);

// Where so few points share the weights that they are not worth it, an octave takes the form of discs: same bits.
template <class T>
DN_HD bool is_stencil(double wavelength, const Tile<T>& tile) {
    return wavelength == std::floor(wavelength) && wavelength <= kStencilWavelength &&
           static_cast<double>(tile.rows * tile.columns) >= 9 * wavelength * wavelength;
}

// The weights of a disc on its pixels, in columns of one register's length.
template <class T, int Lanes>
class Stencil {
  public:
    explicit Stencil(T* weights) : weights_(weights) {}

    // The rows of the family's points (u, 0).
    DN_HD void set_rows(const Family& family, double wavelength) {
        const double step = 1 / wavelength;
        row = ceiling((family.y - family.reach) * wavelength);
        rows_ = static_cast<int>(floored((family.y + family.reach) * wavelength) - row + 1);
        for (int i = 0; i < rows_; ++i) {
            const double d = static_cast<double>(row + i) * step - family.y;
            dy_[i] = static_cast<T>(d);
            left_[i] = static_cast<T>(family.left - d * d);
        }
    }

    // The columns and weights of the point (0, 0), the first column at a multiple of `alignment`.
    DN_HD void set_columns(const Family& family, double wavelength, int alignment) {
        const double step = 1 / wavelength, x = family.x;
        const std::int64_t begin = ceiling((x - family.reach) * wavelength);
        const std::int64_t end = floored((x + family.reach) * wavelength) + 1;
        column = begin & -static_cast<std::int64_t>(alignment);
        columns_ = end > begin && rows_ > 0 ? static_cast<int>((end - column + Lanes - 1) / Lanes) : 0;
        for (int c = 0; c < columns_; ++c) {
            const std::int64_t start = column + c * Lanes;
            for (int lane = 0; lane < Lanes; ++lane) {
                dx_[c][lane] = static_cast<T>(static_cast<double>(start + lane) * step - x);
            }
            const double low = static_cast<double>(start) * step - x, high = low + (Lanes - 1) * step;
            const double nearest = low > 0 ? low : high < 0 ? high : 0;
            const Span span = within(family.y, reach_of(family.left - nearest * nearest), wavelength, row, rows_);
            first_[c] = span.begin, last_[c] = span.end;
            const V d = *reinterpret_cast<const V*>(dx_[c]), squared = d * d;
            V* weight = column_weights(c);
            for (int i = span.begin; i < span.end; ++i) weight[i] = kernel(left_[i], squared);
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
    using V = Wide<T, Lanes>;
    static constexpr int kColumns = (kStencilRows + Lanes - 1) / Lanes + 1;

    DN_HD V* column_weights(int c) const { return reinterpret_cast<V*>(weights_) + c * rows_; }

    template <class Isa>
    DN_HD void add_column(const Slope<T>& slope, int c, int begin, int end, T* sum, std::int64_t stride) const {
        const V g_x = slope.g_0 + slope.g_x * *reinterpret_cast<const V*>(dx_[c]), g_y = slope.g_y - V{};
        const V* weight = column_weights(c);
        sum += begin * stride + c * Lanes;
        for (int i = begin; i < end; ++i, sum += stride) {
            UnalignedWide<T, Lanes>& total = *reinterpret_cast<UnalignedWide<T, Lanes>*>(sum);
            const V g = multiply_add<Isa>(g_y, dy_[i] - V{}, g_x);
            total = multiply_add<Isa>(weight[i], g, V(total));
        }
    }

    int rows_ = 0, columns_ = 0;
    int first_[kColumns], last_[kColumns];  // rows with any weight
    T dy_[kStencilRows], left_[kStencilRows];
    alignas(64) T dx_[kColumns][Lanes];
    T* weights_;  // by column, then row
};

// An octave of a whole-pixel wavelength: the points of a family share a stencil.
template <class Isa, int D, class T>
DN_HD void add_stencils(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile, T* weights) {
    constexpr int lanes = Isa::bytes / sizeof(T);
    const ScaledGradients<D, T> gradients(plane.amplitude);
    const std::int64_t pixels = static_cast<std::int64_t>(plane.wavelength);
    const int alignment = pixels % lanes == 0 ? lanes : 1;
    Stencil<T, lanes> stencil(weights);
    for_each_family(plane, bounds, [&](const Family& family) __attribute__((always_inline)) {
        const T d_2 = static_cast<T>(family.d[0]), d_3 = static_cast<T>(family.d[1]);
        stencil.set_rows(family, plane.wavelength);
        stencil.set_columns(family, plane.wavelength, alignment);
        if (stencil.empty()) return;
        const std::int64_t y = stencil.row - tile.y, x = stencil.column - tile.x;
        for (std::int64_t n = 0; n < family.lines; ++n) {
            const Line line = line_of<D>(family, n);
            const Range range = range_of(family, line, bounds);
            for (std::int64_t u = range.begin; u <= range.end; ++u) {
                const Slope<T> slope = gradients(*plane.tables, line, u, d_2, d_3);
                stencil.template add<Isa>(slope, y + (line.rest - u) * pixels, x + u * pixels, tile);
            }
        }
    });
}

}  // namespace diffnoise
