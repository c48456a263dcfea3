#include "simplex_noise.h"

#include <vector>

#include "simplex_noise_at.h"
#include "stable.h"

namespace diffnoise {
namespace {

constexpr int64_t kTileRows = 32, kTileColumns = 256;

// One register's worth of x-neighbours. A block starts at a multiple of its length in absolute x, so that a pixel's sum
// does not depend on where its tile begins.
template <class T>
struct Block {
    static constexpr int64_t length = 64 / sizeof(T);
    typedef T Vector __attribute__((vector_size(64), may_alias));
    typedef T Unaligned __attribute__((vector_size(64), may_alias, aligned(sizeof(T))));
    alignas(64) T pixels[length];
};

// A tile of one map with its sum so far. Beside the tile lies one more block on either side, for what sticks out.
template <class T>
struct Tile {
    int64_t y, x;  // absolute, of the first pixel; x is a multiple of the block length
    int64_t rows, blocks;
    T* sum;
    int64_t stride;  // from row to row of sum

    int64_t columns() const { return blocks * Block<T>::length; }
};

// Rows of the tile within `reach` of y, as [begin, end).
DN_HD void clip(double y, double reach, double wavelength, int64_t start, int64_t count, int64_t& begin, int64_t& end) {
    const double low = std::ceil((y - reach) * wavelength) - static_cast<double>(start);
    const double high = std::floor((y + reach) * wavelength) + 1 - static_cast<double>(start);
    const double limit = static_cast<double>(count);
    begin = static_cast<int64_t>(low < 0 ? 0 : low > limit ? limit : low);
    end = static_cast<int64_t>(high < 0 ? 0 : high > limit ? limit : high);
}

template <class T>
DN_CLONES void add_vertices(const Vertex* vertices, int64_t count, double wavelength, const Tile<T> tile) {
    using Vector = typename Block<T>::Vector;
    constexpr int64_t length = Block<T>::length;
    const double step = 1 / wavelength;
    Vector steps;
    for (int64_t i = 0; i < length; ++i) steps[i] = static_cast<T>(static_cast<double>(i) * step);
    T left[kTileRows], g[kTileRows];
    for (int64_t k = 0; k < count; ++k) {
        const Vertex& vertex = vertices[k];
        const double reach = std::sqrt(vertex.left > 0 ? vertex.left : 0) + kMargin;
        int64_t row_begin, row_end, begin, end;
        clip(vertex.y, reach, wavelength, tile.y, tile.rows, row_begin, row_end);
        clip(vertex.x, reach, wavelength, tile.x, tile.blocks * length, begin, end);
        if (begin >= end) continue;
        for (int64_t row = row_begin; row < row_end; ++row) {
            const double dy = static_cast<double>(tile.y + row) * step - vertex.y;
            left[row] = static_cast<T>(vertex.left - dy * dy);
            g[row] = static_cast<T>(vertex.g_0 + vertex.g_y * dy);
        }
        const T g_x = static_cast<T>(vertex.g_x);
        for (int64_t block = begin / length; block <= (end - 1) / length; ++block) {
            const double dx_low = static_cast<double>(tile.x + block * length) * step - vertex.x;
            const double dx_high = dx_low + static_cast<double>(length - 1) * step;
            const double nearest = dx_low > 0 ? dx_low : dx_high < 0 ? dx_high : 0;
            const double room = vertex.left - nearest * nearest;
            int64_t first, last;
            clip(vertex.y, std::sqrt(room > 0 ? room : 0) + kMargin, wavelength, tile.y, tile.rows, first, last);
            const Vector dx = static_cast<T>(dx_low) + steps, g_dx = g_x * dx;
            T* sum = tile.sum + first * tile.stride + block * length;
            for (int64_t row = first; row < last; ++row, sum += tile.stride) {
                *reinterpret_cast<Vector*>(sum) += vertex_term(left[row], g[row], dx, g_dx);
            }
        }
    }
}

// The same where a whole disc fits into one register's length: one window per lattice point, placed by that point
// alone.
template <class T>
DN_CLONES void add_small_vertices(const Vertex* vertices, int64_t count, double wavelength, const Tile<T> tile) {
    using Vector = typename Block<T>::Vector;
    using Unaligned = typename Block<T>::Unaligned;
    constexpr int64_t length = Block<T>::length;
    const double step = 1 / wavelength;
    const double tile_x = static_cast<double>(tile.x), tile_y = static_cast<double>(tile.y);
    Vector steps;
    for (int64_t i = 0; i < length; ++i) steps[i] = static_cast<T>(static_cast<double>(i) * step);
    alignas(64) T left[length], g[length];
    for (int64_t k = 0; k < count; ++k) {
        const Vertex& vertex = vertices[k];
        const double reach = std::sqrt(vertex.left > 0 ? vertex.left : 0) + kMargin;
        const double x = std::ceil((vertex.x - reach) * wavelength), y = std::ceil((vertex.y - reach) * wavelength);
        const int64_t column = static_cast<int64_t>(x - tile_x), row = static_cast<int64_t>(y - tile_y);
        if (column <= -length || column >= tile.columns()) continue;
        const int64_t height = 1 + static_cast<int64_t>(std::floor((vertex.y + reach) * wavelength) - y);
        const Vector dx = static_cast<T>(x * step - vertex.x) + steps, dy = static_cast<T>(y * step - vertex.y) + steps;
        const Vector g_dx = static_cast<T>(vertex.g_x) * dx;
        *reinterpret_cast<Vector*>(left) = static_cast<T>(vertex.left) - dy * dy;
        *reinterpret_cast<Vector*>(g) = static_cast<T>(vertex.g_0) + static_cast<T>(vertex.g_y) * dy;
        const int64_t first = row < 0 ? -row : 0, last = std::min(height, tile.rows - row);
        T* sum = tile.sum + (row + first) * tile.stride + column;
        for (int64_t i = first; i < last; ++i, sum += tile.stride) {
            *reinterpret_cast<Unaligned*>(sum) += vertex_term(left[i], g[i], dx, g_dx);
        }
    }
}

template <int D, class T>
void add_octave(const double* constant, double wavelength, double amplitude, const uint8_t* permutation,
                const Tile<T>& tile, std::vector<Vertex>& vertices) {
    Patch<D> patch;
    patch.x_low = static_cast<double>(tile.x) / wavelength;
    patch.x_high = static_cast<double>(tile.x + tile.columns() - 1) / wavelength;
    patch.y_low = static_cast<double>(tile.y) / wavelength;
    patch.y_high = static_cast<double>(tile.y + tile.rows - 1) / wavelength;
    for (int axis = 2; axis < D; ++axis) patch.constant[axis - 2] = constant[axis - 2] / wavelength;
    const double scale = amplitude / Lattice<D>::norm;
    vertices.clear();
    walk_lattice<D>(patch, [&](const int64_t* v, double shift, const double* d, double left) {
        const double* gradient = kGradients<D>.component[gradient_index<D>(permutation, v)];
        double g_0 = 0;
        for (int axis = 2; axis < D; ++axis) g_0 += scale * gradient[axis] * d[axis - 2];
        vertices.push_back({static_cast<double>(v[0]) + shift, static_cast<double>(v[1]) + shift, left,
                            scale * gradient[0], scale * gradient[1], g_0});
    });
    const auto add = 2 * (std::sqrt(kRadiusSquared) + kMargin) * wavelength + 1 < Block<T>::length
                         ? add_small_vertices<T>
                         : add_vertices<T>;
    add(vertices.data(), static_cast<int64_t>(vertices.size()), wavelength, tile);
}

// An octave whose lattice is finer than the pixels: point by point.
template <int D, class T>
DN_CLONES void add_fine_octave(const double* constant, double wavelength, double amplitude, const uint8_t* permutation,
                               const Tile<T>& tile) {
    double p[4];
    for (int axis = 2; axis < D; ++axis) p[axis] = constant[axis - 2] / wavelength;
    for (int64_t row = 0; row < tile.rows; ++row) {
        p[1] = static_cast<double>(tile.y + row) / wavelength;
        for (int64_t column = 0; column < tile.columns(); ++column) {
            p[0] = static_cast<double>(tile.x + column) / wavelength;
            tile.sum[row * tile.stride + column] += static_cast<T>(amplitude * lattice_sum<D>(p, permutation));
        }
    }
}

struct Fractal {
    int64_t octaves;
    double persistence, wavelength, gain;
    bool shift;
};

template <int D, class Out>
void simplex_noise_kernel(const Grid& grid, const Fractal& fractal, Out* out) {
    using T = compute_t<Out>;
    constexpr int64_t length = Block<T>::length;

    const int64_t lattices = D == 4 ? grid.batch : grid.batch * grid.channels;
    std::vector<uint8_t> permutations(lattices * 256);
    parallel_for(0, lattices, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t seed =
                D == 4 ? grid.seeds[i] : channel_seed(grid.seeds[i / grid.channels], i % grid.channels);
            make_permutation(seed, permutations.data() + i * 256);
        }
    });

    const int64_t down = (grid.height + kTileRows - 1) / kTileRows,
                  across = (grid.width + kTileColumns - 1) / kTileColumns;
    parallel_for(0, grid.batch * grid.channels * down * across, 1, [&](int64_t begin, int64_t end) {
        std::vector<Vertex> vertices;
        constexpr int64_t blocks = kTileColumns / length + 3;
        std::vector<Block<T>> sum(kTileRows * blocks);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t map = i / (down * across), sample = map / grid.channels;
            const int64_t y_0 = i / across % down * kTileRows, x_0 = i % across * kTileColumns;
            const int64_t columns = std::min(kTileColumns, grid.width - x_0);
            const int64_t x = grid.origins[2 * sample + 1] + x_0;
            const int64_t skip = ((x % length) + length) % length;  // pixels of the first block left of the tile
            const Tile<T> tile{
                grid.origins[2 * sample] + y_0,         x - skip,      std::min(kTileRows, grid.height - y_0),
                (skip + columns + length - 1) / length, sum[1].pixels, blocks * length};
            std::fill(sum.begin(), sum.end(), Block<T>{});

            const double t = static_cast<double>(grid.t[sample]);
            const double constant[2] = {D == 4 ? static_cast<double>(map % grid.channels) : t, t};
            const uint8_t* permutation = permutations.data() + (D == 4 ? sample : map) * 256;
            double amplitude = fractal.gain, wavelength = fractal.wavelength;
            for (int64_t octave = 0; octave < fractal.octaves; ++octave) {
                if (wavelength >= 1) {
                    add_octave<D>(constant, wavelength, amplitude, permutation, tile, vertices);
                } else {
                    add_fine_octave<D>(constant, wavelength, amplitude, permutation, tile);
                }
                amplitude *= fractal.persistence;
                wavelength *= 0.5;
            }
            for (int64_t row = 0; row < tile.rows; ++row) {
                const T* from = tile.sum + row * tile.stride + skip;
                Out* to = out + (map * grid.height + y_0 + row) * grid.width + x_0;
                for (int64_t column = 0; column < columns; ++column) to[column] = static_cast<Out>(from[column]);
            }
        }
    });
}

Tensor simplex_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                     int64_t dims, int64_t octaves, double persistence, double wavelength, double gain,
                     bool shift, ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(dims >= 2 && dims <= 4, "dims must be 2, 3 or 4, but is ", dims, ".");
    STD_TORCH_CHECK(wavelength > 0, "wavelength must be positive.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    // Beyond this the lattice's indices are no longer exact in double, and the walk over them need not end.
    const double largest = std::ldexp(wavelength, 50 - static_cast<int>(std::min<int64_t>(octaves, 2000)));
    const auto check = [&](const char* name, int64_t low, int64_t length) {
        const double far = std::max(-static_cast<double>(low), static_cast<double>(low) + static_cast<double>(length));
        STD_TORCH_CHECK(far < largest, name, " reaches ", far, ", too far for the lattice of the finest octave.");
    };
    for (int64_t i = 0; i < grid.batch; ++i) {
        if (dims > 2) check("t", grid.t[i], 0);
        check("y", grid.origins[2 * i], height);
        check("x", grid.origins[2 * i + 1], width);
    }
    const Fractal fractal{octaves, persistence, wavelength, gain, shift};
    dispatch_floating(dtype, [&](auto zero) {
        auto* data = static_cast<decltype(zero)*>(out.mutable_data_ptr());
        if (dims == 2) simplex_noise_kernel<2>(grid, fractal, data);
        if (dims == 3) simplex_noise_kernel<3>(grid, fractal, data);
        if (dims == 4) simplex_noise_kernel<4>(grid, fractal, data);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("simplex_noise", TORCH_BOX(&diffnoise::simplex_noise)); }
