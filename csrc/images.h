#pragma once

// CPU: what reverse_step and kl_map share, batches of images and one row of the table per sample.

#include <algorithm>
#include <limits>
#include <vector>

#include "reverse_step.h"
#include "stable.h"

namespace diffnoise {

using torch::headeronly::MemoryFormat;

// Whether the samples of [B, C, H, W] have no gaps inside: rows first, or channels first in memory.
inline bool dense(const Tensor& x, bool channels_last) {
    const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
    const int64_t strides[] = {channels_last ? 1 : height * width, channels_last ? width * channels : width,
                               channels_last ? channels : 1};
    for (int axis = 1; axis < 4; ++axis) {
        if (x.size(axis) != 1 && x.stride(axis) != strides[axis - 1]) return false;
    }
    return true;
}

// The shape of the images, and their layout in memory, which is that of x.
struct Shape {
    explicit Shape(const Tensor& x) : batch(0), channels(0), height(0), width(0), channels_last(false) {
        STD_TORCH_CHECK(x.dim() == 4, "images must have shape [B, C, H, W].");
        batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
        channels_last = !dense(x, false) && dense(x, true) && (batch == 1 || x.stride(0) == sample());
    }
    int64_t sample() const { return channels * height * width; }  // values
    bool empty() const { return batch == 0 || sample() == 0; }
    MemoryFormat format() const { return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous; }

    int64_t batch, channels, height, width;
    bool channels_last;
};

// Images to read in the layout of the shape. A copy is made only where a sample has gaps: the samples may lie apart, as
// the halves of a network's output do.
template <class T>
class Images {
  public:
    Images(const Tensor& tensor, const Shape& shape, const char* name) : tensor_(tensor) {
        check_shape(tensor, {shape.batch, shape.channels, shape.height, shape.width}, name);
        STD_TORCH_CHECK(tensor.is_cpu(), name, " must be a CPU tensor.");
        STD_TORCH_CHECK(tensor.scalar_type() == torch::headeronly::CppTypeToScalarType<T>::value, name,
                        " has the wrong dtype.");
        if (!dense(tensor, shape.channels_last)) tensor_ = torch::stable::contiguous(tensor, shape.format());
        stride_ = tensor_.stride(0);
    }
    const T* sample(int64_t i) const { return static_cast<const T*>(tensor_.const_data_ptr()) + i * stride_; }

  private:
    Tensor tensor_;
    int64_t stride_;
};

// Images that may be missing: then all pointers are null.
template <class T>
class OptionalImages {
  public:
    OptionalImages(const std::optional<Tensor>& tensor, const Shape& shape, const char* name) {
        if (tensor) images_.emplace(*tensor, shape, name);
    }
    bool given() const { return images_.has_value(); }
    const T* at(int64_t sample, int64_t offset) const { return images_ ? images_->sample(sample) + offset : nullptr; }

  private:
    std::optional<Images<T>> images_;
};

inline Tensor empty(const Shape& shape, ScalarType dtype, const Tensor& like) {
    return torch::stable::empty({shape.batch, shape.channels, shape.height, shape.width}, dtype, std::nullopt,
                                like.device(), std::nullopt, shape.format());
}

// Images to write. `f(memory)` fills samples without gaps in the layout of the shape; where `out` lies otherwise, they
// are copied to it afterwards.
template <class T, class F>
void fill(Tensor& out, const Shape& shape, const F& f) {
    check_shape(out, {shape.batch, shape.channels, shape.height, shape.width}, "out");
    STD_TORCH_CHECK(out.is_cpu(), "out must be a CPU tensor.");
    STD_TORCH_CHECK(out.scalar_type() == torch::headeronly::CppTypeToScalarType<T>::value, "out has the wrong dtype.");
    const bool direct =
        dense(out, shape.channels_last) && (shape.batch == 1 || out.stride(0) == shape.sample() || shape.empty());
    Tensor memory = direct ? out : empty(shape, out.scalar_type(), out);
    f(static_cast<T*>(memory.mutable_data_ptr()));
    if (!direct) torch::stable::copy_(out, memory);
}

// The table's rows at t, [B, columns], in double.
inline std::vector<double> table_rows(const Tensor& table, const Input<int64_t>& t, int64_t batch) {
    STD_TORCH_CHECK(table.dim() == 2 && table.size(1) == kColumns, "table must have shape [T, ", int{kColumns}, "].");
    const int64_t length = table.size(0);
    std::vector<double> rows(batch * kColumns);
    const auto gather = [&](auto zero) {
        const Input<decltype(zero)> values(table, "table");
        for (int64_t i = 0; i < batch; ++i) {
            STD_TORCH_CHECK(t[i] >= 0 && t[i] < length, "t holds ", t[i], ", but the table has only the indices 0 to ",
                            length - 1, ".");
            for (int64_t k = 0; k < kColumns; ++k) rows[i * kColumns + k] = values[t[i] * kColumns + k];
        }
    };
    if (table.scalar_type() == ScalarType::Double)
        gather(double{});
    else
        gather(float{});
    return rows;
}

inline double clip_limit(const std::optional<double>& clip) {
    return clip ? *clip : std::numeric_limits<double>::infinity();
}

// Steps of every sample.
template <class T>
std::vector<Step<T>> steps(const std::vector<double>& rows, double limit, double guidance) {
    std::vector<Step<T>> found;
    for (std::size_t i = 0; i < rows.size(); i += kColumns) found.emplace_back(rows.data() + i, limit, guidance);
    return found;
}

// parallel_for over the values of all samples, `per_sample` in each: f(sample, begin, end) with the range inside it.
template <class F>
void parallel_for_samples(int64_t batch, int64_t per_sample, int64_t grain, const F& f) {
    parallel_for(0, batch * per_sample, grain, [&](int64_t begin, int64_t end) {
        while (begin < end) {
            const int64_t sample = begin / per_sample, first = begin - sample * per_sample;
            const int64_t count = std::min(per_sample - first, end - begin);
            f(sample, first, first + count);
            begin += count;
        }
    });
}

}  // namespace diffnoise
