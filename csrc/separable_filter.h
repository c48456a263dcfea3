#pragma once

// CPU: a filter with the same taps along both axes, by registers of neighbouring columns: along an axis whose lines lie
// a register apart, every tap is one aligned load and one multiply-add. So the rows are turned between the axes.

#include <algorithm>
#include <utility>

#include "vector.h"

namespace diffnoise {

// Adds taps[k] line[g + k] to sum[g], for so many sums and taps: a line is loaded once for all of them.
template <class Isa, int sums, int count, class T>
DN_HD void add_taps(const T* in, int64_t stride, const T* taps, Vector<Isa, T>* sum) {
    using V = Vector<Isa, T>;
    V tap[count];
    for (int k = 0; k < count; ++k) tap[k] = broadcast<Isa>(taps[k]);
#pragma GCC unroll 32
    for (int j = 0; j < sums + count - 1; ++j) {
        const V line = *reinterpret_cast<const V*>(in + j * stride);
#pragma GCC unroll 4
        for (int k = 0; k < count; ++k) {
            if (0 <= j - k && j - k < sums) sum[j - k] = multiply_add<Isa>(line, tap[k], sum[j - k]);
        }
    }
}

// out[i] = sum over k of taps[k] line[i + k], where in[i * stride] begins line i; a register of every line. soon(i) is
// called for every i before a group of sums is computed, for what can be fetched meanwhile.
template <class Isa, int sums, class T, class Soon>
DN_HD int64_t weighted_sums(const T* in, int64_t stride, int64_t begin, int64_t count, const T* taps, int64_t size,
                            T* out, const Soon& soon) {
    using V = Vector<Isa, T>;
    constexpr int64_t lanes = Isa::bytes / sizeof(T), together = 4;
    int64_t i = begin;
    for (; i + sums <= count; i += sums) {
        for (int g = 0; g < sums; ++g) soon(i + g);
        V sum[sums] = {};
        const T* lines = in + i * stride;
        int64_t k = 0;
        for (; k + together <= size; k += together) {
            add_taps<Isa, sums, together>(lines + k * stride, stride, taps + k, sum);
        }
        for (; k < size; ++k) add_taps<Isa, sums, 1>(lines + k * stride, stride, taps + k, sum);
        for (int g = 0; g < sums; ++g) *reinterpret_cast<V*>(out + (i + g) * lanes) = sum[g];
    }
    return i;
}
template <class Isa, class T, class Soon>
DN_HD void weighted_sums(const T* in, int64_t stride, int64_t count, const T* taps, int64_t size, T* out,
                         const Soon& soon) {
    // Enough to hide the latency of one, and no more than there are registers for.
    constexpr int sums = Isa::bytes == 64 ? 16 : 8;
    int64_t i = weighted_sums<Isa, sums>(in, stride, 0, count, taps, size, out, soon);
    i = weighted_sums<Isa, 4>(in, stride, i, count, taps, size, out, soon);
    weighted_sums<Isa, 1>(in, stride, i, count, taps, size, out, soon);
}

// The same where all taps are equal: as many neighbouring sums at once, which share the lines that all of them hold, so
// that each takes about 2 + size / 8 additions. Nothing is subtracted, so that nothing drifts and a NaN stays where it
// is.
template <class Isa, int sums, class T, class Soon>
DN_HD int64_t equal_sums(const T* in, int64_t stride, int64_t begin, int64_t count, T tap, int64_t size, T* out,
                         const Soon& soon) {
    using V = Vector<Isa, T>;
    constexpr int64_t lanes = Isa::bytes / sizeof(T), chains = 4;
    const V factor = broadcast<Isa>(tap);
    int64_t i = begin;
    for (; i + sums <= count; i += sums) {
        const T* lines = in + i * stride;
        const auto line = [&](int64_t j) __attribute__((always_inline)) {
            return *reinterpret_cast<const V*>(lines + j * stride);
        };
        for (int g = 0; g < sums; ++g) soon(i + g);
        V shared[chains] = {};
        int64_t j = sums - 1;
        for (; j + chains <= size; j += chains) {
            for (int c = 0; c < chains; ++c) shared[c] += line(j + c);
        }
        for (; j < size; ++j) shared[0] += line(j);
        V sum[sums];  // first without the lines behind the shared ones
        sum[sums - 1] = (shared[0] + shared[1]) + (shared[2] + shared[3]);
        for (int g = sums - 1; g > 0; --g) sum[g - 1] = sum[g] + line(g - 1);
        V behind = {};
        for (int g = 0; g < sums; ++g) {
            if (g > 0) behind += line(size - 1 + g), sum[g] += behind;
            *reinterpret_cast<V*>(out + (i + g) * lanes) = sum[g] * factor;
        }
    }
    return i;
}
template <class Isa, class T, class Soon>
DN_HD void equal_sums(const T* in, int64_t stride, int64_t count, T tap, int64_t size, T* out, const Soon& soon) {
    constexpr int sums = 8;
    const int64_t i = size < sums ? 0 : equal_sums<Isa, sums>(in, stride, 0, count, tap, size, out, soon);
    equal_sums<Isa, 1>(in, stride, i, count, tap, size, out, soon);
}

template <int step, class V, int... I>
DN_HD void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
    constexpr int lanes = sizeof...(I);
    const V first = a, second = b;
    a = __builtin_shufflevector(first, second, (I & step ? lanes + I - step : I)...);
    b = __builtin_shufflevector(first, second, (I & step ? lanes + I : I + step)...);
}

// A square of registers, turned: out[j * stride + i] = in[i][j].
template <class Isa, class T>
DN_HD void transpose(const T* in, T* out, int64_t stride) {
    using V = Vector<Isa, T>;
    constexpr int lanes = Isa::bytes / sizeof(T);
    V line[lanes];
    for (int i = 0; i < lanes; ++i) line[i] = *reinterpret_cast<const V*>(in + i * lanes);
    const auto exchange_all = [&]<int step>(std::integral_constant<int, step>) __attribute__((always_inline)) {
        if constexpr (step < lanes) {
            for (int i = 0; i < lanes; ++i) {
                if (!(i & step)) exchange<step>(line[i], line[i + step], std::make_integer_sequence<int, lanes>());
            }
        }
    };
    exchange_all(std::integral_constant<int, 1>());
    exchange_all(std::integral_constant<int, 2>());
    exchange_all(std::integral_constant<int, 4>());
    exchange_all(std::integral_constant<int, 8>());
    for (int i = 0; i < lanes; ++i) *reinterpret_cast<V*>(out + i * stride) = line[i];
}

}  // namespace diffnoise
