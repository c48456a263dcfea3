#pragma once

// GPU: what makes Tsg of a Tsimplex value, before it is stored.

#include "gaussian_noise_block.h"
#include "simplex_noise_block.h"

namespace diffnoise {

// alpha simplex + (1 - alpha) Gaussian, alpha = 1 - t / steps.
template <class T, class Out>
struct StoreBlend {
    double steps;
    Out out;

    DN_HD void operator()(std::int64_t i, const Map& map, std::int64_t y, std::int64_t x, T simplex) const {
        const T normal = normal_at<T>(Address(map.seed, map.t, map.channel, y, kStreamNoise), x);
        const double alpha = 1 - static_cast<double>(map.t) / steps;
        out(i, static_cast<T>(alpha) * simplex + static_cast<T>(1 - alpha) * normal);
    }
};

}  // namespace diffnoise
