#pragma once

// CPU: small tensors of any floating dtype as numbers.

#include <vector>

#include "stable.h"

namespace diffnoise {

inline std::vector<double> numbers(const Tensor& tensor, const char* name) {
    std::vector<double> values(tensor.numel());
    dispatch_floating(tensor.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const Input<T> input(tensor, name);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<compute_t<T>>(input[i]);
    });
    return values;
}

}  // namespace diffnoise
