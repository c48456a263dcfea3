#include "gaussian_noise.h"

#include <type_traits>

#include "gaussian_row.h"
#include "stable.h"

namespace diffnoise {
namespace {

template <class Out>
void gaussian_noise_kernel(const Grid& grid, int64_t stream, Out* out) {
    using T = compute_t<Out>;
    constexpr int64_t at_once = 16;  // rows that are made in T before they are rounded
    const int64_t count = grid.batch * grid.channels * grid.height;
    parallel_for(0, count, 1 + (1 << 14) / grid.width, [&](int64_t begin, int64_t end) {
        std::vector<T> buffer(std::is_same_v<T, Out> ? 0 : at_once * grid.width);
        for (int64_t i = begin; i < end;) {
            const int64_t map = i / grid.height, sample = map / grid.channels, y = i % grid.height;
            const Address top(grid.seeds[sample], grid.t[sample], map % grid.channels, grid.origins[2 * sample] + y,
                              stream);
            const int64_t x = grid.origins[2 * sample + 1];
            int64_t rows = std::min(grid.height - y, end - i);
            Out* to = out + i * grid.width;
            if constexpr (std::is_same_v<T, Out>) {
                fill_normals(top, x, rows, grid.width, to);
            } else {
                rows = std::min(rows, at_once);
                fill_normals(top, x, rows, grid.width, buffer.data());
                for (int64_t j = 0; j < rows * grid.width; ++j) to[j] = static_cast<Out>(buffer[j]);
            }
            i += rows;
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
