#pragma once

// Gaussian-mixture noise: what one component is, as in diffnoise/ops/gmm_noise.py. A bump is separable, so a map is a
// product [H, K] [K, W] of profiles.

#include "philox.h"

namespace diffnoise {

struct Component {
    double mu_x, mu_y, sigma_x, sigma_y, weight;
};

// mu and sigma are uniform in [0, 1), still to be scaled.
DN_HD Component make_component(std::int64_t seed, std::int64_t t, std::int64_t channel, std::uint32_t k,
                               bool is_signed) {
    const Address address(seed, t, channel, k, kStreamMixture);
    const Words place = address(0);
    const double weight = uniform<double>(address(1).w0);
    return {uniform<double>(place.w0), uniform<double>(place.w1), uniform<double>(place.w2), uniform<double>(place.w3),
            is_signed ? 2 * weight - 1 : weight};
}

// Below e^-300 of its peak a bump is 0: squares of smaller numbers are denormal, and those are slow.
constexpr double kLowestExponent = -300;

// factor * exp(-((position - mu) / sigma)^2 / 2); the factor of a density is weight / (sigma sqrt(2 pi)).
DN_HD double bump(double position, double mu, double inverse_sigma, double factor) {
    const double z = (position - mu) * inverse_sigma;
    const double exponent = -0.5 * (z * z);
    return exponent < kLowestExponent ? 0 : factor * exponential(exponent);
}

// A profile's value for the product of profiles. What is 1e-18 of the peak cannot show in it, but would make denormals.
template <class T>
DN_HD T narrow(double value, double factor) {
    return std::fabs(value) < 1e-18 * std::fabs(factor) ? T(0) : static_cast<T>(value);
}

constexpr double kInverseRootTwoPi = 0.3989422804014327;
constexpr double kRootHalfLog2E = 0.8493218002880191;  // exp(-z^2 / 2) = 2^-(kRootHalfLog2E z)^2

}  // namespace diffnoise
