#pragma once

// Gaussian-mixture noise: what one component is, as in diffnoise/ops/gmm_noise.py. A bump is separable, so a map is a
// product [H, K] [K, W] of profiles.

#include "philox.h"

namespace diffnoise {

// mu, sigma: uniform in [0, 1), still to be scaled.
struct Component {
    double mu_x, mu_y, sigma_x, sigma_y, weight;
};

DN_HD Component make_component(std::int64_t seed, std::int64_t t, std::int64_t channel, std::uint32_t k, bool is_signed) {
    const Address address(seed, t, channel, k, kStreamMixture);
    const Words place = address(0);
    const double weight = uniform<double>(address(1).w0);
    return {uniform<double>(place.w0), uniform<double>(place.w1), uniform<double>(place.w2), uniform<double>(place.w3),
            is_signed ? 2 * weight - 1 : weight};
}

// The density N(position; mu, sigma), all in pixels.
DN_HD double density(double position, double mu, double sigma) {
    const double z = (position - mu) / sigma;
    return std::exp(-0.5 * z * z) / (sigma * 2.5066282746310002);
}

}  // namespace diffnoise
