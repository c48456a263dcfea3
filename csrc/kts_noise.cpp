#include "kts_noise.h"

#include "gather.h"
#include "simplex_maps.h"

namespace diffnoise {
namespace {

// Patches smaller than this are made point by point, as each would need lattice points of its own.
constexpr int64_t kSmallPatch = 8;

struct Octaves {
    int64_t count;
    double persistence;
};

// Pixels of the full image that a tile holds.
struct Window {
    int64_t y_begin, y_end, x_begin, x_end;
};

// Adds all octaves at a batch of points, [4][64], to sums, [64].
template <class T>
struct AddOctaves {
    template <class Isa>
    static DN_HD void run(gather::Batch<double>* points, const Octaves& octaves, const gather::HashTables<4>& tables,
                          T* sums) {
        double amplitude = 1;
        for (int64_t octave = 0; octave < octaves.count; ++octave) {
            gather::add_lattice_sums<Isa, 4>(points, amplitude, tables, sums);
            amplitude *= octaves.persistence;
            for (int axis = 0; axis < 4; ++axis) {
                for (int i = 0; i < gather::kBatch; ++i) points[axis][i] *= 2;
            }
        }
    }
};

// store(y, x, values, count) takes a run of values.
template <class T, class F>
void make_points(const Window& window, const Patches& patches, bool local, double channel, double t,
                 const Octaves& octaves, const gather::HashTables<4>& tables, const F& store) {
    for (int64_t y = window.y_begin; y < window.y_end; ++y) {
        const int64_t i = patches.index(y), y_0 = local ? i * patches.size : 0;
        for (int64_t begin = window.x_begin; begin < window.x_end; begin += gather::kBatch) {
            const int64_t count = std::min<int64_t>(gather::kBatch, window.x_end - begin);
            alignas(64) gather::Batch<double> points[4] = {};
            alignas(64) gather::Batch<T> sums = {};
            for (int64_t n = 0; n < count; ++n) {
                const int64_t x = begin + n, j = patches.index(x), x_0 = local ? j * patches.size : 0;
                const double wavelength = patches.wavelength_of(i, j);
                const double at[4] = {static_cast<double>(x - x_0), static_cast<double>(y - y_0), channel, t};
                for (int axis = 0; axis < 4; ++axis) points[axis][n] = at[axis] / wavelength;
            }
            run_best<AddOctaves<T>>(static_cast<gather::Batch<double>*>(points), octaves, tables,
                                    static_cast<T*>(sums));
            store(y, begin, static_cast<const T*>(sums), count);
        }
    }
}

template <class T, class F>
void make_patches(const Window& window, const Patches& patches, bool local, int64_t map, const Octaves& octaves,
                  const Lattices<4>& lattices, Workspace<T>& work, const F& store) {
    for (int64_t i = patches.index(window.y_begin); i * patches.size < window.y_end; ++i) {
        const int64_t y = std::max(window.y_begin, i * patches.size);
        const int64_t y_end = std::min(window.y_end, (i + 1) * patches.size), y_0 = local ? i * patches.size : 0;
        for (int64_t j = patches.index(window.x_begin); j * patches.size < window.x_end; ++j) {
            const int64_t x = std::max(window.x_begin, j * patches.size);
            const int64_t x_end = std::min(window.x_end, (j + 1) * patches.size), x_0 = local ? j * patches.size : 0;
            const Fractal fractal{octaves.count, octaves.persistence, patches.wavelength_of(i, j), 1, false};
            lattices.add(fractal, map, work.clear(y - y_0, x - x_0, y_end - y, x_end - x), work.scratch);
            for (int64_t row = y; row < y_end; ++row) store(row, x, work.row(row - y), x_end - x);
        }
    }
}

template <class Out>
void kts_noise_kernel(const Grid& grid, const Patches& patches, const Octaves& octaves, bool local, Out* out) {
    using T = compute_t<Out>;
    const Lattices<4> lattices(grid);
    for_each_tile<T>(
        grid, [&](int64_t map, int64_t top, int64_t left, int64_t rows, int64_t columns, Workspace<T>& work) {
            const int64_t sample = map / grid.channels, *origin = grid.origins.data() + 2 * sample;
            const Window window{origin[0] + top, origin[0] + top + rows, origin[1] + left, origin[1] + left + columns};
            const auto store = [&](int64_t y, int64_t x, const T* values, int64_t count) {
                Out* to = out + (map * grid.height + y - origin[0]) * grid.width + x - origin[1];
                for (int64_t k = 0; k < count; ++k) to[k] = static_cast<Out>(values[k]);
            };
            if (patches.size < kSmallPatch) {
                const gather::HashTables<4> tables(lattices.of_map(map).permutation);
                make_points<T>(window, patches, local, static_cast<double>(map % grid.channels),
                               static_cast<double>(grid.t[sample]), octaves, tables, store);
            } else {
                make_patches(window, patches, local, map, octaves, lattices, work, store);
            }
        });
}

Tensor kts_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                 int64_t full_height, int64_t full_width, int64_t octaves, double persistence, double wavelength,
                 double sigma, int64_t patch, bool local, bool exponential, ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(full_height >= 1 && full_width >= 1 && patch >= 1,
                    "full_height, full_width and patch must be at least 1.");
    const Patches patches{full_height, full_width, patch, wavelength, sigma, exponential};
    STD_TORCH_CHECK(patches.wavelength_of(0, 0) > 0, "The wavelength vanishes in the corners; raise sigma.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    check_reach(grid, true, octaves, patches.wavelength_of(0, 0));
    dispatch_floating(dtype, [&](auto zero) {
        kts_noise_kernel(grid, patches, {octaves, persistence}, local,
                         static_cast<decltype(zero)*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("kts_noise", TORCH_BOX(&diffnoise::kts_noise)); }
