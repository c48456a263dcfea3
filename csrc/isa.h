#pragma once

// CPU: one copy of a hot loop per x86-64 level, all in one library, chosen at run time.
//
// A hot loop is a struct with `template <class Isa> static DN_HD void run(...)`; `run_best<Loop>(...)` runs the
// machine's best copy. What a copy inlines takes part in it, so everything below it must be DN_HD.

#include <cstddef>
#include <type_traits>

#include "host_device.h"

// GCC's own names of vector instructions, for where it makes something slow of plain C++. The intrinsics of
// immintrin.h, which declares these names, cannot be inlined into a function for all levels.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define DN_GCC_X86
#endif

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
    const Level level = isa_level();
    if (level == Level::avx512) return run_avx512<Loop>(arguments...);
    if (level == Level::avx2) return run_avx2<Loop>(arguments...);
#endif
    run_baseline<Loop>(arguments...);
}

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
        constexpr std::size_t size = sizeof(a[0]);
#ifdef DN_GCC_X86
        if constexpr (sizeof(T) == 64 && Isa::bytes == 64 && size == 4) {
            return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);
        } else if constexpr (sizeof(T) == 64 && Isa::bytes == 64) {
            return __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4);
        } else if constexpr (sizeof(T) == 32 && size == 4) {
            return __builtin_ia32_vfmaddps256(a, b, c);
        } else if constexpr (sizeof(T) == 32) {
            return __builtin_ia32_vfmaddpd256(a, b, c);
        }
#endif
        // In a large function this loop stays one.
        T sum;
        for (std::size_t i = 0; i < sizeof(T) / size; ++i) sum[i] = multiply_add<Isa>(a[i], b[i], c[i]);
        return sum;
    }
}

}  // namespace diffnoise
