#pragma once

// GPU: KTs by blocks of threads, pixel by pixel, because every patch has a wavelength of its own; as in
// diffnoise/ops/kts_noise.py.

#include <cmath>
#include <numbers>

#include "lattice_lines.h"
#include "pixels.h"
#include "thread_block.h"

namespace diffnoise {

struct KtsField {
    std::int64_t full_height, full_width, octaves;
    double persistence, wavelength, sigma;
    std::int64_t patch;
    bool local, exponential;
};

constexpr int kKtsTile = 32;

// The square of a pixel's distance from the centre along one axis, in patches; outside the image the nearest patch
// counts.
DN_HD double patch_distance(std::int64_t position, std::int64_t length, std::int64_t patch, std::int64_t in_patch) {
    const std::int64_t patches = (length + patch - 1) / patch, index = (position - in_patch) / patch;
    const std::int64_t nearest = index < 0 ? 0 : index >= patches ? patches - 1 : index;
    const double d = static_cast<double>(nearest + 1) - 0.5 * static_cast<double>(patches + 1);
    return d * d;
}

template <class T>
DN_HD T kts_value(const KtsField& field, const Map& map, std::int64_t y, std::int64_t x,
                  const LatticeTable<4, T>& table) {
    const auto place_in_patch = [&](std::int64_t position) {
        const std::int64_t place = position % field.patch;
        return place < 0 ? place + field.patch : place;
    };
    const std::int64_t y_in_patch = place_in_patch(y), x_in_patch = place_in_patch(x);
    const double square = patch_distance(y, field.full_height, field.patch, y_in_patch) +
                          patch_distance(x, field.full_width, field.patch, x_in_patch);
    const double exponent = field.exponential ? std::sqrt(square) / field.sigma * std::numbers::ln2
                                              : square / (2 * field.sigma * field.sigma);
    double step = 1 / (field.wavelength * exponential(-exponent));
    const double place[4] = {static_cast<double>(field.local ? x_in_patch : x),
                             static_cast<double>(field.local ? y_in_patch : y), static_cast<double>(map.channel),
                             static_cast<double>(map.t)};
    double amplitude = kLineScale<4>;
    T sum = 0;
    for (std::int64_t octave = 0; octave < field.octaves; ++octave) {
        const double p[4] = {place[0] * step, place[1] * step, place[2] * step, place[3] * step};
        sum += static_cast<T>(amplitude) * gather<4>(p, table);
        amplitude *= field.persistence;
        step *= 2;
    }
    return sum;
}

// permutations: [B, 256].
template <class T, class Block, class Out>
DN_HD void kts_block(const Block& block, const BlockIndex& at, const Pixels& pixels, const KtsField& field,
                     const std::uint8_t* permutations, LatticeTable<4, T>& table, const Out& out) {
    const Map map(pixels, at.x);
    block.over(256, [&](int i) { table.set(i, permutations[256 * map.sample + i]); });
    block.barrier();
    block.over(kKtsTile * kKtsTile, [&](int i) {
        const std::int64_t row = std::int64_t{at.y} * kKtsTile + i / kKtsTile,
                           column = std::int64_t{at.z} * kKtsTile + i % kKtsTile;
        if (row >= pixels.height || column >= pixels.width) return;
        out((map.index * pixels.height + row) * pixels.width + column,
            kts_value(field, map, map.y + row, map.x + column, table));
    });
}

}  // namespace diffnoise
