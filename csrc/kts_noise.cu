#include "cuda_simplex.h"
#include "kts_noise_block.h"

namespace diffnoise {
namespace {

template <class T>
__global__ void __launch_bounds__(kThreads) kts_kernel(unsigned rows, const Pixels pixels, const KtsField field,
                                                       const std::uint8_t* permutations, const Output<T> out) {
    __shared__ LatticeTable<4, T> table;
    kts_block(Block(), block_index(rows), pixels, field, permutations, table, out);
}

Tensor kts_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                 int64_t full_height, int64_t full_width, int64_t octaves, double persistence, double wavelength,
                 double sigma, int64_t patch, bool local, bool exponential, ScalarType dtype) {
    const DeviceGrid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(full_height >= 1 && full_width >= 1 && patch >= 1,
                    "full_height, full_width and patch must be at least 1.");
    STD_TORCH_CHECK(wavelength > 0 && sigma > 0, "wavelength and sigma must be positive.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    const Launcher launch(seeds);
    const Permutations permutations(launch, seeds, grid.pixels.seeds, grid.batch, 1);
    const KtsField field{full_height, full_width, octaves, persistence, wavelength, sigma, patch, local, exponential};
    dispatch_output(out, dtype, [&](auto output, auto zero) {
        launch(kts_kernel<decltype(zero)>,
               {grid.maps(), (height + kKtsTile - 1) / kKtsTile, (width + kKtsTile - 1) / kKtsTile}, 0, grid.pixels,
               field, permutations.data(), output);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CUDA, m) { m.impl("kts_noise", TORCH_BOX(&diffnoise::kts_noise)); }
