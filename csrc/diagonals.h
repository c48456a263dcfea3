#pragma once

// CPU: an octave of a short whole-pixel wavelength, along the map's diagonals.
//
// A line of lattice points runs down a diagonal, one wavelength in x and in y from point to point. With pixel =
// wavelength * cell + phase, pixels of the same phases in cells along a diagonal lie alike to the points of a line. So
// the sums are kept in that order, and a register of points adds to its pixels at a time.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "aligned_buffer.h"
#include "lattice_plane.h"
#include "tile.h"
#include "vector.h"

namespace diffnoise {

// The largest wavelength of this form, and the pixels across its discs at most: 2 sqrt(2) wavelengths and one, rounded
// up to whole registers.
constexpr double kDiagonalWavelength = 3;
constexpr int kDiscPixels = 16;

// Where a pixel lies along an axis.
struct CellPhase {
    std::int64_t cell, phase;
};
DN_HD CellPhase cell_phase(std::int64_t pixel, std::int64_t wavelength) {
    const std::int64_t cell =
        floored((static_cast<double>(pixel) + 0.5) / static_cast<double>(wavelength));  // cheaper than whole numbers'
    return {cell, pixel - cell * wavelength};
}
DN_HD void step(CellPhase& at, std::int64_t wavelength) {
    if (++at.phase == wavelength) at.phase = 0, ++at.cell;
}

// A tile's sums by phase in y, phase in x, diagonal (the sum of both cells), and cell in x.
template <class T>
class DiagonalSums {
  public:
    // Zeros for a tile.
    DN_HD void clear(const Tile<T>& tile, std::int64_t pixels) {
        wavelength = pixels;
        x_ = cell_phase(tile.x, pixels), y_ = cell_phase(tile.y, pixels);
        const std::int64_t columns = cell_phase(tile.x + tile.columns - 1, pixels).cell - x_.cell + 1,
                           rows = cell_phase(tile.y + tile.rows - 1, pixels).cell - y_.cell + 1;
        first = x_.cell + y_.cell, end = first + rows + columns - 1;
        // An odd number of cache lines, so that cells of a row of the tile do not share a part of the cache.
        stride = ((columns + kBefore + kBehind + kLine - 1) / kLine | 1) * kLine;
        phase = (end - first) * stride;
        const std::int64_t size = pixels * pixels * phase;
        T* const sums = sums_.reserve(size);
        std::fill_n(sums, size, T{});
        origin = sums - first * stride - x_.cell + kBefore;
    }

    DN_HD void add_to(const Tile<T>& tile) const {
        CellPhase y = y_;
        for (std::int64_t i = 0; i < tile.rows; ++i, step(y, wavelength)) {
            T* const sum = tile.sum + i * tile.stride;
            CellPhase x = x_;
            for (std::int64_t first = 0; first < std::min(wavelength, tile.columns); ++first, step(x, wavelength)) {
                const T* from = origin + column_offset(x) + row_offset(y);
                for (std::int64_t j = first; j < tile.columns; j += wavelength, from += stride + 1) sum[j] += *from;
            }
        }
    }

    // A pixel's place from `origin` on is the sum of the two.
    DN_HD std::int64_t row_offset(const CellPhase& y) const { return y.phase * wavelength * phase + y.cell * stride; }
    DN_HD std::int64_t column_offset(const CellPhase& x) const { return x.phase * phase + x.cell * (stride + 1); }

    // Cells in reach of points in reach of the tile, and what fills the last register of points.
    static constexpr std::int64_t kBefore = 16, kBehind = 32;

    std::int64_t wavelength, first, end;  // diagonals
    std::int64_t stride, phase;           // from diagonal to diagonal, and from phase to phase in x
    T* origin;                            // cell 0 of diagonal 0

  private:
    static constexpr std::int64_t kLine = 64 / sizeof(T);

    CellPhase x_, y_;
    AlignedBuffer<T> sums_;
};

// The pixels in the square around the disc of a family's point (0, 0), and their weights.
template <class T>
struct DiscPixels {
    using All = Wide<T, kDiscPixels>;

    int columns, rows;
    All dx, dy, weight[kDiscPixels];  // by column, then row
    std::int64_t column_offset[kDiscPixels], row_offset[kDiscPixels];
    std::int64_t column_cell[kDiscPixels], row_cell[kDiscPixels];

    DN_HD void set(const Family& family, const DiagonalSums<T>& sums) {
        const double wavelength = static_cast<double>(sums.wavelength);
        const auto span = [&](double center, int& count, Wide<double, kDiscPixels>& distance) {
            const double low = std::ceil((center - family.reach) * wavelength);
            count = static_cast<int>(std::floor((center + family.reach) * wavelength) - low) + 1;
            for (int i = 0; i < kDiscPixels; ++i) distance[i] = (low + i) / wavelength - center;
            return cell_phase(static_cast<std::int64_t>(low), sums.wavelength);
        };
        Wide<double, kDiscPixels> d_x, d_y;
        CellPhase x = span(family.x, columns, d_x), y = span(family.y, rows, d_y);
        dx = __builtin_convertvector(d_x, All), dy = __builtin_convertvector(d_y, All);
        const All left = __builtin_convertvector(family.left - d_y * d_y, All);
        for (int c = 0; c < columns; ++c, step(x, sums.wavelength)) {
            weight[c] = kernel(left, dx[c] * dx[c] - All{});
            column_offset[c] = sums.column_offset(x), column_cell[c] = x.cell;
        }
        for (int r = 0; r < rows; ++r, step(y, sums.wavelength)) {
            row_offset[r] = sums.row_offset(y), row_cell[r] = y.cell;
        }
    }
};

// The gradients' components, a byte each, by the permutation's index.
template <int D>
struct PackedGradients {
    std::int32_t packed[256];

    explicit PackedGradients(const LatticeTables& tables) {
        std::int32_t all[Lattice<D>::gradients];
        for (int index = 0; index < Lattice<D>::gradients; ++index) {
            std::uint32_t bytes = 0;
            for (int axis = 0; axis < D; ++axis) {
                bytes |= static_cast<std::uint32_t>(gradient_component<D>(index, axis) & 255) << 8 * axis;
            }
            all[index] = static_cast<std::int32_t>(bytes);
        }
        for (int i = 0; i < 256; ++i) packed[i] = all[tables.gradient[i]];
    }
};

// The packed gradients of a line's points from u on. On its own, its few numbers stay in registers.
template <int D>
__attribute__((noinline)) void find_gradients(const LatticeTables& tables, const PackedGradients<D>& gradients,
                                              const Line& line, std::int64_t u, int count, std::int32_t* found) {
    std::int64_t v[4] = {u + line.diagonal, line.rest - u + line.diagonal, line.index[0], line.index[1]};
    for (int i = 0; i < count; ++i, ++v[0], --v[1]) {
        found[i] = gradients.packed[lattice_hash<D>(tables.permutation, v)];
    }
}

// The points of a line, and what their slopes come to on a column of pixels.
template <class T>
class LinePoints {
  public:
    void reserve(std::int64_t points) {
        T* const memory = numbers_.reserve(4 * points);
        g_x_ = memory, g_y_ = memory + points, g_0_ = memory + 2 * points, on_column_ = memory + 3 * points;
        packed = packed_.reserve(points);
    }

    // Slopes of `registers` registers of points.
    template <int D, int Lanes>
    DN_HD void unpack(int registers, T scale, T d_2, T d_3) {
        using V = Wide<T, Lanes>;
        using Integers = Wide<std::int32_t, Lanes>;
        const std::int32_t* const gradients = packed;
        T *const g_x = g_x_, *const g_y = g_y_, *const g_0 = g_0_;
        for (int i = 0; i < registers * Lanes; i += Lanes) {
            const Integers p = *reinterpret_cast<const Integers*>(gradients + i);
            const auto component = [&](int axis) __attribute__((always_inline)) {
                return __builtin_convertvector(p << (24 - 8 * axis) >> 24, V);
            };
            *reinterpret_cast<V*>(g_x + i) = component(0) * scale;
            *reinterpret_cast<V*>(g_y + i) = component(1) * scale;
            V rest{};
            if constexpr (D > 2) rest = component(2) * (scale * d_2);
            if constexpr (D > 3) rest += component(3) * (scale * d_3);
            *reinterpret_cast<V*>(g_0 + i) = rest;
        }
    }

    // Adds the points, of which the first is u, to all pixels of their discs.
    template <class Isa, int Lanes>
    DN_HD void add(const DiscPixels<T>& disc, std::int64_t rest, std::int64_t u, int registers,
                   const DiagonalSums<T>& sums) {
        using V = Wide<T, Lanes>;
        // Stores of vectors could change any member, so none is read in the loops.
        const int end = registers * Lanes;
        const T *const g_x = g_x_, *const g_y = g_y_, *const g_0 = g_0_;
        T* const on_column = on_column_;
        T* const origin = sums.origin + rest * sums.stride + u;
        const std::int64_t first = sums.first - rest, last = sums.end - rest;
        const int rows = disc.rows;
        for (int c = 0; c < disc.columns; ++c) {
            const V dx = disc.dx[c] - V{};
            for (int i = 0; i < end; i += Lanes) {
                *reinterpret_cast<V*>(on_column + i) =
                    multiply_add<Isa>(*reinterpret_cast<const V*>(g_x + i), dx, *reinterpret_cast<const V*>(g_0 + i));
            }
            T* const column = origin + disc.column_offset[c];
            for (int r = 0; r < rows; ++r) {
                const std::int64_t diagonal = disc.column_cell[c] + disc.row_cell[r];
                if (diagonal < first || diagonal >= last) continue;
                T* const sum = column + disc.row_offset[r];
                const V weight = disc.weight[c][r] - V{}, dy = disc.dy[r] - V{};
                for (int i = 0; i < end; i += Lanes) {
                    UnalignedWide<T, Lanes>& total = *reinterpret_cast<UnalignedWide<T, Lanes>*>(sum + i);
                    const V g = multiply_add<Isa>(*reinterpret_cast<const V*>(g_y + i), dy,
                                                  *reinterpret_cast<const V*>(on_column + i));
                    total = multiply_add<Isa>(weight, g, V(total));
                }
            }
        }
    }

    std::int32_t* packed = nullptr;

  private:
    T *g_x_ = nullptr, *g_y_ = nullptr, *g_0_ = nullptr, *on_column_ = nullptr;
    AlignedBuffer<T> numbers_;
    AlignedBuffer<std::int32_t> packed_;
};

// Room for what an octave of this form needs on the way.
template <class T>
struct DiagonalScratch {
    DiagonalSums<T> sums;
    LinePoints<T> points;
};

// An octave of a whole-pixel wavelength, line by line.
template <class Isa, int D, class T>
DN_HD void add_diagonals(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile,
                         DiagonalScratch<T>& scratch) {
    constexpr int lanes = Isa::bytes / sizeof(T);
    const PackedGradients<D> gradients(*plane.tables);
    const T scale = static_cast<T>(plane.amplitude / Lattice<D>::norm);
    DiagonalSums<T>& sums = scratch.sums;
    LinePoints<T>& points = scratch.points;
    sums.clear(tile, static_cast<std::int64_t>(plane.wavelength));
    points.reserve(sums.stride);
    DiscPixels<T> disc;
    for_each_family(plane, bounds, [&](const Family& family) __attribute__((always_inline)) {
        disc.set(family, sums);
        for (std::int64_t n = 0; n < family.lines; ++n) {
            const Line line = line_of<D>(family, n);
            const Range range = range_of(family, line, bounds);
            const int count = static_cast<int>(std::max<std::int64_t>(range.end - range.begin + 1, 0));
            const int registers = (count + lanes - 1) / lanes;
            find_gradients<D>(*plane.tables, gradients, line, range.begin, count, points.packed);
            std::fill(points.packed + count, points.packed + registers * lanes, 0);
            points.template unpack<D, lanes>(registers, scale, static_cast<T>(family.d[0]),
                                             static_cast<T>(family.d[1]));
            points.template add<Isa, lanes>(disc, line.rest, range.begin, registers, sums);
        }
    });
    sums.add_to(tile);
}

}  // namespace diffnoise
