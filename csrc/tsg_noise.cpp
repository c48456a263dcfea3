#include "gaussian_row.h"
#include "simplex_maps.h"

namespace diffnoise {
namespace {

template <class Out>
void tsg_noise_kernel(const Grid& grid, const Fractal& fractal, double steps, Out* out) {
    using T = compute_t<Out>;
    const Lattices<4> lattices(grid);
    for_each_tile<T>(grid, [&](int64_t map, int64_t y, int64_t x, int64_t rows, int64_t columns, Workspace<T>& work) {
        const int64_t sample = map / grid.channels;
        const int64_t* origin = grid.origins.data() + 2 * sample;
        lattices.add(fractal, map, work.clear(origin[0] + y, origin[1] + x, rows, columns), work.scratch);
        const double share = 1 - static_cast<double>(grid.t[sample]) / steps;
        const T alpha = static_cast<T>(share), rest = static_cast<T>(1 - share);
        GaussianRow<T> normals(columns);
        for (int64_t i = 0; i < rows; ++i) {
            const Address address(grid.seeds[sample], grid.t[sample], map % grid.channels, origin[0] + y + i,
                                  kStreamNoise);
            const T *simplex = work.row(i), *gaussian = normals(address, origin[1] + x);
            Out* to = out + (map * grid.height + y + i) * grid.width + x;
            for (int64_t j = 0; j < columns; ++j) to[j] = static_cast<Out>(alpha * simplex[j] + rest * gaussian[j]);
        }
    });
}

Tensor tsg_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width, int64_t steps,
                 int64_t octaves, double persistence, double wavelength, double gain, bool shift, ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(wavelength > 0, "wavelength must be positive.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    check_reach(grid, true, octaves, wavelength);
    const Fractal fractal{octaves, persistence, wavelength, gain, shift};
    dispatch_floating(dtype, [&](auto zero) {
        tsg_noise_kernel(grid, fractal, static_cast<double>(steps),
                         static_cast<decltype(zero)*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("tsg_noise", TORCH_BOX(&diffnoise::tsg_noise)); }
