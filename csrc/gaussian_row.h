#pragma once

// CPU: rows of Gaussian noise, for gaussian_noise and for reverse_step, which makes its noise in passing.

#include <vector>

#include "gaussian_noise.h"

namespace diffnoise {

template <class T>
DN_CLONES void fill_normals(const Address row, std::uint32_t first, std::int64_t quarters, T* out) {
    for (std::int64_t i = 0; i < quarters; ++i) normal_four(row, first + static_cast<std::uint32_t>(i), out + 4 * i);
}

// Room for one row and what makes it.
template <class T>
class GaussianRow {
  public:
    explicit GaussianRow(std::int64_t width) : width_(width), values_((width / 4 + 2) * 4) {}

    // The values at x .. x + width - 1; valid until the next call.
    const T* operator()(const Address& row, std::int64_t x) {
        const std::int64_t first = x >> 2, last = (x + width_ - 1) >> 2;
        fill_normals(row, static_cast<std::uint32_t>(first), last - first + 1, values_.data());
        return values_.data() + (x & 3);
    }

  private:
    std::int64_t width_;
    std::vector<T> values_;
};

}  // namespace diffnoise
