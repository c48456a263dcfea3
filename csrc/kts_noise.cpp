#include "kts_noise.h"

#include "simplex_noise.h"

namespace diffnoise {
namespace {

// Patches smaller than this are made point by point.
constexpr int64_t kSmallPatch = 8;

template <class Out>
void kts_noise_kernel(const Grid& grid, const Patches& patches, int64_t octaves, double persistence, bool local,
                      Out* out) {
    using T = compute_t<Out>;
    const Lattices<4> lattices(grid);
    for_each_tile<T>(grid, [&](int64_t map, int64_t top, int64_t left, int64_t rows, int64_t columns,
                               Workspace<T>& work) {
        const int64_t* origin = grid.origins.data() + 2 * (map / grid.channels);
        const int64_t y_begin = origin[0] + top, y_end = y_begin + rows;
        const int64_t x_begin = origin[1] + left, x_end = x_begin + columns;
        for (int64_t i = patches.index(y_begin); i * patches.size < y_end; ++i) {
            const int64_t y = std::max(y_begin, i * patches.size), y_stop = std::min(y_end, (i + 1) * patches.size);
            for (int64_t j = patches.index(x_begin); j * patches.size < x_end; ++j) {
                const int64_t x = std::max(x_begin, j * patches.size), x_stop = std::min(x_end, (j + 1) * patches.size);
                const Fractal fractal{octaves, persistence, patches.wavelength_of(i, j),
                                      1,       false,       patches.size < kSmallPatch};
                const int64_t y_0 = local ? i * patches.size : 0, x_0 = local ? j * patches.size : 0;
                lattices.add(fractal, map, work.clear(y - y_0, x - x_0, y_stop - y, x_stop - x), work.scratch);
                for (int64_t row = y; row < y_stop; ++row) {
                    const T* from = work.row(row - y);
                    Out* to = out + (map * grid.height + row - origin[0]) * grid.width + x - origin[1];
                    for (int64_t k = 0; k < x_stop - x; ++k) to[k] = static_cast<Out>(from[k]);
                }
            }
        }
    });
}

Tensor kts_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                 int64_t full_height, int64_t full_width, int64_t octaves, double persistence, double wavelength,
                 double sigma, int64_t patch, bool local, ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(full_height >= 1 && full_width >= 1 && patch >= 1,
                    "full_height, full_width and patch must be at least 1.");
    const Patches patches{full_height, full_width, patch, wavelength, sigma};
    STD_TORCH_CHECK(patches.wavelength_of(0, 0) > 0, "The wavelength vanishes in the corners; raise sigma.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    check_reach(grid, true, octaves, patches.wavelength_of(0, 0));
    dispatch_floating(dtype, [&](auto zero) {
        kts_noise_kernel(grid, patches, octaves, persistence, local,
                         static_cast<decltype(zero)*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("kts_noise", TORCH_BOX(&diffnoise::kts_noise)); }
