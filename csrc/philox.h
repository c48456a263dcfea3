#pragma once

// Philox4x32-10 (Salmon et al., SC 2011) and the numbers made of its words, as in diffnoise/ops/_philox.py.

#include <cmath>
#include <cstdint>

#include "elementary.h"
#include "host_device.h"

namespace diffnoise {

// What a draw is for: streams never share a number.
enum Stream : std::uint32_t { kStreamNoise = 0, kStreamReverse = 1, kStreamMixture = 2, kStreamShift = 3 };
constexpr int kChannelBits = 24;

constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u, kPhiloxW0 = 0x9E3779B9u,
                        kPhiloxW1 = 0xBB67AE85u;

struct Words {
    std::uint32_t w0, w1, w2, w3;
};

DN_HD Words philox(Words c, std::uint32_t k0, std::uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = static_cast<std::uint64_t>(c.w0) * 0xD2511F53u;
        const std::uint64_t p1 = static_cast<std::uint64_t>(c.w2) * 0xCD9E8D57u;
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c.w1 ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c.w3 ^ k1, static_cast<std::uint32_t>(p0)};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// Everything of an address but its last coordinate.
struct Address {
    std::uint32_t k0, k1, y, channel, t;

    DN_HD Address(std::int64_t seed, std::int64_t t, std::int64_t channel, std::int64_t y, std::int64_t stream)
        : k0(static_cast<std::uint32_t>(seed)),
          k1(static_cast<std::uint32_t>(static_cast<std::uint64_t>(seed) >> 32)),
          y(static_cast<std::uint32_t>(y)),
          channel(static_cast<std::uint32_t>(channel | (stream << kChannelBits))),
          t(static_cast<std::uint32_t>(t)) {}

    DN_HD Words operator()(std::uint32_t x) const { return philox({x, y, channel, t}, k0, k1); }
};

// The top 24 bits as a number in [0, 1), exact.
template <class T>
DN_HD T uniform(std::uint32_t word) {
    return static_cast<T>(static_cast<std::int32_t>(word >> 8)) * static_cast<T>(0x1p-24);
}

// Two independent N(0, 1) numbers by Box and Muller's transform.
template <class T>
DN_HD void normal_pair(std::uint32_t word0, std::uint32_t word1, T& first, T& second) {
    const T radius = std::sqrt(T(-2) * log_positive(uniform<T>(word0) + static_cast<T>(0x1p-24)));
    T sine, cosine;
    sincos_turns(static_cast<std::int32_t>(word1 >> 8), sine, cosine);
    first = radius * cosine;
    second = radius * sine;
}

}  // namespace diffnoise
