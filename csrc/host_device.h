#pragma once

// What lets one formula header serve the CPU compiler, nvcc and a downstream user.

#ifdef __CUDACC__
#define DN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Always inlined: a hot loop's copy for one instruction set must take the formula along.
#define DN_HD inline __attribute__((always_inline))
#else
#define DN_HD inline
#endif
