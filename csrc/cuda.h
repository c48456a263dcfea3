#pragma once

// The one place that knows both CUDA and LibTorch's stable ABI: tensors on a device, its current stream, launches.
//
// Nothing here or in the kernels waits for the device: seeds, t and origins stay there, so a call can be captured in a
// graph.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <limits>

#include "pixels.h"
#include "stable.h"
#include "thread_block.h"

namespace diffnoise {

// Kernels get blocks.y as their first argument: x and y share the one dimension of a grid that can be large.
__device__ inline BlockIndex block_index(unsigned rows) { return {blockIdx.x / rows, blockIdx.x % rows, blockIdx.y}; }

// What a block may use of shared memory without asking.
constexpr int kSharedBytes = 48 << 10;

struct Blocks {
    int64_t x, y = 1, z = 1;
};

// Makes a tensor's device the current one for its lifetime, and launches kernels on the stream that torch has current.
class Launcher {
  public:
    explicit Launcher(const Tensor& tensor) : guard_(tensor.get_device_index()) {
        void* stream;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
        stream_ = static_cast<cudaStream_t>(stream);
    }

    // shared: bytes of shared memory beside what the kernel declares.
    template <class... P, class... A>
    void operator()(void (*kernel)(P...), Blocks blocks, int shared, const A&... arguments) const {
        if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
        STD_TORCH_CHECK(blocks.x <= std::numeric_limits<int32_t>::max() / blocks.y && blocks.z <= 65535,
                        "This is too large for one call on a CUDA device; make it in parts.");
        if (shared > kSharedBytes)
            check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
        const dim3 grid(static_cast<unsigned>(blocks.x * blocks.y), static_cast<unsigned>(blocks.z));
        kernel<<<grid, kThreads, shared, stream_>>>(static_cast<unsigned>(blocks.y), arguments...);
        check(cudaGetLastError());
    }

  private:
    static void check(cudaError_t error) {
        STD_TORCH_CHECK(error == cudaSuccess,
                        "A CUDA kernel of diffnoise cannot be launched: ", cudaGetErrorString(error), ".");
    }

    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_;
};

// A contiguous copy on `like`'s device whose memory kernels may read as T[shape].
template <class T>
class DeviceInput {
  public:
    DeviceInput(const Tensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like, const char* name)
        : contiguous_(torch::stable::contiguous(tensor)) {
        check_shape(tensor, shape, name);
        STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), name,
                        " must be on the CUDA device of the other tensors.");
        STD_TORCH_CHECK(tensor.scalar_type() == torch::headeronly::CppTypeToScalarType<T>::value, name,
                        " has the wrong dtype.");
    }
    const T* data() const { return static_cast<const T*>(contiguous_.const_data_ptr()); }

  private:
    Tensor contiguous_;
};

// The leading arguments of every noise op on pixels.
class DeviceGrid {
  public:
    DeviceGrid(const Tensor& seeds, const Tensor& t, const Tensor& origins, int64_t channels, int64_t height,
               int64_t width)
        : batch(seeds.numel()),
          seeds_(seeds, {batch}, seeds, "seeds"),
          t_(t, {batch}, seeds, "t"),
          origins_(origins, {batch, 2}, seeds, "origins"),
          pixels{seeds_.data(), t_.data(), origins_.data(), channels, height, width} {
        STD_TORCH_CHECK(channels >= 0 && height >= 0 && width >= 0, "channels, height and width must not be negative.");
        STD_TORCH_CHECK(batch == 0 || channels <= std::numeric_limits<int32_t>::max() / batch,
                        "There are too many maps for one call.");
    }
    int64_t maps() const { return batch * pixels.channels; }
    bool empty() const { return maps() == 0 || pixels.height == 0 || pixels.width == 0; }

    const int64_t batch;

  private:
    DeviceInput<int64_t> seeds_, t_, origins_;

  public:
    const Pixels pixels;
};

// Writes values that were computed in T to a tensor of a dtype that is computed in T.
template <class T>
struct Output {
    void* data;
    ScalarType dtype;

    __device__ void operator()(int64_t i, T value) const {
        if constexpr (std::is_same_v<T, double>) {
            static_cast<double*>(data)[i] = value;
        } else if (dtype == ScalarType::Float) {
            static_cast<float*>(data)[i] = value;
        } else if (dtype == ScalarType::Half) {
            static_cast<Half*>(data)[i] = static_cast<Half>(value);
        } else {
            static_cast<BFloat16*>(data)[i] = static_cast<BFloat16>(value);
        }
    }
    // Four neighbours, of which those with begin <= k < end exist, in one access where that can be.
    __device__ void four(int64_t i, const T* value, int64_t begin, int64_t end) const {
        if constexpr (std::is_same_v<T, double>) {
            store_four<double>(i, value, begin, end);
        } else if (dtype == ScalarType::Float) {
            store_four<float>(i, value, begin, end);
        } else if (dtype == ScalarType::Half) {
            store_four<Half>(i, value, begin, end);
        } else {
            store_four<BFloat16>(i, value, begin, end);
        }
    }

  private:
    template <class Out>
    __device__ void store_four(int64_t i, const T* value, int64_t begin, int64_t end) const {
        struct alignas(4 * sizeof(Out) < 16 ? 4 * sizeof(Out) : 16) Four {
            Out value[4];
        };
        Out* to = static_cast<Out*>(data) + i;
        if (begin <= 0 && end >= 4 && reinterpret_cast<std::uintptr_t>(to) % alignof(Four) == 0) {
            *reinterpret_cast<Four*>(to) = {static_cast<Out>(value[0]), static_cast<Out>(value[1]),
                                            static_cast<Out>(value[2]), static_cast<Out>(value[3])};
        } else {
            for (int k = 0; k < 4; ++k) {
                if (begin <= k && k < end) to[k] = static_cast<Out>(value[k]);
            }
        }
    }
};

// Calls f with an Output and a zero of the type that its dtype is computed in.
template <class F>
void dispatch_output(const Tensor& out, ScalarType dtype, const F& f) {
    const bool known = dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                       dtype == ScalarType::BFloat16;
    STD_TORCH_CHECK(known, "The dtype must be float32, float64, float16 or bfloat16.");
    if (dtype == ScalarType::Double)
        f(Output<double>{out.mutable_data_ptr(), dtype}, double{});
    else
        f(Output<float>{out.mutable_data_ptr(), dtype}, float{});
}

}  // namespace diffnoise
