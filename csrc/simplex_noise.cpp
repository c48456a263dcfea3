#include "simplex_maps.h"

namespace diffnoise {
namespace {

template <int D, class Out>
void simplex_noise_kernel(const Grid& grid, const Fractal& fractal, Out* out) {
    using T = compute_t<Out>;
    const Lattices<D> lattices(grid);
    for_each_tile<T>(grid, [&](int64_t map, int64_t y, int64_t x, int64_t rows, int64_t columns, Workspace<T>& work) {
        const int64_t* origin = grid.origins.data() + 2 * (map / grid.channels);
        lattices.add(fractal, map, work.clear(origin[0] + y, origin[1] + x, rows, columns), work.scratch);
        for (int64_t i = 0; i < rows; ++i) {
            const T* from = work.row(i);
            Out* to = out + (map * grid.height + y + i) * grid.width + x;
            for (int64_t j = 0; j < columns; ++j) to[j] = static_cast<Out>(from[j]);
        }
    });
}

Tensor simplex_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                     int64_t dims, int64_t octaves, double persistence, double wavelength, double gain, bool shift,
                     ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(dims >= 2 && dims <= 4, "dims must be 2, 3 or 4, but is ", dims, ".");
    STD_TORCH_CHECK(wavelength > 0, "wavelength must be positive.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    check_reach(grid, dims > 2, octaves, wavelength);
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
