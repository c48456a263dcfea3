#pragma once

// log, exp, sine and cosine without branches or tables, so that loops over them vectorise and every instruction set
// gives the same bits. Polynomials: Cephes (S. Moshier), Taylor for exp in double. The rest in double: the C library.

#include <bit>
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace diffnoise {

// Horner's rule, highest power first.
template <class T>
DN_HD T polynomial(T, T c) {
    return c;
}
template <class T, class... Rest>
DN_HD T polynomial(T x, T high, T next, Rest... rest) {
    return polynomial(x, high * x + next, rest...);
}

// Natural logarithm of a normal positive number.
DN_HD float log_positive(float x) {
    // x = m 2^e with m between sqrt(1/2) and sqrt(2).
    constexpr std::int32_t root_half = 0x3F3504F3;
    const std::int32_t bits = std::bit_cast<std::int32_t>(x) - root_half;
    const float e = static_cast<float>(bits >> 23);
    const float z = std::bit_cast<float>((bits & 0x007FFFFF) + root_half) - 1.0f;
    const float p =
        polynomial(z, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                   -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
    const float square = z * z;
    const float small = (p * z * square + e * -2.12194440e-4f) - 0.5f * square;
    return (z + small) + e * 0.693359375f;
}
DN_HD double log_positive(double x) { return std::log(x); }

// sin and cos of 2 pi n / 2^24, 0 <= n < 2^24.
DN_HD void sincos_turns(std::int32_t n, float& sine, float& cosine) {
    const std::int32_t quarter = (n + (1 << 21)) >> 22;
    const float x = static_cast<float>(n - (quarter << 22)) * 3.7450702829238413e-7f;  // at most pi / 4
    const float z = x * x;
    const float s = polynomial(z, -1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f) * z * x + x;
    const float c =
        polynomial(z, 2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    const bool odd = quarter & 1;
    const std::uint32_t sine_sign = static_cast<std::uint32_t>(quarter & 2) << 30;
    const std::uint32_t cosine_sign = static_cast<std::uint32_t>((quarter + 1) & 2) << 30;
    sine = std::bit_cast<float>(std::bit_cast<std::uint32_t>(odd ? c : s) ^ sine_sign);
    cosine = std::bit_cast<float>(std::bit_cast<std::uint32_t>(odd ? s : c) ^ cosine_sign);
}
DN_HD void sincos_turns(std::int32_t n, double& sine, double& cosine) {
    const double angle = 6.283185307179586 * (static_cast<double>(n) * 0x1p-24);
    sine = std::sin(angle);
    cosine = std::cos(angle);
}

// e^x; overflows to infinity, keeps NaN.
DN_HD float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    constexpr float shifter = 12582912.0f;
    const float shifted = x * 1.44269504088896341f + shifter;
    const float n = shifted - shifter;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    const float p = polynomial(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                               1.6666665459e-1f, 5.0000001201e-1f) *
                        r * r +
                    r + 1.0f;
    // 2^n in two factors, for results below the smallest normal number and for infinity.
    const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(shifter);
    const std::int32_t half = exponent >> 1;
    const auto power = [](std::int32_t k) { return std::bit_cast<float>((k + 127) << 23); };
    return p * power(half) * power(exponent - half);
}
DN_HD double exponential(double x) {
    x = x < -746.0 ? -746.0 : x;
    x = x > 710.0 ? 710.0 : x;
    constexpr double shifter = 6755399441055744.0;
    const double shifted = x * 1.4426950408889634 + shifter;
    const double n = shifted - shifter;
    const double r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
    const double p = polynomial(r, 1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0,
                                1 / 40320.0, 1 / 5040.0, 1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 0.5) *
                         r * r +
                     r + 1.0;
    const std::int64_t exponent = std::bit_cast<std::int64_t>(shifted) - std::bit_cast<std::int64_t>(shifter);
    const std::int64_t half = exponent >> 1;
    const auto power = [](std::int64_t k) { return std::bit_cast<double>((k + 1023) << 52); };
    return p * power(half) * power(exponent - half);
}

// e^x - 1 - x, accurate near 0.
DN_HD double exponential_tail(double x) { return std::expm1(x) - x; }

}  // namespace diffnoise
