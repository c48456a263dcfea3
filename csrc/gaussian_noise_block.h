#pragma once

// GPU: Gaussian noise by blocks of threads.

#include "gaussian_noise.h"
#include "pixels.h"
#include "thread_block.h"

namespace diffnoise {

constexpr int kGaussianRows = 16;  // of a block, which has one warp in each at a time

inline std::int64_t gaussian_rows(std::int64_t height) { return (height + kGaussianRows - 1) / kGaussianRows; }
// For as many multiples of 4 as a row can touch.
inline std::int64_t gaussian_columns(std::int64_t width) { return ((width + 6) / 4 + kLanes - 1) / kLanes; }

// Every thread makes four neighbours whose x begins at a multiple of 4.
template <class T, class Block, class Out>
DN_HD void gaussian_block(const Block& block, const BlockIndex& at, const Pixels& pixels, std::int64_t stream,
                          const Out& out) {
    const Map map(pixels, at.x);
    const std::int64_t quarter = (map.x >> 2) + std::int64_t{at.z} * kLanes + block.thread() % kLanes;
    const std::int64_t begin = map.x - 4 * quarter, end = begin + pixels.width;  // of the map, from the four's first
    if (end <= 0) return;
    std::int64_t row = std::int64_t{at.y} * kGaussianRows + block.thread() / kLanes;
    const std::int64_t after = (std::int64_t{at.y} + 1) * kGaussianRows,
                       last = after < pixels.height ? after : pixels.height;
    for (; row < last; row += kThreads / kLanes) {
        const Address address(map.seed, map.t, map.channel, map.y + row, stream);
        T four[4];
        normal_four(address, static_cast<std::uint32_t>(quarter), four);
        out.four((map.index * pixels.height + row) * pixels.width - begin, four, begin, end);
    }
}

// The value at one place.
template <class T>
DN_HD T normal_at(const Address& row, std::int64_t x) {
    const Words words = row(static_cast<std::uint32_t>(x >> 2));
    const bool second = x & 2;
    T pair[2];
    normal_pair(second ? words.w2 : words.w0, second ? words.w3 : words.w1, pair[0], pair[1]);
    return x & 1 ? pair[1] : pair[0];
}

}  // namespace diffnoise
