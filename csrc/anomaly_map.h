#pragma once

// One pixel's error and the reflected border, as in diffnoise/ops/anomaly_map.py.

#include <cstdint>

#include "host_device.h"

namespace diffnoise {

struct Itself {};
struct Squared {
    template <class T>
    DN_HD static T error(T image, T x_0) {
        return (x_0 - image) * (x_0 - image);
    }
};
struct Absolute {
    template <class T>
    DN_HD static T error(T image, T x_0) {
        const T difference = x_0 - image;
        return difference < 0 ? -difference : difference;
    }
};

// The line that stands at i, 0 <= i < length inside: reflected as often as it takes, the border's line not repeated.
DN_HD std::int64_t reflected(std::int64_t i, std::int64_t length) {
    const std::int64_t period = 2 * (length - 1);
    if (period == 0) return 0;
    i = (i % period + period) % period;
    return i < length ? i : period - i;
}

}  // namespace diffnoise
