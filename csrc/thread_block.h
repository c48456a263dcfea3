#pragma once

// GPU: what the body of a kernel knows of the block of threads that runs it. The bodies are templates over it, so that
// the tests run them on the CPU, too.

#include <cstdint>

#include "host_device.h"

namespace diffnoise {

constexpr int kThreads = 128, kLanes = 32;

struct BlockIndex {
    unsigned x, y, z;
};

#ifdef __CUDACC__

// Not inlined on the GPU.
#define DN_APART __host__ __device__ __noinline__

class Block {
  public:
    // The host compiler sees the bodies, too, and must not see the device's intrinsics.
    DN_HD int thread() const {
#ifdef __CUDA_ARCH__
        return static_cast<int>(threadIdx.x);
#else
        return 0;
#endif
    }
    DN_HD void barrier() const {
#ifdef __CUDA_ARCH__
        __syncthreads();
#endif
    }
    // f(i) for i = 0 .. count - 1, shared out among the threads.
    template <class F>
    DN_HD void over(int count, const F& f) const {
        for (int i = thread(); i < count; i += kThreads) f(i);
    }
};

#else
#define DN_APART inline
#endif

}  // namespace diffnoise
