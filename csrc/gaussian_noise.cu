#include "cuda.h"
#include "gaussian_noise_block.h"

namespace diffnoise {
namespace {

template <class T>
__global__ void __launch_bounds__(kThreads)
    gaussian_kernel(unsigned rows, const Pixels pixels, int64_t stream, const Output<T> out) {
    gaussian_block<T>(Block(), block_index(rows), pixels, stream, out);
}

Tensor gaussian_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                      int64_t stream, ScalarType dtype) {
    const DeviceGrid grid(seeds, t, origins, channels, height, width);
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    const Launcher launch(seeds);
    dispatch_output(out, dtype, [&](auto output, auto zero) {
        launch(gaussian_kernel<decltype(zero)>, {grid.maps(), gaussian_rows(height), gaussian_columns(width)}, 0,
               grid.pixels, stream, output);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CUDA, m) { m.impl("gaussian_noise", TORCH_BOX(&diffnoise::gaussian_noise)); }
