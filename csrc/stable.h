#pragma once

// The one place that knows LibTorch's stable ABI: tensors in and out, dtypes, checks, threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <type_traits>

namespace diffnoise {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

// double is computed in double, everything else in float.
template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls f with a value of the dtype's C++ type.
template <class F>
void dispatch_floating(ScalarType dtype, const F& f) {
    switch (dtype) {
        case ScalarType::Float:
            return f(float{});
        case ScalarType::Double:
            return f(double{});
        case ScalarType::Half:
            return f(Half{});
        case ScalarType::BFloat16:
            return f(BFloat16{});
        default:
            STD_TORCH_CHECK(false, "The dtype must be float32, float64, float16 or bfloat16.");
    }
}

inline Tensor empty(std::initializer_list<int64_t> shape, ScalarType dtype, const Tensor& like) {
    return torch::stable::new_empty(like, shape, dtype);
}

inline void check_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* name) {
    bool same = tensor.dim() == static_cast<int64_t>(shape.size());
    for (int64_t axis = 0; same && axis < tensor.dim(); ++axis) same = tensor.size(axis) == shape.begin()[axis];
    STD_TORCH_CHECK(same, name, " has the wrong shape.");
}

// A contiguous copy whose memory may be read as T[shape].
template <class T>
class Input {
  public:
    Input(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* name) : Input(tensor, name) {
        check_shape(tensor, shape, name);
    }
    Input(const Tensor& tensor, const char* name) : contiguous_(torch::stable::contiguous(tensor)) {
        STD_TORCH_CHECK(tensor.is_cpu(), name, " must be a CPU tensor.");
        STD_TORCH_CHECK(tensor.scalar_type() == torch::headeronly::CppTypeToScalarType<T>::value, name,
                        " has the wrong dtype.");
    }
    const T* data() const { return static_cast<const T*>(contiguous_.const_data_ptr()); }
    T operator[](int64_t i) const { return data()[i]; }

  private:
    Tensor contiguous_;
};

// Where a batch of grids lies: the leading arguments of every noise op on pixels.
struct Grid {
    Grid(const Tensor& seeds, const Tensor& t, const Tensor& origins, int64_t channels, int64_t height, int64_t width)
        : batch(seeds.numel()),
          channels(channels),
          height(height),
          width(width),
          seeds(seeds, {batch}, "seeds"),
          t(t, {batch}, "t"),
          origins(origins, {batch, 2}, "origins") {
        STD_TORCH_CHECK(channels >= 0 && height >= 0 && width >= 0, "channels, height and width must not be negative.");
    }
    bool empty() const { return batch == 0 || channels == 0 || height == 0 || width == 0; }

    int64_t batch, channels, height, width;
    Input<int64_t> seeds, t, origins;
};

}  // namespace diffnoise
