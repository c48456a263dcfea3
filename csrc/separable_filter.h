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
    for (int j = 0; j < sums + count - 1; ++j) {
        const V line = *reinterpret_cast<const V*>(in + j * stride);
        for (int k = 0; k < count; ++k) {
            if (0 <= j - k && j - k < sums) sum[j - k] = multiply_add<Isa>(line, tap[k], sum[j - k]);
        }
    }
}

// out[i] = sum over k of taps[k] line[i + k], where in[i * stride] begins line i; a register of every line.
template <class Isa, int sums, class T>
DN_HD int64_t weighted_sums(const T* in, int64_t stride, int64_t begin, int64_t count, const T* taps, int64_t size,
                            T* out) {
    using V = Vector<Isa, T>;
    constexpr int64_t lanes = Isa::bytes / sizeof(T), together = 4;
    int64_t i = begin;
    for (; i + sums <= count; i += sums) {
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
template <class Isa, class T>
DN_HD void weighted_sums(const T* in, int64_t stride, int64_t count, const T* taps, int64_t size, T* out) {
    constexpr int sums = 8;  // enough to hide the latency of one; of more the compiler keeps some in memory
    const int64_t done = weighted_sums<Isa, sums>(in, stride, 0, count, taps, size, out);
    weighted_sums<Isa, 1>(in, stride, done, count, taps, size, out);
}

// The same where all taps are equal, in three additions whatever their number (van Herk 1992, for sums): the lines are
// cut into blocks as long as the window, which is the end of a block and the beginning of the next one. Nothing is
// subtracted, so that nothing drifts and a NaN stays where it is. phase: place of line 0 in its block; ends: a register
// for every tap.
template <class Isa, class T>
DN_HD void equal_sums(const T* in, int64_t stride, int64_t count, T tap, int64_t size, int64_t phase, T* ends, T* out) {
    using V = Vector<Isa, T>;
    constexpr int64_t lanes = Isa::bytes / sizeof(T);
    const auto line = [&](int64_t i)
                          __attribute__((always_inline)) { return *reinterpret_cast<const V*>(in + i * stride); };
    const V factor = broadcast<Isa>(tap);
    for (int64_t i = 0; i < count;) {
        const int64_t next = i + size - phase, stop = std::min(next, count);  // where the next block begins
        V end = {};
        for (int64_t j = next - 1; j >= i; --j) {
            end += line(j);
            *reinterpret_cast<V*>(ends + (j - i) * lanes) = end;
        }
        V beginning = {};
        for (int64_t j = 0; j < phase; ++j) beginning += line(next + j);
        for (const T* sum = ends;; sum += lanes) {
            *reinterpret_cast<V*>(out + i * lanes) = (*reinterpret_cast<const V*>(sum) + beginning) * factor;
            if (++i == stop) break;
            beginning += line(i + size - 1);
        }
        phase = 0;
    }
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
