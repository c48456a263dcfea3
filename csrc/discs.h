#pragma once

// CPU: an octave of any wavelength, lattice point by lattice point.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lattice_plane.h"
#include "tile.h"
#include "vector.h"

namespace diffnoise {

// A lattice point and its disc: of every column of registers that the tile has, the rows in reach.
template <class T>
struct Disc {
    double x, y, left;         // in wavelengths from the pixel that rows and columns count from
    std::int64_t row, column;  // of the tile's first pixel
    Slope<T> slope;
    std::int64_t row_begin, row_end, column_begin, column_end;  // pixels of the tile in reach
};

// Discs in reach of a tile.
template <class T>
struct Discs {
    std::vector<Disc<T>> all;
    std::vector<std::int32_t> first, last;  // rows in reach, by disc and column of registers
};

// Rows of a tile that are handled at a time: what fits the nearest cache.
constexpr std::int64_t kStripRows = 32;

// Adds a disc to the tile's rows from `start` on. first, last: of the disc.
template <class Isa, class T>
DN_HD void add_disc(const Disc<T>& disc, double step, const Tile<T>& tile, std::int64_t start,
                    const std::int32_t* first, const std::int32_t* last) {
    constexpr int lanes = Isa::bytes / sizeof(T);
    using V = Wide<T, lanes>;
    const std::int64_t stop = std::min({start + kStripRows, tile.rows, disc.row_end});
    start = std::max(start, disc.row_begin);
    if (start >= stop) return;
    T left[kStripRows], dy[kStripRows];
    for (std::int64_t i = start; i < stop; ++i) {
        const double d = static_cast<double>(disc.row + i) * step - disc.y;
        left[i - start] = static_cast<T>(disc.left - d * d);
        dy[i - start] = static_cast<T>(d);
    }
    const V g_y = disc.slope.g_y - V{};
    for (std::int64_t column = disc.column_begin / lanes; column * lanes < disc.column_end; ++column) {
        const std::int64_t begin = std::max<std::int64_t>(first[column], start),
                           end = std::min<std::int64_t>(last[column], stop);
        if (begin >= end) continue;
        alignas(64) T dx[lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            dx[lane] = static_cast<T>(static_cast<double>(disc.column + column * lanes + lane) * step - disc.x);
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
DN_HD void add_discs(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile, Discs<T>& discs) {
    constexpr int lanes = Isa::bytes / sizeof(T);
    const ScaledGradients<D, T> gradients(plane.amplitude);
    const double step = 1 / plane.wavelength, width = (lanes - 1) * step;
    const std::int64_t columns = (tile.columns + lanes - 1) / lanes;
    const bool whole = plane.wavelength == std::floor(plane.wavelength) && plane.wavelength < 1 << 20;
    const std::int64_t pixels = whole ? static_cast<std::int64_t>(plane.wavelength) : 0;
    discs.all.clear(), discs.first.clear(), discs.last.clear();
    for_each_family(plane, bounds, [&](const Family& family) __attribute__((always_inline)) {
        const T d_2 = static_cast<T>(family.d[0]), d_3 = static_cast<T>(family.d[1]);
        for (std::int64_t n = 0; n < family.lines; ++n) {
            const Line line = line_of<D>(family, n);
            const Range range = range_of(family, line, bounds);
            for (std::int64_t u = range.begin; u <= range.end; ++u) {
                // Of a whole-pixel wavelength, pixels count from the point (u, v): the same distances as in a stencil.
                const std::int64_t v = line.rest - u, row = tile.y - v * pixels, column = tile.x - u * pixels;
                const double x = family.x + (pixels ? 0 : static_cast<double>(u)),
                             y = family.y + (pixels ? 0 : static_cast<double>(v));
                const Span rows = within(y, family.reach, plane.wavelength, row, tile.rows);
                const Span reached = within(x, family.reach, plane.wavelength, column, tile.columns);
                if (rows.begin >= rows.end || reached.begin >= reached.end) continue;
                discs.all.push_back({x, y, family.left, row, column, gradients(*plane.tables, line, u, d_2, d_3),
                                     rows.begin, rows.end, reached.begin, reached.end});
                const std::size_t size = discs.first.size();
                discs.first.resize(size + columns), discs.last.resize(size + columns);
                std::int32_t *first = discs.first.data() + size, *last = discs.last.data() + size;
                for (std::int64_t c = 0; c < columns; ++c) {
                    const double low = static_cast<double>(column + c * lanes) * step - x, high = low + width;
                    const double nearest = low > 0 ? low : high < 0 ? high : 0;
                    const Span span =
                        within(y, reach_of(family.left - nearest * nearest), plane.wavelength, row, tile.rows);
                    first[c] = span.begin, last[c] = span.end;
                }
            }
        }
    });
    for (std::int64_t row = 0; row < tile.rows; row += kStripRows) {
        const std::int32_t *first = discs.first.data(), *last = discs.last.data();
        for (const Disc<T>& disc : discs.all) {
            add_disc<Isa>(disc, step, tile, row, first, last);
            first += columns, last += columns;
        }
    }
}

}  // namespace diffnoise
