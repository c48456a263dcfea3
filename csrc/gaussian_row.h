#pragma once

// CPU: rows of Gaussian noise, for gaussian_noise and for the ops that make noise in passing.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gaussian_noise.h"
#include "philox_vector.h"

namespace diffnoise {

// Rows at y, y + 1, ... of float noise, x .. x + width - 1.
struct NormalRows {
    static constexpr int together = 4;  // blocks, so that the processor has enough to do

    template <class Isa>
    static DN_HD void run(const Address& top, std::int64_t x, std::int64_t rows, std::int64_t width, float* out) {
        constexpr int size = NormalBlock<Isa>::size;
        const MapWords<Isa> map(top);
        const std::int64_t skip = x & 3, blocks = (skip + width + size - 1) / size;
        const std::int64_t quarter_length = (blocks + together - 1) / together;
        for (std::int64_t row = 0; row < rows;) {
            // Four rows, or four parts of one of the last rows, which may overlap.
            const bool four = row + together <= rows;
            const std::int64_t length = four ? blocks : quarter_length;
            BlockAddress<Isa> address[together];
            float* to[together];
            std::int64_t at[together];  // in the row; a block may begin before it and end behind it
            for (int i = 0; i < together; ++i) {
                const std::int64_t y = four ? row + i : row, first = four ? 0 : std::min(i * length, blocks - length);
                Address here = top;
                here.y += static_cast<std::uint32_t>(y);
                address[i].set(here, (x >> 2) + first * NormalBlock<Isa>::counters);
                to[i] = out + y * width;
                at[i] = first * size - skip;
            }
            for (std::int64_t block = 0; block < length; ++block) {
                NormalBlock<Isa> values[together];
                for (int i = 0; i < together; ++i) values[i].start(map, address[i]);
                // The next rows' memory is on its way while these are computed.
                for (int i = 0; i < together; ++i) {
                    const float* next = to[i] + at[i] + together * width;
                    for (int j = 0; j < size; j += 16) __builtin_prefetch(next + j, 1);
                }
                for (int round = 3; round < 9; ++round) {
                    for (int i = 0; i < together; ++i) values[i].round(map, round);
                }
                for (int i = 0; i < together; ++i) values[i].finish(map);
                for (int i = 0; i < together; ++i) values[i].make_radius();
                for (int i = 0; i < together; ++i) {
                    if (at[i] >= 0 && at[i] + size <= width) {
                        values[i].store(to[i] + at[i]);
                    } else {
                        float whole[size];
                        values[i].store(whole);
                        const std::int64_t begin = std::max<std::int64_t>(at[i], 0),
                                           end = std::min(at[i] + size, width);
                        std::copy(whole + (begin - at[i]), whole + (end - at[i]), to[i] + begin);
                    }
                    address[i].advance();
                    at[i] += size;
                }
            }
            row += four ? together : 1;
        }
    }
};

inline void fill_normals(const Address& top, std::int64_t x, std::int64_t rows, std::int64_t width, float* out) {
    run_best<NormalRows>(top, x, rows, width, out);
}

inline void fill_normals(Address row, std::int64_t x, std::int64_t rows, std::int64_t width, double* out) {
    for (; rows > 0; --rows, ++row.y, out += width) {
        double four[4];
        for (std::int64_t i = 0; i < width; ++i) {
            if (i == 0 || ((x + i) & 3) == 0) normal_four(row, static_cast<std::uint32_t>((x + i) >> 2), four);
            out[i] = four[(x + i) & 3];
        }
    }
}

// Rows one by one, for a caller that goes from y to y + 1: several are made at once.
template <class T>
class GaussianRow {
  public:
    explicit GaussianRow(std::int64_t width) : width_(width), values_(at_once * width) {}

    // The values at x .. x + width - 1; valid until the next call.
    const T* operator()(const Address& row, std::int64_t x) {
        const bool same = row.k0 == top_.k0 && row.k1 == top_.k1 && row.channel == top_.channel && row.t == top_.t;
        if (!same || x != x_ || row.y - top_.y >= made_) {
            fill_normals(row, x, at_once, width_, values_.data());
            top_ = row, x_ = x, made_ = at_once;
        }
        return values_.data() + (row.y - top_.y) * width_;
    }

  private:
    static constexpr std::uint32_t at_once = std::is_same_v<T, float> ? NormalRows::together : 1;

    std::int64_t width_, x_ = 0;
    Address top_{0, 0, 0, 0, 0};
    std::uint32_t made_ = 0;  // rows, from top_ on
    std::vector<T> values_;
};

}  // namespace diffnoise
