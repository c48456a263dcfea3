#pragma once

// What lets one formula header serve the CPU compiler, nvcc and a downstream user.

#ifdef __CUDACC__
#define DN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Always inlined: a clone of a hot loop for one instruction set must take the formula along.
#define DN_HD inline __attribute__((always_inline))
#else
#define DN_HD inline
#endif

// On a hot loop: one clone per x86-64 level, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DN_CLONES
#endif
