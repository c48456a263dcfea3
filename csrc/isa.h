#pragma once

// CPU: one copy of a hot loop per x86-64 level, all in one library, chosen at run time.
//
// A hot loop is a struct with `template <class Isa> static DN_HD void run(...)`; `run_best<Loop>(...)` runs the
// machine's best copy. What a copy inlines takes part in it, so everything below it must be DN_HD.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include "host_device.h"

namespace diffnoise {

// fused: whether multiplying and adding with one rounding is a single instruction. bytes: of a vector register.
struct Baseline {
    static constexpr int bytes = 16;
#if defined(__x86_64__)
    static constexpr bool fused = false;
#else
    static constexpr bool fused = true;
#endif
};
struct Avx2 {
    static constexpr int bytes = 32;
    static constexpr bool fused = true;
};
struct Avx512 {
    static constexpr int bytes = 64;
    static constexpr bool fused = true;
};

enum class Level { baseline, avx2, avx512 };

// The best level of this machine, or the lower one that DIFFNOISE_ISA asks for: baseline, avx2 or avx512.
Level isa_level();

#if defined(__x86_64__) && defined(__GNUC__)
template <class Loop, class... A>
__attribute__((target("arch=x86-64-v4"))) void run_avx512(A&&... arguments) {
    Loop::template run<Avx512>(arguments...);
}
template <class Loop, class... A>
__attribute__((target("arch=x86-64-v3"))) void run_avx2(A&&... arguments) {
    Loop::template run<Avx2>(arguments...);
}
#endif
template <class Loop, class... A>
void run_baseline(A&&... arguments) {
    Loop::template run<Baseline>(arguments...);
}

template <class Loop, class... A>
void run_best(A&&... arguments) {
#if defined(__x86_64__) && defined(__GNUC__)
    static const Level level = isa_level();
    if (level == Level::avx512) return run_avx512<Loop>(arguments...);
    if (level == Level::avx2) return run_avx2<Loop>(arguments...);
#endif
    run_baseline<Loop>(arguments...);
}

// A register's worth of T. Loads and stores through a pointer to one need no alignment.
template <class Isa, class T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(Isa::bytes), may_alias, aligned(sizeof(T))));
};
template <class Isa, class T>
using Vector = typename VectorOf<Isa, T>::Type;

template <class V>
using Element = std::remove_cvref_t<decltype(std::declval<V&>()[0])>;

// x in every element.
template <class Isa, class T>
DN_HD Vector<Isa, T> broadcast(T x) {
    using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
    // Adding 0 to an integer costs nothing.
    return (Vector<Isa, T>)(Vector<Isa, Bits>{} + std::bit_cast<Bits>(x));
}

// N numbers as one value, of registers of any width; in memory aligned as a whole, or as one number.
template <class T, int N>
struct WideTypes {
    typedef T Aligned __attribute__((vector_size(N * sizeof(T)), may_alias));
    typedef T Unaligned __attribute__((vector_size(N * sizeof(T)), may_alias, aligned(sizeof(T))));
};
template <class T, int N>
using Wide = typename WideTypes<T, N>::Aligned;
template <class T, int N>
using UnalignedWide = typename WideTypes<T, N>::Unaligned;

// Below: loops over a vector's elements, which become vector instructions in small functions only. Where GCC has a name
// for the instruction, that is used; the intrinsics of immintrin.h cannot be inlined here.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DN_GCC_X86 1
#else
#define DN_GCC_X86 0
#endif

// a * b + c for numbers and vectors of them, rounded once where the level can. Never left to the compiler, which would
// choose differently from loop to loop.
template <class Isa, class T>
DN_HD T multiply_add(T a, T b, T c) {
    if constexpr (!Isa::fused) {
        return a * b + c;
    } else if constexpr (std::is_same_v<T, float>) {
        return __builtin_fmaf(a, b, c);
    } else if constexpr (std::is_same_v<T, double>) {
        return __builtin_fma(a, b, c);
    } else {
#if DN_GCC_X86
        constexpr bool is_float = std::is_same_v<Element<T>, float>;
        if constexpr (sizeof(T) == 64 && Isa::bytes == 64) {
            if constexpr (is_float) return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);
            if constexpr (!is_float) return __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4);
        } else if constexpr (sizeof(T) == 32 && Isa::bytes == 32) {
            if constexpr (is_float) return __builtin_ia32_vfmaddps256(a, b, c);
            if constexpr (!is_float) return __builtin_ia32_vfmaddpd256(a, b, c);
        }
#endif
        T sum;
        for (std::size_t i = 0; i < sizeof(a) / sizeof(a[0]); ++i) sum[i] = multiply_add<Isa>(a[i], b[i], c[i]);
        return sum;
    }
}

// Horner's rule for every element, highest power first.
template <class Isa, class V, class... C>
DN_HD V horner(V x, Element<V> high, C... rest) {
    V sum = broadcast<Isa>(high);
    ((sum = multiply_add<Isa>(sum, x, V(broadcast<Isa>(static_cast<Element<V>>(rest))))), ...);
    return sum;
}

template <class Isa>
DN_HD Vector<Isa, float> square_root(Vector<Isa, float> x) {
#if DN_GCC_X86
    if constexpr (Isa::bytes == 64) return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
    if constexpr (Isa::bytes == 32) return __builtin_ia32_sqrtps256(x);
    if constexpr (Isa::bytes == 16) return __builtin_ia32_sqrtps(x);
#else
    for (int i = 0; i < Isa::bytes / 4; ++i) x[i] = std::sqrt(x[i]);
    return x;
#endif
}

// Products of the low halves of 64-bit elements.
template <class Isa>
DN_HD Vector<Isa, std::uint64_t> multiply_low_halves(Vector<Isa, std::uint64_t> a, Vector<Isa, std::uint64_t> b) {
    using V = Vector<Isa, std::uint64_t>;
#if DN_GCC_X86
    using I32 = Vector<Isa, std::int32_t>;
    if constexpr (Isa::bytes == 64)
        return (V)__builtin_ia32_pmuludq512_mask((I32)a, (I32)b, (Vector<Isa, long long>)a, -1);
    if constexpr (Isa::bytes == 32) return (V)__builtin_ia32_pmuludq256((I32)a, (I32)b);
    if constexpr (Isa::bytes == 16) return (V)__builtin_ia32_pmuludq128((I32)a, (I32)b);
#else
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

}  // namespace diffnoise
