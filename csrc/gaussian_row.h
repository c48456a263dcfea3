#pragma once

// CPU: rows of Gaussian noise, for gaussian_noise and for the ops that make noise in passing.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gaussian_noise.h"
#include "philox_vector.h"

namespace diffnoise {

// Rows at y, y + 1, ... of float noise, x .. x + width - 1, given to `sink` by the register: put<Isa>(i, values) with i
// counted from the first pixel in rows of `width`, and put<Isa>(i, values, begin, end) where only those of a register
// belong to the row. Every pixel comes once. prefetch(i): the pixels at i and the 15 behind it will come soon.
struct NormalRows {
    static constexpr int together = 4;  // blocks, so that the processor has enough to do

    template <class Isa, class Sink>
    static DN_HD void run(const Address& top, std::int64_t x, std::int64_t rows, std::int64_t width, const Sink& to) {
        constexpr int size = NormalBlock<Isa>::size, half = size / 2;
        const Sink sink = to;
        const MapWords<Isa> map(top);
        const std::int64_t skip = x & 3, blocks = (skip + width + size - 1) / size;
        const std::int64_t quarter_length = (blocks + together - 1) / together;
        for (std::int64_t row = 0; row < rows;) {
            // Four rows, or four parts of one of the last rows.
            const bool four = row + together <= rows;
            const std::int64_t length = four ? blocks : quarter_length;
            BlockAddress<Isa> address[together];
            std::int64_t start[together];  // of the row
            std::int64_t at[together];     // in the row; a block may begin before it and end behind it
            std::int64_t end[together];
            for (int i = 0; i < together; ++i) {
                const std::int64_t y = four ? row + i : row, first = four ? 0 : i * length;
                Address here = top;
                here.y += static_cast<std::uint32_t>(y);
                address[i].set(here, (x >> 2) + first * NormalBlock<Isa>::counters);
                start[i] = y * width;
                at[i] = first * size - skip;
                end[i] = std::min(at[i] + length * size, width);
            }
            for (std::int64_t block = 0; block < length; ++block) {
                NormalBlock<Isa> values[together];
                for (int i = 0; i < together; ++i) values[i].start(map, address[i]);
                // The next rows' memory is on its way while these are computed.
                for (int i = 0; i < together; ++i) {
                    for (int j = 0; j < size; j += 16) sink.prefetch(start[i] + at[i] + together * width + j);
                }
                for (int round = 3; round < 9; ++round) {
                    for (int i = 0; i < together; ++i) values[i].round(map, round);
                }
                for (int i = 0; i < together; ++i) values[i].finish(map);
                for (int i = 0; i < together; ++i) values[i].make_radius();
                for (int i = 0; i < together; ++i) {
                    Vector<Isa, float> halves[2];
                    values[i].values(halves[0], halves[1]);
                    for (int j = 0; j < 2; ++j) {
                        const std::int64_t first = at[i] + j * half;
                        if (first >= 0 && first + half <= end[i]) {
                            sink.template put<Isa>(start[i] + first, halves[j]);
                        } else if (first < end[i] && first + half > 0) {
                            sink.template put<Isa>(start[i] + first, halves[j],
                                                   static_cast<int>(std::max<std::int64_t>(-first, 0)),
                                                   static_cast<int>(std::min<std::int64_t>(end[i] - first, half)));
                        }
                    }
                    address[i].advance();
                    at[i] += size;
                }
            }
            row += four ? together : 1;
        }
    }
};

// Stores the noise itself.
struct NormalsInMemory {
    template <class Isa>
    DN_HD void put(std::int64_t i, Vector<Isa, float> values) const {
        *reinterpret_cast<Vector<Isa, float>*>(out + i) = values;
    }
    template <class Isa>
    DN_HD void put(std::int64_t i, Vector<Isa, float> values, int begin, int end) const {
        for (int j = begin; j < end; ++j) out[i + j] = values[j];
    }
    DN_HD void prefetch(std::int64_t i) const { __builtin_prefetch(out + i, 1); }

    float* out;
};

inline void fill_normals(const Address& top, std::int64_t x, std::int64_t rows, std::int64_t width, float* out) {
    run_best<NormalRows>(top, x, rows, width, NormalsInMemory{out});
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
