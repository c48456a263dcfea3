#pragma once

// GPU: what the simplex ops share, the permutations of a batch and the launch over tiles.

#include "cuda.h"
#include "permutation.h"
#include "simplex_noise_block.h"

namespace diffnoise {
namespace {

__global__ void __launch_bounds__(kThreads)
    permutation_kernel(unsigned rows, const int64_t* seeds, int64_t channels, std::uint8_t* tables) {
    __shared__ ShuffleMemory memory;
    permutation_block(Block(), block_index(rows), seeds, channels, memory, tables);
}

// The permutations of `channels` lattices per sample, uint8 [B, channels, 256].
class Permutations {
  public:
    Permutations(const Launcher& launch, const Tensor& like, const int64_t* seeds, int64_t batch, int64_t channels)
        : tables_(empty({batch, channels, 256}, ScalarType::Byte, like)) {
        launch(permutation_kernel, {batch * channels}, 0, seeds, channels,
               static_cast<std::uint8_t*>(tables_.mutable_data_ptr()));
    }
    const std::uint8_t* data() const { return static_cast<const std::uint8_t*>(tables_.const_data_ptr()); }

  private:
    Tensor tables_;
};

template <int D, class T, class Store>
__global__ void __launch_bounds__(kThreads, std::is_same_v<T, float> ? 8 : 4)
    simplex_kernel(unsigned rows, const Pixels pixels, const FractalSum fractal,
                   const __grid_constant__ TilePlan<D, T> plan, double farthest, const std::uint8_t* permutations,
                   const Store store) {
    extern __shared__ __align__(32) unsigned char shared[];
    simplex_block<D, T>(Block(), block_index(rows), pixels, fractal, plan, farthest, permutations, shared, store);
}

template <int D, class T, class Store>
void launch_simplex(const Launcher& launch, const Tensor& like, const DeviceGrid& grid, const FractalSum& fractal,
                    const Store& store) {
    const Pixels& p = grid.pixels;
    const Permutations permutations(launch, like, p.seeds, grid.batch, D == 4 ? 1 : p.channels);
    const TilePlan<D, T> plan(fractal);
    launch(simplex_kernel<D, T, Store>, {grid.maps(), tile_rows(p.height), tile_columns(p.width)}, plan.bytes, p,
           fractal, plan, farthest_coordinate(fractal), permutations.data(), store);
}

}  // namespace
}  // namespace diffnoise
