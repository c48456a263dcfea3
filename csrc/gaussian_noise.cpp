#include "gaussian_noise.h"

#include "gaussian_row.h"
#include "stable.h"

namespace diffnoise {
namespace {

template <class Out>
void gaussian_noise_kernel(const Grid& grid, int64_t stream, Out* out) {
    using T = compute_t<Out>;
    const int64_t rows = grid.batch * grid.channels * grid.height;
    parallel_for(0, rows, 1 + (1 << 14) / grid.width, [&](int64_t begin, int64_t end) {
        GaussianRow<T> normals(grid.width);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t map = i / grid.height, sample = map / grid.channels;
            const Address row(grid.seeds[sample], grid.t[sample], map % grid.channels,
                              grid.origins[2 * sample] + i % grid.height, stream);
            const T* from = normals(row, grid.origins[2 * sample + 1]);
            Out* to = out + i * grid.width;
            for (int64_t x = 0; x < grid.width; ++x) to[x] = static_cast<Out>(from[x]);
        }
    });
}

Tensor gaussian_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                      int64_t stream, ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    dispatch_floating(dtype, [&](auto zero) {
        gaussian_noise_kernel(grid, stream, static_cast<decltype(zero)*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("gaussian_noise", TORCH_BOX(&diffnoise::gaussian_noise)); }
