#include "cuda.h"
#include "gmm_noise_block.h"

namespace diffnoise {
namespace {

__global__ void __launch_bounds__(kThreads)
    moments_kernel(unsigned rows, const Pixels pixels, const Mixture mixture, Moments* moments) {
    __shared__ MomentsMemory memory;
    moments_block(Block(), block_index(rows), pixels, mixture, memory, moments);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gmm_kernel(unsigned rows, const Pixels pixels, const Mixture mixture, const Moments* moments, const Output<T> out) {
    __shared__ MixMemory<T> memory;
    gmm_block(Block(), block_index(rows), pixels, mixture, moments, memory, out);
}

Tensor gmm_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                 int64_t full_height, int64_t full_width, int64_t components, double sigma_low, double sigma_high,
                 bool is_signed, bool standardize, ScalarType dtype) {
    const DeviceGrid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(components >= 1 && full_height >= 1 && full_width >= 1,
                    "components, full_height and full_width must be at least 1.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    const Launcher launch(seeds);
    const Mixture mixture{full_height, full_width, components, sigma_low, sigma_high, is_signed, standardize};
    const Tensor moments = empty({standardize ? grid.maps() : 0, 2}, ScalarType::Double, seeds);
    auto* moments_data = static_cast<Moments*>(moments.mutable_data_ptr());
    if (standardize) launch(moments_kernel, {grid.maps()}, 0, grid.pixels, mixture, moments_data);
    dispatch_output(out, dtype, [&](auto output, auto zero) {
        launch(gmm_kernel<decltype(zero)>,
               {grid.maps(), (height + kMixTile - 1) / kMixTile, (width + kMixTile - 1) / kMixTile}, 0, grid.pixels,
               mixture, moments_data, output);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CUDA, m) { m.impl("gmm_noise", TORCH_BOX(&diffnoise::gmm_noise)); }
