#pragma once

// GPU: fractal OpenSimplex at points, by blocks of threads.

#include "lattice_lines.h"
#include "thread_block.h"

namespace diffnoise {

constexpr int kPointsPerBlock = 1024;

// Points [B, N, D], as float or as double, and a seed per sample.
struct Points {
    const void* data;
    bool is_double;
    std::int64_t count;
    const std::int64_t* seeds;
    unsigned blocks;  // per sample
};

// permutations: [B, 256].
template <int D, class T, class Block, class Out>
DN_HD void simplex_points_block(const Block& block, const BlockIndex& at, const Points& points,
                                const FractalSum& fractal, const std::uint8_t* permutations, LatticeTable<D, T>& table,
                                const Out& out) {
    const unsigned sample = at.x / points.blocks;
    const std::int64_t first = std::int64_t{at.x - sample * points.blocks} * kPointsPerBlock,
                       seed = points.seeds[sample];
    block.over(256, [&](int i) { table.set(i, permutations[std::int64_t{sample} * 256 + i]); });
    block.barrier();
    block.over(kPointsPerBlock, [&](int i) {
        if (first + i >= points.count) return;
        const std::int64_t point = sample * points.count + first + i;
        double place[D];
        for (int axis = 0; axis < D; ++axis) {
            place[axis] = points.is_double
                              ? static_cast<const double*>(points.data)[point * D + axis]
                              : static_cast<double>(static_cast<const float*>(points.data)[point * D + axis]);
        }
        double amplitude = fractal.gain * kLineScale<D>, scale = 1;
        T sum = 0;
        for (std::int64_t octave = 0; octave < fractal.octaves; ++octave) {
            double p[D];
            octave_point<D>(place, scale, fractal.shift, seed, octave, p);
            sum += static_cast<T>(amplitude) * gather<D>(p, table);
            amplitude *= fractal.persistence;
            scale *= 2;
        }
        out(point, sum);
    });
}

}  // namespace diffnoise
