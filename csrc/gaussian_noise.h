#pragma once

// N(0, 1) values addressed by (seed, t, channel, y, x, stream): the four words at x // 4 make four neighbours in x.

#include "philox.h"

namespace diffnoise {

template <class T>
DN_HD void normal_four(const Address& row, std::uint32_t x_quarter, T* four) {
    const Words words = row(x_quarter);
    normal_pair(words.w0, words.w1, four[0], four[1]);
    normal_pair(words.w2, words.w3, four[2], four[3]);
}

}  // namespace diffnoise
