#pragma once

// CPU: a tile of a map with its sum so far, and what every form of the sum shares.

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace diffnoise {

// Tiles start at multiples of this in absolute x, so that whole registers meet them aligned.
constexpr std::int64_t kTileAlignment = 16;

// A tile of one map with its sum so far.
template <class T>
struct Tile {
    std::int64_t y, x;  // absolute, of the first pixel; x is a multiple of kTileAlignment
    std::int64_t rows, columns;
    std::int64_t skip;    // columns that nobody wants: they only fill up to the alignment
    T* sum;               // with kTileAlignment pixels to spare on either side of every row
    std::int64_t stride;  // from row to row of sum
};

// max(left - dx^2, 0)^4
template <class V, class T>
DN_HD V kernel(T left, V dx_squared) {
    V attenuation = left - dx_squared;
    attenuation = attenuation > 0 ? attenuation : V{};
    attenuation *= attenuation;
    return attenuation * attenuation;
}

// Pixels within `reach` wavelengths of a position as [begin, end), clipped to `count` pixels from `start` on.
struct Span {
    std::int32_t begin, end;
};
DN_HD Span within(double position, double reach, double wavelength, std::int64_t start, std::int64_t count) {
    const double from = static_cast<double>(start), limit = static_cast<double>(count);
    const double low = std::ceil((position - reach) * wavelength) - from;
    const double high = std::floor((position + reach) * wavelength) + 1 - from;
    return {static_cast<std::int32_t>(low < 0       ? 0
                                      : low > limit ? limit
                                                    : low),
            static_cast<std::int32_t>(high < 0       ? 0
                                      : high > limit ? limit
                                                     : high)};
}

}  // namespace diffnoise
