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
// belong to the row. Every pixel comes once, in order. prefetch(i): the pixels at i and the 15 behind it will come
// soon.
struct NormalRows {
    static constexpr int together = 4;          // blocks, so that the processor has enough to do
    static constexpr std::int64_t ahead = 512;  // pixels that are fetched while earlier ones are computed

    template <class Isa, class Sink>
    static DN_HD void run(const Address& top, std::int64_t x, std::int64_t rows, std::int64_t width, const Sink& to) {
        constexpr int size = NormalBlock<Isa>::size, half = size / 2;
        const Sink sink = to;
        const MapWords<Isa> map(top);
        // The first block of a row may begin before it, the last one end behind it.
        const std::int64_t skip = x & 3;
        Address here = top;
        BlockAddress<Isa> address;
        address.set(here, x >> 2);
        for (std::int64_t row = 0, column = -skip; row < rows;) {
            NormalBlock<Isa> values[together];
            std::int64_t starts[together];   // of the blocks' rows
            std::int64_t columns[together];  // of the blocks in them
            for (int i = 0; i < together; ++i) {
                values[i].start(map, address);
                starts[i] = row * width, columns[i] = column;
                address.advance(), column += size;
                if (column >= width) {
                    ++row, column = -skip;
                    ++here.y;
                    address.set(here, x >> 2);
                }
            }
            for (int i = 0; i < together; ++i) {
                for (int j = 0; j < size; j += 16) sink.prefetch(starts[i] + columns[i] + ahead + j);
            }
            for (int round = 3; round < 9; ++round) {
                for (int i = 0; i < together; ++i) values[i].round(map, round);
            }
            for (int i = 0; i < together; ++i) values[i].finish(map);
            for (int i = 0; i < together; ++i) values[i].make_radius();
            Vector<Isa, float> halves[together][2];
            for (int i = 0; i < together; ++i) values[i].values(halves[i][0], halves[i][1]);

            bool whole = row < rows;
            for (int i = 0; i < together; ++i) whole = whole && columns[i] >= 0 && columns[i] + size <= width;
            if (whole) {
                for (int i = 0; i < together; ++i) {
                    for (int j = 0; j < 2; ++j) {
                        sink.template put<Isa>(starts[i] + columns[i] + j * half, halves[i][j]);
                    }
                }
                continue;
            }
            for (int i = 0; i < together && starts[i] < rows * width; ++i) {
                for (int j = 0; j < 2; ++j) {
                    const std::int64_t first = columns[i] + j * half;
                    if (first >= 0 && first + half <= width) {
                        sink.template put<Isa>(starts[i] + first, halves[i][j]);
                    } else if (first < width && first + half > 0) {
                        sink.template put<Isa>(starts[i] + first, halves[i][j],
                                               static_cast<int>(std::max<std::int64_t>(-first, 0)),
                                               static_cast<int>(std::min<std::int64_t>(width - first, half)));
                    }
                }
            }
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
