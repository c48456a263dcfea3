#pragma once

// GPU: where a batch of grids lies, the leading arguments of every noise op on pixels. The kernels read them, not the
// host.

#include <cstdint>

#include "host_device.h"

namespace diffnoise {

struct Pixels {
    const std::int64_t *seeds, *t, *origins;  // [B], [B], [B, 2]
    std::int64_t channels, height, width;
};

// One sample's map: seed and t, and the coordinates of its first pixel.
struct Map {
    std::int64_t index, sample, channel, seed, t, y, x;

    DN_HD Map(const Pixels& pixels, unsigned map)
        : index(map),
          sample(map / static_cast<unsigned>(pixels.channels)),
          channel(map - static_cast<unsigned>(sample) * static_cast<unsigned>(pixels.channels)),
          seed(pixels.seeds[sample]),
          t(pixels.t[sample]),
          y(pixels.origins[2 * sample]),
          x(pixels.origins[2 * sample + 1]) {}
};

}  // namespace diffnoise
