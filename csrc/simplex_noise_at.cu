#include "cuda_simplex.h"
#include "simplex_noise_at_block.h"

namespace diffnoise {
namespace {

template <int D, class T>
__global__ void __launch_bounds__(kThreads)
    simplex_points_kernel(unsigned rows, const Points points, const FractalSum fractal,
                          const std::uint8_t* permutations, const Output<T> out) {
    __shared__ LatticeTable<D, T> table;
    simplex_points_block(Block(), block_index(rows), points, fractal, permutations, table, out);
}

Tensor simplex_noise_at(Tensor points, Tensor seeds, int64_t octaves, double persistence, double gain, bool shift,
                        bool original, ScalarType dtype) {
    STD_TORCH_CHECK(!original, "original is not available on CUDA; move points and seeds to the CPU.");
    STD_TORCH_CHECK(points.dim() == 3 && points.size(2) >= 2 && points.size(2) <= 4,
                    "points must have shape [B, N, D] with D = 2, 3 or 4.");
    const int64_t batch = points.size(0), count = points.size(1), dims = points.size(2);
    const bool is_double = points.scalar_type() == ScalarType::Double;
    const DeviceInput<int64_t> seed(seeds, {batch}, points, "seeds");
    const Tensor places = torch::stable::contiguous(points);
    STD_TORCH_CHECK(points.is_cuda() && (is_double || points.scalar_type() == ScalarType::Float),
                    "points must be a float32 or float64 CUDA tensor.");
    Tensor out = empty({batch, count}, dtype, points);
    if (batch == 0 || count == 0) return out;
    const int64_t blocks = (count + kPointsPerBlock - 1) / kPointsPerBlock;
    const Launcher launch(points);
    const Permutations permutations(launch, points, seed.data(), batch, 1);
    const Points at{places.const_data_ptr(), is_double, count, seed.data(), static_cast<unsigned>(blocks)};
    const FractalSum fractal{octaves, persistence, 1, gain, shift};
    dispatch_output(out, dtype, [&](auto output, auto zero) {
        using T = decltype(zero);
        const auto run = [&](auto kernel) {
            launch(kernel, {batch * blocks}, 0, at, fractal, permutations.data(), output);
        };
        if (dims == 2) run(simplex_points_kernel<2, T>);
        if (dims == 3) run(simplex_points_kernel<3, T>);
        if (dims == 4) run(simplex_points_kernel<4, T>);
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CUDA, m) { m.impl("simplex_noise_at", TORCH_BOX(&diffnoise::simplex_noise_at)); }
