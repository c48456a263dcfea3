#pragma once

// KTs: the patches of an image and their wavelengths, as in diffnoise/ops/kts_noise.py.

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace diffnoise {

struct Patches {
    std::int64_t full_height, full_width, size;
    double wavelength, sigma;
    bool exponential;

    // The patch that holds a position along an axis.
    DN_HD std::int64_t index(std::int64_t position) const { return position / size - (position % size < 0 ? 1 : 0); }

    // The wavelength of patch (i, j), 0-based, in pixels.
    DN_HD double wavelength_of(std::int64_t i, std::int64_t j) const {
        const double dy = from_centre(i, full_height), dx = from_centre(j, full_width);
        const double square = dy * dy + dx * dx;
        if (exponential) return wavelength * std::exp2(-std::sqrt(square) / sigma);
        return wavelength * std::exp(-square / (2 * (sigma * sigma)));
    }

  private:
    // Outside the image the nearest patch counts.
    DN_HD double from_centre(std::int64_t i, std::int64_t length) const {
        const std::int64_t count = (length + size - 1) / size;
        const std::int64_t inside = i < 0 ? 0 : i < count ? i : count - 1;
        return static_cast<double>(inside) - 0.5 * static_cast<double>(count - 1);
    }
};

}  // namespace diffnoise
