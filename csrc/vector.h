#pragma once

// CPU: numbers by the register, for hot loops in the sense of isa.h.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace diffnoise {

// Loads and stores through a pointer to one need no alignment.
template <class Isa, class T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(Isa::bytes), may_alias, aligned(sizeof(T))));
};
template <class Isa, class T>
using Vector = typename VectorOf<Isa, T>::Type;

// N numbers as one value, in registers of any width; in memory aligned as a whole, or as one number.
template <class T, int N>
struct WideTypes {
    typedef T Aligned __attribute__((vector_size(N * sizeof(T)), may_alias));
    typedef T Unaligned __attribute__((vector_size(N * sizeof(T)), may_alias, aligned(sizeof(T))));
};
template <class T, int N>
using Wide = typename WideTypes<T, N>::Aligned;
template <class T, int N>
using UnalignedWide = typename WideTypes<T, N>::Unaligned;

// x in every element.
template <class Isa, class T>
DN_HD Vector<Isa, T> broadcast(T x) {
    using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
    // Adding 0 to integers costs nothing, unlike to floating-point numbers.
    return (Vector<Isa, T>)(Vector<Isa, Bits>{} + std::bit_cast<Bits>(x));
}

// Horner's rule for every element, highest power first.
template <class Isa, class T, class... C>
DN_HD Vector<Isa, T> horner(Vector<Isa, T> x, T high, C... rest) {
    Vector<Isa, T> sum = broadcast<Isa>(high);
    ((sum = multiply_add<Isa>(sum, x, broadcast<Isa>(rest))), ...);
    return sum;
}

template <class Isa>
DN_HD Vector<Isa, float> square_root(Vector<Isa, float> x) {
#ifdef DN_GCC_X86
    if constexpr (Isa::bytes == 64) {
        return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
    } else if constexpr (Isa::bytes == 32) {
        return __builtin_ia32_sqrtps256(x);
    } else {
        return __builtin_ia32_sqrtps(x);
    }
#else
    for (int i = 0; i < Isa::bytes / 4; ++i) x[i] = std::sqrt(x[i]);
    return x;
#endif
}

// Products of the low halves of 64-bit elements. Of the plain product GCC multiplies all halves, three times as slow.
template <class Isa>
DN_HD Vector<Isa, std::uint64_t> multiply_low_halves(Vector<Isa, std::uint64_t> a, Vector<Isa, std::uint64_t> b) {
#ifdef DN_GCC_X86
    using I32 = Vector<Isa, std::int32_t>;
    using U64 = Vector<Isa, std::uint64_t>;
    if constexpr (Isa::bytes == 64) {
        return (U64)__builtin_ia32_pmuludq512_mask((I32)a, (I32)b, (Vector<Isa, long long>)a, -1);
    } else if constexpr (Isa::bytes == 32) {
        return (U64)__builtin_ia32_pmuludq256((I32)a, (I32)b);
    } else {
        return (U64)__builtin_ia32_pmuludq128((I32)a, (I32)b);
    }
#else
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

}  // namespace diffnoise
