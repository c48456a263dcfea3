#pragma once

// CPU: an octave of a short whole-pixel wavelength, along the map's diagonals.
//
// A line of lattice points runs up a diagonal, one wavelength in x and in y from point to point. With every cell (a
// wavelength of columns) moved down by its own place, all points of a line lie at the same height, and alike to the
// pixels of every cell. So the sums are kept in blocks of columns whose cells are moved so, and the weights of one
// register serve a whole line.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "aligned_buffer.h"
#include "byte_lookup.h"
#include "lattice_plane.h"
#include "tile.h"
#include "vector.h"

namespace diffnoise {

// The largest wavelength of this form; each divides a block's columns. Discs are 2 sqrt(2) wavelengths across.
constexpr int kDiagonalWavelength = 8;
constexpr int kDiagonalRows = 24, kDiagonalCells = 4;
constexpr std::int64_t kBlockColumns = kTileAlignment;

DN_HD bool is_diagonal(double wavelength) {
    return wavelength == 1 || wavelength == 2 || wavelength == 4 || wavelength == 8;
}

// A tile's sums in blocks of kBlockColumns columns, then rows. A block's cell n is n wavelengths lower than in the
// tile.
template <class T>
class DiagonalSums {
  public:
    // Zeros for a tile.
    DN_HD void clear(const Tile<T>& tile, std::int64_t pixels) {
        first = tile.x / kBlockColumns, end = first + (tile.columns + kBlockColumns - 1) / kBlockColumns;
        rows = tile.rows + kBlockColumns - pixels;
        const std::int64_t size = (end - first) * rows * kBlockColumns;
        sums_ = memory_.reserve(size);
        std::fill_n(sums_, size, T{});
    }

    DN_HD T* block(std::int64_t b) const { return sums_ + (b - first) * rows * kBlockColumns; }

    template <int wavelength>
    DN_HD void add_to(const Tile<T>& tile) const {
        using Cell = UnalignedWide<T, wavelength>;
        for (std::int64_t b = 0; b < end - first; ++b) {
            const T* from = block(first + b);
            T* to = tile.sum + b * kBlockColumns;
            for (std::int64_t i = 0; i < tile.rows; ++i, from += kBlockColumns, to += tile.stride) {
                for (int x = 0; x < kBlockColumns; x += wavelength) {
                    *reinterpret_cast<Cell*>(to + x) += *reinterpret_cast<const Cell*>(from + x * kBlockColumns + x);
                }
            }
        }
    }

    std::int64_t first, end;  // blocks, counted from x = 0
    std::int64_t rows;        // of a block

  private:
    T* sums_;
    AlignedBuffer<T> memory_;
};

// The disc of a family's point (0, 0) by cells, and its weights in every lane of a register.
template <class T, int Lanes>
struct CellStencil {
    using V = Wide<T, Lanes>;
    static constexpr int kWidth = std::max<int>(Lanes, kDiagonalWavelength);

    std::int64_t row, first;   // of the first pixel: its row and cell
    std::int64_t top, bottom;  // rows of the moved disc, as [top, bottom)
    int cells;
    int begin[kDiagonalCells], end[kDiagonalCells];  // rows in reach, from `row` on
    T dy[kDiagonalRows], left[kDiagonalRows];
    alignas(64) T dx[kDiagonalCells][kWidth], weight[kDiagonalCells][kDiagonalRows][kWidth];

    DN_HD void set(const Family& family, int wavelength) {
        const double step = 1. / wavelength;
        const double low = std::ceil((family.y - family.reach) * wavelength);
        row = static_cast<std::int64_t>(low);
        const int rows = static_cast<int>(std::floor((family.y + family.reach) * wavelength) - low) + 1;
        for (int i = 0; i < kDiagonalRows; ++i) {
            const double d = (low + i) * step - family.y;
            dy[i] = static_cast<T>(d);
            left[i] = static_cast<T>(family.left - d * d);
        }
        const double from = std::floor(std::ceil((family.x - family.reach) * wavelength) * step);
        first = static_cast<std::int64_t>(from);
        cells = std::max(static_cast<int>(std::floor(family.x + family.reach) - from) + 1, 0);
        top = INT64_MAX, bottom = INT64_MIN;
        for (int c = 0; c < cells; ++c) {
            const double start = from + c - family.x, stop = start + 1 - step;
            for (int i = 0; i < kWidth; ++i) dx[c][i] = static_cast<T>(start + (i & (wavelength - 1)) * step);
            const double nearest = start > 0 ? start : stop < 0 ? stop : 0;
            const Span span = within(family.y, reach_of(family.left - nearest * nearest), wavelength, row, rows);
            begin[c] = span.begin, end[c] = std::max(span.begin, span.end);
            const std::int64_t moved = row + (first + c) * wavelength;
            top = std::min(top, moved + begin[c]), bottom = std::max(bottom, moved + end[c]);
            for (int x = 0; x < kWidth; x += Lanes) {
                const V d = *reinterpret_cast<const V*>(dx[c] + x), squared = d * d;
                for (int i = begin[c]; i < end[c]; ++i) {
                    *reinterpret_cast<V*>(weight[c][i] + x) = kernel(left[i], squared);
                }
            }
        }
    }
};

// The packed gradients of a line's points from u on. On its own, its few numbers stay in registers.
template <int D>
__attribute__((noinline)) void find_gradients_singly(const LatticeTables& tables, const Line& line, std::int64_t u,
                                                     int count, std::int32_t* found) {
    std::int64_t v[4] = {u + line.diagonal, line.rest - u + line.diagonal, line.index[0], line.index[1]};
    for (int i = 0; i < count; ++i, ++v[0], --v[1]) {
        found[i] = tables.packed[lattice_hash<D>(tables.permutation, v)];
    }
}

#ifdef DN_BYTE_LOOKUP
// The same for 64 points at once; writes up to the next multiple of 16.
template <int D>
DN_BYTE_LOOKUP void find_gradients_by_bytes(const LatticeTables& tables, const Line& line, std::int64_t u, int count,
                                            std::int32_t* found) {
    constexpr int together = 64, part = 16, gradients = Lattice<D>::gradients;
    alignas(64) static constexpr auto places = [] {
        std::array<std::uint8_t, together> numbers{};
        for (int i = 0; i < together; ++i) numbers[i] = static_cast<std::uint8_t>(i);
        return numbers;
    }();
    const auto all = [](std::int64_t x) DN_BYTE_LOOKUP { return _mm512_set1_epi8(static_cast<char>(x)); };
    const __m512i place = _mm512_load_si512(places.data());
    const ByteTable next(tables.permutation), gradient(tables.gradient);
    __m512i packed[together / part] = {};
    for (int n = 0; n * part < gradients; ++n) {
        const int beyond = std::max((n + 1) * part - gradients, 0);
        packed[n] = _mm512_maskz_loadu_epi32(0xFFFF >> beyond, kPackedGradients<D>.of + n * part);
    }
    for (int begin = 0; begin < count; begin += together) {
        __m512i h = next[_mm512_add_epi8(all(u + line.diagonal + begin), place)];
        h = _mm512_add_epi8(h, _mm512_sub_epi8(all(line.rest - u + line.diagonal - begin), place));
        for (int axis = 2; axis < D; ++axis) h = _mm512_add_epi8(next[h], all(line.index[axis - 2]));
        alignas(64) std::uint8_t indices[together];
        _mm512_store_si512(indices, gradient[h]);
        for (int i = 0; i < together && begin + i < count; i += part) {
            const __m512i index =
                _mm512_maskz_cvtepu8_epi32(0xFFFF, _mm_load_si128(reinterpret_cast<const __m128i*>(indices + i)));
            __m512i value = _mm512_permutex2var_epi32(packed[0], index, packed[1]);
            if (gradients > 2 * part) {
                value = _mm512_mask_mov_epi32(value, _mm512_test_epi32_mask(index, _mm512_set1_epi32(2 * part)),
                                              _mm512_permutex2var_epi32(packed[2], index, packed[3]));
            }
            _mm512_storeu_si512(found + begin + i, value);
        }
    }
}
#endif

// found: with room up to the next multiple of 16.
template <class Isa, int wavelength, int D>
DN_HD void find_gradients(const LatticeTables& tables, const Line& line, std::int64_t u, int count,
                          std::int32_t* found) {
#ifdef DN_BYTE_LOOKUP
    // Longer wavelengths have lines of too few points.
    if (std::is_same_v<Isa, Avx512> && wavelength <= 2 && has_byte_lookup()) {
        return find_gradients_by_bytes<D>(tables, line, u, count, found);
    }
#endif
    find_gradients_singly<D>(tables, line, u, count, found);
}

// The slopes of a line's points, by column.
template <class T>
class LineSlopes {
  public:
    // Room for the points in reach of so many blocks.
    void reserve(std::int64_t blocks) {
        const std::int64_t columns = (blocks + kDiagonalCells) * kBlockColumns;
        T* const memory = numbers_.reserve(3 * columns);
        g_x = memory, g_y = memory + columns, g_0 = memory + 2 * columns;
        packed = packed_.reserve(columns);
    }

    template <int D, int wavelength, int Lanes>
    DN_HD void unpack(std::int64_t columns, T scale, T d_2, T d_3) {
        using V = Wide<T, Lanes>;
        using Integers = UnalignedWide<std::int32_t, Lanes>;
        const std::int32_t* const gradients = packed;
        T *const to_x = g_x, *const to_y = g_y, *const to_0 = g_0;
        for (std::int64_t i = 0; i < columns; i += Lanes) {
            const Integers p = repeat<wavelength>(*reinterpret_cast<const Integers*>(gradients + i / wavelength),
                                                  std::make_integer_sequence<int, Lanes>());
            const auto component = [&](int axis) __attribute__((always_inline)) {
                return __builtin_convertvector(p << 8 * (D - 1 - axis) >> 24, V);
            };
            *reinterpret_cast<V*>(to_x + i) = component(0) * scale;
            *reinterpret_cast<V*>(to_y + i) = component(1) * scale;
            V rest{};
            if constexpr (D > 2) rest = component(2) * (scale * d_2);
            if constexpr (D > 3) rest += component(3) * (scale * d_3);
            *reinterpret_cast<V*>(to_0 + i) = rest;
        }
    }

    T *g_x = nullptr, *g_y = nullptr, *g_0 = nullptr;
    std::int32_t* packed = nullptr;

  private:
    // The first elements of a vector, each `times` times.
    template <int times, class V, int... I>
    static DN_HD V repeat(V all, std::integer_sequence<int, I...>) {
        return __builtin_shufflevector(all, all, (I / times)...);
    }

    AlignedBuffer<T> numbers_;
    AlignedBuffer<std::int32_t> packed_;
};

// Room for what an octave of this form needs on the way.
template <class T>
struct DiagonalScratch {
    DiagonalSums<T> sums;
    LineSlopes<T> slopes;
};

// Adds a line's discs to a register of columns of `count` blocks, one after the other. column: of the slopes. low,
// high: the rows of the moved disc that the blocks have. sums: at its row 0. distance: from block to block.
template <class Isa, int wavelength, int count, class T, int Lanes>
DN_HD void add_cells(const CellStencil<T, Lanes>& stencil, const LineSlopes<T>& slopes, std::int64_t column,
                     std::int64_t low, std::int64_t high, T* sums, std::int64_t distance) {
    using V = Wide<T, Lanes>;
    using Load = UnalignedWide<T, Lanes>;
    constexpr int width = CellStencil<T, Lanes>::kWidth;
    const T *const g_x = slopes.g_x, *const g_y = slopes.g_y, *const g_0 = slopes.g_0, *const dy = stencil.dy;
    const std::int64_t phase = column & (wavelength - 1);
    const int cells = stencil.cells;
    for (int c = 0; c < cells; ++c) {
        const std::int64_t behind = (stencil.first + c) * wavelength, moved = stencil.row + behind;
        const std::int64_t begin = std::max<std::int64_t>(stencil.begin[c], low - moved),
                           end = std::min<std::int64_t>(stencil.end[c], high - moved);
        const V dx = *reinterpret_cast<const V*>(stencil.dx[c] + phase);
        V on_columns[count], y_slope[count];
        for (int n = 0; n < count; ++n) {
            const std::int64_t from = column + n * kBlockColumns - behind;
            on_columns[n] = multiply_add<Isa>(V(*reinterpret_cast<const Load*>(g_x + from)), dx,
                                              V(*reinterpret_cast<const Load*>(g_0 + from)));
            y_slope[n] = V(*reinterpret_cast<const Load*>(g_y + from));
        }
        const T* const weights = stencil.weight[c][0] + phase;
        T* const sum = sums + moved * kBlockColumns;
        for (std::int64_t i = begin; i < end; ++i) {
            const V weight = *reinterpret_cast<const V*>(weights + i * width), d = dy[i] - V{};
            for (int n = 0; n < count; ++n) {
                V& total = *reinterpret_cast<V*>(sum + i * kBlockColumns + n * distance);
                total = multiply_add<Isa>(weight, multiply_add<Isa>(y_slope[n], d, on_columns[n]), total);
            }
        }
    }
}

// An octave of this form, line by line.
template <class Isa, int wavelength, int D, class T>
DN_HD void add_lines(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile, DiagonalScratch<T>& scratch) {
    constexpr int lanes = Isa::bytes / sizeof(T), per_block = kBlockColumns / wavelength;
    const T scale = static_cast<T>(plane.amplitude / Lattice<D>::norm);
    DiagonalSums<T>& sums = scratch.sums;
    LineSlopes<T>& slopes = scratch.slopes;
    sums.clear(tile, wavelength);
    slopes.reserve(sums.end - sums.first);
    const std::int64_t rows = sums.rows, distance = (rows - kBlockColumns) * kBlockColumns;
    CellStencil<T, lanes> stencil;
    for_each_family(plane, bounds, [&](const Family& family) __attribute__((always_inline)) {
        stencil.set(family, wavelength);
        if (stencil.cells == 0) return;
        for (std::int64_t n = 0; n < family.lines; ++n) {
            const Line line = line_of<D>(family, n);
            const std::int64_t height = line.rest * wavelength - tile.y;  // of the line in block 0
            const std::int64_t begin = std::max(sums.first, (height + stencil.top - rows) / kBlockColumns),
                               end = std::min(sums.end, (height + stencil.bottom) / kBlockColumns + 1);
            if (begin >= end) continue;
            // The points whose discs reach the first and the last of these cells.
            const std::int64_t u = begin * per_block - (stencil.first + stencil.cells - 1);
            const int count = static_cast<int>((end - begin) * per_block) + stencil.cells - 1;
            find_gradients<Isa, wavelength, D>(*plane.tables, line, u, count, slopes.packed);
            slopes.template unpack<D, wavelength, lanes>(count * wavelength, scale, static_cast<T>(family.d[0]),
                                                         static_cast<T>(family.d[1]));
            for (std::int64_t b = begin; b < end;) {
                const std::int64_t offset = height - b * kBlockColumns;
                const std::int64_t low = -offset, high = rows - offset;
                const bool two = b + 1 < end && low + kBlockColumns <= stencil.top && high >= stencil.bottom;
                for (int x = 0; x < kBlockColumns; x += lanes) {
                    T* const to = sums.block(b) + offset * kBlockColumns + x;
                    const std::int64_t column = b * kBlockColumns - u * wavelength + x;
                    if (two) {
                        add_cells<Isa, wavelength, 2>(stencil, slopes, column, low + kBlockColumns, high, to, distance);
                    } else {
                        add_cells<Isa, wavelength, 1>(stencil, slopes, column, low, high, to, distance);
                    }
                }
                b += two ? 2 : 1;
            }
        }
    });
    sums.template add_to<wavelength>(tile);
}

template <class Isa, int D, class T>
DN_HD void add_diagonals(const Plane<D>& plane, const Bounds& bounds, const Tile<T>& tile,
                         DiagonalScratch<T>& scratch) {
    if (plane.wavelength == 1) return add_lines<Isa, 1>(plane, bounds, tile, scratch);
    if (plane.wavelength == 2) return add_lines<Isa, 2>(plane, bounds, tile, scratch);
    if (plane.wavelength == 4) return add_lines<Isa, 4>(plane, bounds, tile, scratch);
    add_lines<Isa, 8>(plane, bounds, tile, scratch);
}

}  // namespace diffnoise
