#pragma once

// SiLU by the register or the number, for group_norm_silu.cpp.

#include "elementary.h"
#include "image_vector.h"

namespace diffnoise {

// N numbers: a vector, or a plain number where there are too few of them to fill one.
template <class T, int N>
struct LanesOf {
    using Type = Wide<T, N>;
};
template <class T>
struct LanesOf<T, 1> {
    using Type = T;
};
template <class T, int N>
using Lanes = typename LanesOf<T, N>::Type;

// Lanes of the widest register; doubles go one by one.
template <class Isa, class T>
constexpr int kLanes = sizeof(T) == 8 ? 1 : Isa::bytes / 4;

template <class T, int N>
DN_HD Lanes<T, N> all_lanes(T x) {
    if constexpr (N == 1)
        return x;
    else
        return (Wide<T, N>)(Wide<std::uint32_t, N>{} + std::bit_cast<std::uint32_t>(x));
}

template <class Isa, int N, class Image>
DN_HD Lanes<compute_t<Image>, N> load_lanes(const Image* from) {
    if constexpr (N == 1)
        return static_cast<compute_t<Image>>(*from);
    else
        return load<Isa>(from);
}

template <class Isa, int N, class Image>
DN_HD void store_lanes(Image* to, Lanes<compute_t<Image>, N> values) {
    if constexpr (N == 1)
        *to = static_cast<Image>(values);
    else
        store<Isa>(to, values);
}

// The nearer of low and high where x lies outside.
template <class Isa, int N>
DN_HD Lanes<float, N> clamp_lanes(Lanes<float, N> x, Lanes<float, N> low, Lanes<float, N> high) {
#ifdef DN_GCC_X86
    if constexpr (N == 16) {
        x = __builtin_ia32_maxps512_mask(x, low, x, -1, 4);
        return __builtin_ia32_minps512_mask(x, high, x, -1, 4);
    } else if constexpr (N == 8) {
        return __builtin_ia32_minps256(__builtin_ia32_maxps256(x, low), high);
    }
#endif
    x = x > low ? x : low;
    return x < high ? x : high;
}

// x / (1 + e^-x)
template <class Isa, int N>
DN_HD Lanes<float, N> silu(Lanes<float, N> x) {
    using V = Lanes<float, N>;
    using I = Lanes<std::int32_t, N>;
    const auto all = [](float value) __attribute__((always_inline)) { return all_lanes<float, N>(value); };
    // e^-x = 2^n 2^f; beyond 87 it is as good as 0 or infinity. Adding 1.5 * 2^23 leaves the nearest integer in the low
    // bits.
    const V clamped = clamp_lanes<Isa, N>(x, all(-87.0f), all(87.0f)), minus_log2_e = all(-1.44269504088896341f);
    const V shifted = multiply_add<Isa>(clamped, minus_log2_e, all(12582912.0f));
    const V f = multiply_add<Isa>(clamped, minus_log2_e, all(12582912.0f) - shifted);
    V p = multiply_add<Isa>(all(1.326466445e-03f), f, all(9.671498090e-03f));
    p = multiply_add<Isa>(p, f, all(5.550733581e-02f));
    p = multiply_add<Isa>(p, f, all(2.402224243e-01f));
    p = multiply_add<Isa>(p, f, all(6.931470037e-01f));
    p = multiply_add<Isa>(p, f, all(1.0f));
    const V sum = std::bit_cast<V>(std::bit_cast<I>(p) + (std::bit_cast<I>(shifted) << 23)) + all(1.0f);
    // 1 / sum to 5 %, then to 2^-8, then to 2^-26: a division would take as long as all of this function.
    V inverse = std::bit_cast<V>(0x7EF311C7 - std::bit_cast<I>(sum));
    V error = multiply_add<Isa>(-sum, inverse, all(1.0f));
    inverse = multiply_add<Isa>(inverse, error, inverse);
    error = multiply_add<Isa>(-sum, inverse, all(1.0f));
    inverse = multiply_add<Isa>(inverse, multiply_add<Isa>(error, error, error), inverse);
    return x * inverse;
}
template <class Isa, int N>
DN_HD double silu(double x) {
    return x / (1.0 + exponential(-x));
}

}  // namespace diffnoise
