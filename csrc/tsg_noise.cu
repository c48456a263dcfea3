#include "cuda_simplex.h"
#include "tsg_noise_block.h"

namespace diffnoise {
namespace {

Tensor tsg_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width, int64_t steps,
                 int64_t octaves, double persistence, double wavelength, double gain, bool shift, ScalarType dtype) {
    const DeviceGrid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(wavelength > 0 && steps > 0, "wavelength and steps must be positive.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    const Launcher launch(seeds);
    const FractalSum fractal{octaves, persistence, wavelength, gain, shift};
    dispatch_output(out, dtype, [&](auto output, auto zero) {
        using T = decltype(zero);
        const StoreBlend<T, decltype(output)> store{static_cast<double>(steps), output};
        launch_simplex<4, T>(launch, seeds, grid, fractal, store);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CUDA, m) { m.impl("tsg_noise", TORCH_BOX(&diffnoise::tsg_noise)); }
