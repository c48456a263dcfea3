#pragma once

// Attention of a block of queries over all keys, for attention.cpp: two registers of queries at a time, one query per
// element, so that no sum crosses a register. Few channels per head are what it is for.

#include <algorithm>
#include <cstdint>

#include "elementary_vector.h"
#include "image_vector.h"

namespace diffnoise {

constexpr int64_t kQueries = 64;  // in a block
constexpr int64_t kKeys = 128;    // whose weights stay in the nearest cache

// How many numbers of the computation's type `Attend` needs as scratch memory, whatever the level.
constexpr int64_t attend_scratch(int64_t channels) { return (2 * channels + kKeys) * 32; }

// The larger; b where one is NaN.
template <class Isa, class T>
DN_HD Vector<Isa, T> larger(Vector<Isa, T> a, Vector<Isa, T> b) {
#ifdef DN_GCC_X86
    if constexpr (sizeof(T) == 4 && Isa::bytes == 64) {
        return __builtin_ia32_maxps512_mask(a, b, a, -1, 4);
    } else if constexpr (sizeof(T) == 4 && Isa::bytes == 32) {
        return __builtin_ia32_maxps256(a, b);
    }
#endif
    return a > b ? a : b;
}

// 2^x for x <= 0, and 2^-120 instead of anything less; keeps NaN.
template <class Isa, class T>
DN_HD Vector<Isa, T> power_of_two(Vector<Isa, T> x) {
    x = larger<Isa, T>(broadcast<Isa>(T(-120)), x);
    if constexpr (sizeof(T) == 8) {
        return exponential<Isa>(x * broadcast<Isa>(0.69314718055994530942));
    } else {
        // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
        const Vector<Isa, float> shifter = broadcast<Isa>(12582912.0f), shifted = x + shifter;
        const Vector<Isa, float> power = (Vector<Isa, float>)(((Vector<Isa, std::int32_t>)shifted + 127) << 23);
        return power * horner<Isa>(x - (shifted - shifter), 1.326466445e-03f, 9.671498090e-03f, 5.550733581e-02f,
                                   2.402224243e-01f, 6.931470037e-01f, 1.0f);
    }
}

// Writes softmax(q k^T / sqrt(channels)) v of `count` queries. q and out: a query every q_stride and out_stride
// numbers; keys and values: [tokens, channels].
struct Attend {
    template <class Isa, class Image, class T>
    static DN_HD void run(const Image* q, int64_t q_stride, int64_t count, const T* keys, const T* values,
                          int64_t tokens, int64_t channels, T* scratch, Image* out, int64_t out_stride) {
        using V = Vector<Isa, T>;
        constexpr int64_t size = register_size<Isa, Image>, block = 2 * size;
        V* const query = reinterpret_cast<V*>(scratch);  // [channels, 2]
        V* const sum = query + 2 * channels;             // [channels, 2]
        V* const weight = sum + 2 * channels;            // [kKeys, 2]
        // Scores are logarithms to the base 2.
        const T factor = T(1.44269504088896340736) / std::sqrt(static_cast<T>(channels));
        for (int64_t first = 0; first < count; first += block, q += block * q_stride, out += block * out_stride) {
            const int64_t here = std::min(block, count - first);
            T* const numbers = reinterpret_cast<T*>(query);
            for (int64_t c = 0; c < channels; ++c) {
                for (int64_t i = 0; i < block; ++i)
                    numbers[c * block + i] = i < here ? static_cast<T>(q[i * q_stride + c]) * factor : T(0);
            }
            for (int64_t c = 0; c < 2 * channels; ++c) sum[c] = V{};
            V most[2] = {}, total[2] = {};
            for (int64_t key = 0; key < tokens; key += kKeys) {
                const int64_t length = std::min(kKeys, tokens - key);
                scores<Isa, T>(query, keys + key * channels, length, channels, weight);
                softmax<Isa, T>(weight, length, key == 0, most, total, sum, channels);
                weigh<Isa, T>(weight, values + key * channels, length, channels, sum);
            }
            T* const results = reinterpret_cast<T*>(sum);
            for (int half = 0; half < 2; ++half) {
                for (int64_t c = 0; c < channels; ++c) sum[2 * c + half] = sum[2 * c + half] / total[half];
            }
            for (int64_t i = 0; i < here; ++i) {
                for (int64_t c = 0; c < channels; ++c)
                    out[i * out_stride + c] = static_cast<Image>(results[c * block + i]);
            }
        }
    }

    // Registers of a tile of scores or sums, for each of the two of queries.
    template <class Isa>
    static constexpr int kTile = Isa::bytes == 64 ? 8 : 4;

    // weight[k] = query . keys[k]
    template <class Isa, class T>
    static DN_HD void scores(const Vector<Isa, T>* query, const T* keys, int64_t length, int64_t channels,
                             Vector<Isa, T>* weight) {
        int64_t k = 0;
        for (; k + kTile<Isa> <= length; k += kTile<Isa>)
            scores_of<Isa, T, kTile<Isa>>(query, keys + k * channels, channels, weight + 2 * k);
        for (; k < length; ++k) scores_of<Isa, T, 1>(query, keys + k * channels, channels, weight + 2 * k);
    }
    template <class Isa, class T, int K>
    static DN_HD void scores_of(const Vector<Isa, T>* query, const T* keys, int64_t channels, Vector<Isa, T>* weight) {
        Vector<Isa, T> score[K][2] = {};
        for (int64_t c = 0; c < channels; ++c) {
            const Vector<Isa, T> low = query[2 * c], high = query[2 * c + 1];
            for (int k = 0; k < K; ++k) {
                const Vector<Isa, T> key = broadcast<Isa>(keys[k * channels + c]);
                score[k][0] = multiply_add<Isa>(low, key, score[k][0]);
                score[k][1] = multiply_add<Isa>(high, key, score[k][1]);
            }
        }
        for (int k = 0; k < K; ++k) weight[2 * k] = score[k][0], weight[2 * k + 1] = score[k][1];
    }

    // Scores become 2^(score - most), with the largest score so far as `most`; what was summed before is brought to it.
    template <class Isa, class T>
    static DN_HD void softmax(Vector<Isa, T>* weight, int64_t length, bool is_first, Vector<Isa, T>* most,
                              Vector<Isa, T>* total, Vector<Isa, T>* sum, int64_t channels) {
        using V = Vector<Isa, T>;
        V largest[2] = {is_first ? weight[0] : most[0], is_first ? weight[1] : most[1]};
        for (int64_t k = 0; k < length; ++k) {
            for (int half = 0; half < 2; ++half) largest[half] = larger<Isa, T>(weight[2 * k + half], largest[half]);
        }
        if (!is_first) {
            const V shrunk[2] = {power_of_two<Isa, T>(most[0] - largest[0]),
                                 power_of_two<Isa, T>(most[1] - largest[1])};
            for (int half = 0; half < 2; ++half) total[half] = total[half] * shrunk[half];
            for (int64_t c = 0; c < 2 * channels; ++c) sum[c] = sum[c] * shrunk[c % 2];
        }
        V part[2] = {};
        for (int64_t k = 0; k < length; ++k) {
            for (int half = 0; half < 2; ++half) {
                const V power = power_of_two<Isa, T>(weight[2 * k + half] - largest[half]);
                weight[2 * k + half] = power;
                part[half] = part[half] + power;
            }
        }
        for (int half = 0; half < 2; ++half) most[half] = largest[half], total[half] = total[half] + part[half];
    }

    // sum += weight . values
    template <class Isa, class T>
    static DN_HD void weigh(const Vector<Isa, T>* weight, const T* values, int64_t length, int64_t channels,
                            Vector<Isa, T>* sum) {
        int64_t c = 0;
        for (; c + kTile<Isa> <= channels; c += kTile<Isa>)
            weigh_of<Isa, T, kTile<Isa>>(weight, values + c, length, channels, sum + 2 * c);
        for (; c < channels; ++c) weigh_of<Isa, T, 1>(weight, values + c, length, channels, sum + 2 * c);
    }
    template <class Isa, class T, int C>
    static DN_HD void weigh_of(const Vector<Isa, T>* weight, const T* values, int64_t length, int64_t channels,
                               Vector<Isa, T>* sum) {
        Vector<Isa, T> part[C][2] = {};
        for (int64_t k = 0; k < length; ++k) {
            const Vector<Isa, T> low = weight[2 * k], high = weight[2 * k + 1];
            for (int c = 0; c < C; ++c) {
                const Vector<Isa, T> value = broadcast<Isa>(values[k * channels + c]);
                part[c][0] = multiply_add<Isa>(low, value, part[c][0]);
                part[c][1] = multiply_add<Isa>(high, value, part[c][1]);
            }
        }
        for (int c = 0; c < C; ++c) {
            sum[2 * c] = sum[2 * c] + part[c][0];
            sum[2 * c + 1] = sum[2 * c + 1] + part[c][1];
        }
    }
};

}  // namespace diffnoise
