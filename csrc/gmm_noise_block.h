#pragma once

// GPU: Gaussian mixtures by blocks of threads. One kernel makes every map's mean and deviation from closed sums, the
// other the products of profiles, tile by tile.

#include "gmm_noise.h"
#include "pixels.h"
#include "thread_block.h"

namespace diffnoise {

struct Mixture {
    std::int64_t full_height, full_width, components;
    double sigma_low, sigma_high;
    bool is_signed, standardize;
};

// One component along one axis, in pixels.
struct Bump {
    double mu, inverse_sigma, factor;
};

// A component that does not exist is 0.
DN_HD void make_bumps(const Mixture& mixture, const Map& map, std::int64_t k, Bump& x, Bump& y) {
    x = y = {};
    if (k >= mixture.components) return;
    const Component c = make_component(map.seed, map.t, map.channel, static_cast<std::uint32_t>(k), mixture.is_signed);
    const std::int64_t side = mixture.full_height > mixture.full_width ? mixture.full_height : mixture.full_width;
    const auto along = [&](double mu, std::int64_t extent, double u, double weight) {
        const double sigma =
            (mixture.sigma_low + (mixture.sigma_high - mixture.sigma_low) * u) * static_cast<double>(side);
        return Bump{mu * static_cast<double>(extent), 1 / sigma, weight * kInverseRootTwoPi / sigma};
    };
    x = along(c.mu_x, mixture.full_width, c.sigma_x, 1);
    y = along(c.mu_y, mixture.full_height, c.sigma_y, c.weight);
}

// A map's mean and 1 / deviation over the full image.
struct Moments {
    double mean, inverse_deviation;
};

constexpr int kMomentTile = 32, kMomentRows = 2, kMomentColumns = 4;  // components; pairs of them per thread
static_assert(kMomentTile * kMomentTile == kThreads * kMomentRows * kMomentColumns);

struct MomentsMemory {
    Bump bump[2][2][kMomentTile];                 // [axis, side of the pair, component]
    double profile[2][kMomentTile][kMomentTile];  // [side of the pair, position, component]
    double total[2][kMomentTile];                 // sums of profiles, [axis, component]
    double square[kThreads];
};

// sum of f^2 = sum over k, l of (sum over x of p_k p_l) (sum over y of q_k q_l), for pairs of tiles of components.
template <class Block>
DN_HD void moments_block(const Block& block, const BlockIndex& at, const Pixels& pixels, const Mixture& mixture,
                         MomentsMemory& memory, Moments* moments) {
    const Map map(pixels, at.x);
    const int thread = block.thread();
    const int row = thread / (kMomentTile / kMomentColumns) * kMomentRows;
    const int column = thread % (kMomentTile / kMomentColumns) * kMomentColumns;
    const std::int64_t tiles = (mixture.components + kMomentTile - 1) / kMomentTile;
    double square = 0, mean = 0;  // the mean is the first thread's alone
    for (std::int64_t i = 0; i < tiles * tiles; ++i) {
        const std::int64_t tile[2] = {i / tiles, i % tiles};
        if (tile[0] > tile[1]) continue;
        const bool diagonal = tile[0] == tile[1];
        block.over(2 * kMomentTile, [&](int j) {
            const int side = j / kMomentTile, k = j % kMomentTile;
            make_bumps(mixture, map, (side == 0 ? tile[0] : tile[1]) * kMomentTile + k, memory.bump[0][side][k],
                       memory.bump[1][side][k]);
        });
        double product[kMomentRows][kMomentColumns];
        for (int axis = 0; axis < 2; ++axis) {
            double gram[kMomentRows][kMomentColumns] = {}, total = 0;
            const std::int64_t extent = axis == 0 ? mixture.full_width : mixture.full_height;
            for (std::int64_t start = 0; start < extent; start += kMomentTile) {
                block.barrier();
                block.over((diagonal ? 1 : 2) * kMomentTile * kMomentTile, [&](int j) {
                    const int k = j % kMomentTile, position = j / kMomentTile % kMomentTile,
                              side = j / kMomentTile / kMomentTile;
                    const Bump& bumped = memory.bump[axis][side][k];
                    memory.profile[side][position][k] = start + position < extent && bumped.factor != 0
                                                            ? bump(static_cast<double>(start + position), bumped.mu,
                                                                   bumped.inverse_sigma, bumped.factor)
                                                            : 0;
                });
                block.barrier();
                for (int position = 0; position < kMomentTile; ++position) {
                    const double* left = memory.profile[0][position] + row;
                    const double* right = memory.profile[diagonal ? 0 : 1][position] + column;
                    for (int r = 0; r < kMomentRows; ++r) {
                        for (int c = 0; c < kMomentColumns; ++c) gram[r][c] += left[r] * right[c];
                    }
                }
                if (diagonal && thread < kMomentTile) {
                    for (int position = 0; position < kMomentTile; ++position)
                        total += memory.profile[0][position][thread];
                }
            }
            if (thread < kMomentTile) memory.total[axis][thread] = total;
            for (int r = 0; r < kMomentRows; ++r) {
                for (int c = 0; c < kMomentColumns; ++c)
                    product[r][c] = axis == 0 ? gram[r][c] : product[r][c] * gram[r][c];
            }
        }
        double sum = 0;
        for (const auto& pairs : product) {
            for (const double pair : pairs) sum += pair;
        }
        square += diagonal ? sum : 2 * sum;
        block.barrier();
        if (diagonal && thread == 0) {
            for (int k = 0; k < kMomentTile; ++k) mean += memory.total[0][k] * memory.total[1][k];
        }
    }
    memory.square[thread] = square;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        block.barrier();
        if (thread < half) memory.square[thread] += memory.square[thread + half];
    }
    if (thread != 0) return;
    const double area = static_cast<double>(mixture.full_height) * static_cast<double>(mixture.full_width);
    mean /= area;
    square = memory.square[0] / area;
    const double variance = square - mean * mean;
    // A constant map has no deviation: 0.
    moments[at.x] = {mean, variance > 1e-12 * square ? 1 / std::sqrt(variance) : 0};
}

constexpr int kMixTile = 64, kMixChunk = 16;                                             // pixels; components at a time
constexpr int kMixColumns = 4, kMixRows = kMixTile * kMixTile / kThreads / kMixColumns;  // of a thread

template <class T>
struct alignas(32) MixMemory {
    T x[kMixChunk][kMixTile], y[kMixChunk][kMixTile];
    Bump bump_x[kMixChunk], bump_y[kMixChunk];
};

template <class T>
DN_HD T profile(double position, const Bump& at) {
    const T z = static_cast<T>((position - at.mu) * at.inverse_sigma);
    return static_cast<T>(at.factor) * exponential(T(-0.5) * (z * z));
}

// moments: [B, C], if the maps are standardised.
template <class T, class Block, class Out>
DN_HD void gmm_block(const Block& block, const BlockIndex& at, const Pixels& pixels, const Mixture& mixture,
                     const Moments* moments, MixMemory<T>& memory, const Out& out) {
    const Map map(pixels, at.x);
    const std::int64_t top = std::int64_t{at.y} * kMixTile, left = std::int64_t{at.z} * kMixTile;
    const int row = block.thread() / (kMixTile / kMixColumns) * kMixRows;
    const int column = block.thread() % (kMixTile / kMixColumns) * kMixColumns;
    const double mean = mixture.standardize ? moments[at.x].mean : 0;
    const double scale = mixture.standardize ? moments[at.x].inverse_deviation : 1;
    T value[kMixRows][kMixColumns];
    for (auto& four : value) {
        for (T& pixel : four) pixel = static_cast<T>(-mean * scale);
    }
    for (std::int64_t first = 0; first < mixture.components; first += kMixChunk) {
        const std::int64_t rest = mixture.components - first;
        const int count = static_cast<int>(rest < kMixChunk ? rest : kMixChunk);
        block.over(count, [&](int k) {
            make_bumps(mixture, map, first + k, memory.bump_x[k], memory.bump_y[k]);
            memory.bump_y[k].factor *= scale;
        });
        block.barrier();
        block.over(count * kMixTile, [&](int i) {
            const int k = i / kMixTile, position = i % kMixTile;
            memory.x[k][position] = profile<T>(static_cast<double>(map.x + left + position), memory.bump_x[k]);
            memory.y[k][position] = profile<T>(static_cast<double>(map.y + top + position), memory.bump_y[k]);
        });
        block.barrier();
        for (int k = 0; k < count; ++k) {
            const T* x = memory.x[k] + column;
            const T* y = memory.y[k] + row;
            for (int r = 0; r < kMixRows; ++r) {
                for (int c = 0; c < kMixColumns; ++c) value[r][c] += y[r] * x[c];
            }
        }
    }
    for (int r = 0; r < kMixRows; ++r) {
        if (top + row + r >= pixels.height) break;
        out.four((map.index * pixels.height + top + row + r) * pixels.width + left + column, value[r], 0,
                 pixels.width - left - column);
    }
}

}  // namespace diffnoise
