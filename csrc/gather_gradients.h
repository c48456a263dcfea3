#pragma once

// CPU: the gradients at the lattice points around a batch of points.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "byte_lookup.h"
#include "isa.h"
#include "simplex_noise_at.h"

namespace diffnoise::gather {

constexpr int kBatch = 64;

// A number for each point of a batch.
template <class T>
using Batch = T[kBatch];

// A vector that may be a template's argument, unlike those of vector.h.
template <class T, int length>
struct LanesOf {
    typedef T type __attribute__((vector_size(length * sizeof(T))));
};
template <class T, int length>
using Lanes = typename LanesOf<T, length>::type;

template <class V, class T>
DN_HD V load(const T* from) {
    V value;
    std::memcpy(&value, from, sizeof(value));
    return value;
}
template <class V, class T>
DN_HD void store(T* to, V value) {
    std::memcpy(to, &value, sizeof(value));
}

// Where the points lie in the lattice.
template <int D>
struct Places {
    alignas(64) Batch<std::int32_t> base[D];   // modulo 256
    alignas(64) Batch<std::int32_t> place[D];  // as in Corners
};

// A permutation in the form that the batches look it up in. Indices are one too high, so that an offset plus 1 can be
// added, and run on past 256, so that the sum of a hash, an index and such an offset needs no wrapping.
template <int D>
struct HashTables {
    static constexpr int length = 2 * 255 + 3 + 1;
    std::uint8_t next[length];        // the hash so far
    std::uint8_t gradient[length];    // in its place at the end, the gradient's index
    std::int32_t components[length];  // or the gradient's components, in the upper bytes

    explicit HashTables(const std::uint8_t* permutation) {
        for (int i = 0; i < 256; ++i) {
            const int index = gradient_of<D>(permutation[i]);
            next[i + 1] = permutation[i];
            gradient[i + 1] = static_cast<std::uint8_t>(index);
            components[i + 1] = kPackedGradients<D>.of[index];
        }
        const auto repeat = [](auto* table) {
            std::memcpy(table + 257, table + 1, 256 * sizeof(*table));
            table[0] = table[256];
            table[length - 1] = table[1];
        };
        repeat(next);
        repeat(gradient);
        repeat(components);
    }
};

// The packed gradients at the lattice points around the points.
template <int D>
struct BatchGradients {
    alignas(64) Batch<std::int32_t> components[Corners<D>::count];
};

// The words of Corners, for regions 1 and 2 and for the rest, repeated for all elements of a vector.
template <int D>
struct WordVectors {
    alignas(64) std::int32_t low[Corners<D>::count][16], high[Corners<D>::count][16];

    constexpr explicit WordVectors(const std::uint64_t* words, int count) : low(), high() {
        for (int n = 0; n < count; ++n) {
            for (int i = 0; i < 16; ++i) {
                low[n][i] = static_cast<std::int32_t>(D == 4 ? words[n] & 0xFFFFF : words[n]);
                high[n][i] = static_cast<std::int32_t>(words[n] >> 20);
            }
        }
    }
};
template <int D>
constexpr WordVectors<D> kAllWords(kCorners<D>.all, Corners<D>::count);
template <int D>
constexpr WordVectors<D> kOriginalWords(kCorners<D>.original, Corners<D>::original_count);

// Reads the offsets plus 1 from the words, for as many points as there are Integers.
template <int D, class Integers>
struct Offsets {
    Integers shift[D], upper;

    explicit DN_HD Offsets(const Integers* place) {
        upper = place[0] >= 10;
        for (int axis = 0; axis < D; ++axis) shift[axis] = 2 * (D == 4 ? place[axis] - (upper & 10) : place[axis]);
    }
    DN_HD Integers pick(const WordVectors<D>& words, int n) const {
        if constexpr (D < 4) return load<Integers>(words.low[n]);
        return upper ? load<Integers>(words.high[n]) : load<Integers>(words.low[n]);
    }
    DN_HD Integers along(int axis, Integers picked) const { return picked >> shift[axis] & 3; }
};

template <class Isa, int D>
DN_HD void find_gradients_singly(const Places<D>& places, const HashTables<D>& tables, bool original,
                                 BatchGradients<D>& gradients) {
    const WordVectors<D>& words = original ? kOriginalWords<D> : kAllWords<D>;
    const int count = original ? Corners<D>::original_count : Corners<D>::count;
    constexpr int length = Isa::bytes / sizeof(std::int32_t);
    using Integers = Lanes<std::int32_t, length>;
    for (int n = 0; n < count; ++n) {
        alignas(64) Batch<std::int32_t> index[D];
        for (int i = 0; i < kBatch; i += length) {
            Integers place[D];
            for (int axis = 0; axis < D; ++axis) place[axis] = load<Integers>(places.place[axis] + i);
            const Offsets<D, Integers> offsets(place);
            const Integers picked = offsets.pick(words, n);
            for (int axis = 0; axis < D; ++axis) {
                store(index[axis] + i, load<Integers>(places.base[axis] + i) + offsets.along(axis, picked));
            }
        }
        for (int i = 0; i < kBatch; ++i) {
            int h = tables.next[index[0][i]];
            for (int axis = 1; axis < D - 1; ++axis) h = tables.next[h + index[axis][i]];
            gradients.components[n][i] = tables.components[h + index[D - 1][i]];
        }
    }
}

#ifdef DN_BYTE_LOOKUP
template <int D>
struct ByteTables {
    alignas(64) std::uint8_t all[Corners<D>::count][64], original[Corners<D>::original_count][64];  // digit by place
    alignas(64) std::uint8_t component[4][64];  // by gradient's index

    constexpr ByteTables() : all(), original(), component() {
        for (int place = 0; place < D * (D + 1); ++place) {
            for (int n = 0; n < Corners<D>::count; ++n) all[n][place] = kCorners<D>.all[n] >> 2 * place & 3;
            for (int n = 0; n < Corners<D>::original_count; ++n) {
                original[n][place] = kCorners<D>.original[n] >> 2 * place & 3;
            }
        }
        for (int index = 0; index < Lattice<D>::gradients; ++index) {
            for (int axis = 0; axis < D; ++axis)
                component[4 - D + axis][index] = gradient_component<D>(index, axis) & 255;
        }
    }
};
template <int D>
constexpr ByteTables<D> kByteTables;

// The same for all points at once.
template <int D>
DN_BYTE_LOOKUP void find_gradients_by_bytes(const Places<D>& places, const HashTables<D>& tables, bool original,
                                            BatchGradients<D>& gradients) {
    // The points in the order from which interleaving makes their own: four of every 16.
    alignas(64) static constexpr std::uint8_t order[64] = {
        0,  1,  2,  3,  16, 17, 18, 19, 32, 33, 34, 35, 48, 49, 50, 51, 4,  5,  6,  7,  20, 21,
        22, 23, 36, 37, 38, 39, 52, 53, 54, 55, 8,  9,  10, 11, 24, 25, 26, 27, 40, 41, 42, 43,
        56, 57, 58, 59, 12, 13, 14, 15, 28, 29, 30, 31, 44, 45, 46, 47, 60, 61, 62, 63};
    __m512i base_bytes[D], place_bytes[D];
    for (int axis = 0; axis < D; ++axis) {
        alignas(64) std::uint8_t bytes[2][64];
        for (int i = 0; i < 64; i += 16) {
            _mm512_mask_cvtepi32_storeu_epi8(bytes[0] + i, 0xFFFF, _mm512_load_si512(places.base[axis] + i));
            _mm512_mask_cvtepi32_storeu_epi8(bytes[1] + i, 0xFFFF, _mm512_load_si512(places.place[axis] + i));
        }
        const __m512i in_order = _mm512_load_si512(order), b = _mm512_load_si512(bytes[0]),
                      p = _mm512_load_si512(bytes[1]);
        base_bytes[axis] = _mm512_permutex2var_epi8(b, in_order, b);
        place_bytes[axis] = _mm512_permutex2var_epi8(p, in_order, p);
    }
    const ByteTable next(tables.next), gradient(tables.gradient);
    const auto* digits = original ? kByteTables<D>.original : kByteTables<D>.all;
    for (int n = 0; n < (original ? Corners<D>::original_count : Corners<D>::count); ++n) {
        const __m512i offset = _mm512_load_si512(digits[n]);
        __m512i h = _mm512_setzero_si512();
        for (int axis = 0; axis < D; ++axis) {
            const __m512i v =
                _mm512_add_epi8(base_bytes[axis], _mm512_permutex2var_epi8(offset, place_bytes[axis], offset));
            h = (axis + 1 < D ? next : gradient)[_mm512_add_epi8(h, v)];
        }
        __m512i component[4];
        for (int axis = 0; axis < 4; ++axis) {
            const __m512i table = _mm512_load_si512(kByteTables<D>.component[axis]);
            component[axis] = _mm512_permutex2var_epi8(table, h, table);
        }
        const __m512i xy[2] = {_mm512_unpacklo_epi8(component[0], component[1]),
                               _mm512_unpackhi_epi8(component[0], component[1])};
        const __m512i zw[2] = {_mm512_unpacklo_epi8(component[2], component[3]),
                               _mm512_unpackhi_epi8(component[2], component[3])};
        std::int32_t* to = gradients.components[n];
        for (int half = 0; half < 2; ++half) {
            _mm512_store_si512(to + 32 * half, _mm512_unpacklo_epi16(xy[half], zw[half]));
            _mm512_store_si512(to + 32 * half + 16, _mm512_unpackhi_epi16(xy[half], zw[half]));
        }
    }
}
#endif

template <class Isa, int D>
DN_HD void find_gradients(const Places<D>& places, const HashTables<D>& tables, bool original,
                          BatchGradients<D>& gradients) {
#ifdef DN_BYTE_LOOKUP
    if (std::is_same_v<Isa, Avx512> && has_byte_lookup()) {
        return find_gradients_by_bytes(places, tables, original, gradients);
    }
#endif
    find_gradients_singly<Isa>(places, tables, original, gradients);
}

}  // namespace diffnoise::gather
