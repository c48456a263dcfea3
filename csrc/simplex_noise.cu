#include "cuda_simplex.h"

namespace diffnoise {
namespace {

Tensor simplex_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                     int64_t dims, int64_t octaves, double persistence, double wavelength, double gain, bool shift,
                     ScalarType dtype) {
    const DeviceGrid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(dims >= 2 && dims <= 4, "dims must be 2, 3 or 4, but is ", dims, ".");
    STD_TORCH_CHECK(wavelength > 0, "wavelength must be positive.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    const Launcher launch(seeds);
    const FractalSum fractal{octaves, persistence, wavelength, gain, shift};
    dispatch_output(out, dtype, [&](auto output, auto zero) {
        using T = decltype(zero);
        const StoreSimplex<T, decltype(output)> store{output};
        if (dims == 2) launch_simplex<2, T>(launch, seeds, grid, fractal, store);
        if (dims == 3) launch_simplex<3, T>(launch, seeds, grid, fractal, store);
        if (dims == 4) launch_simplex<4, T>(launch, seeds, grid, fractal, store);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CUDA, m) { m.impl("simplex_noise", TORCH_BOX(&diffnoise::simplex_noise)); }
