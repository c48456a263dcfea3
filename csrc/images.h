#pragma once

// CPU: what reverse_step and kl_map share, a batch of images and one row of the table per sample.

#include <limits>
#include <vector>

#include "reverse_step.h"
#include "stable.h"

namespace diffnoise {

struct Shape {
    explicit Shape(const Tensor& x) : batch(0), channels(0), height(0), width(0) {
        STD_TORCH_CHECK(x.dim() == 4, "images must have shape [B, C, H, W].");
        batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
    }
    int64_t batch, channels, height, width;
};

template <class T>
Input<T> image(const Tensor& tensor, const Shape& shape, const char* name) {
    return {tensor, {shape.batch, shape.channels, shape.height, shape.width}, name};
}

template <class T>
std::optional<Input<T>> image(const std::optional<Tensor>& tensor, const Shape& shape, const char* name) {
    if (!tensor) return std::nullopt;
    return image<T>(*tensor, shape, name);
}

// The table's rows at t, [B, 9], in double.
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

template <class T>
T clip_limit(const std::optional<double>& clip) {
    return clip ? static_cast<T>(*clip) : std::numeric_limits<T>::infinity();
}

}  // namespace diffnoise
