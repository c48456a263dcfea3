#pragma once

// GPU: fractal OpenSimplex on a tile of pixels, by one block of threads.
//
// Per octave the block finds the lattice lines (lattice_lines.h) that reach the tile and hashes the lattice points on
// them into shared memory; then every thread adds up the lines that reach its pixels. A thread has two runs of four
// pixels along (1, 1), across the lines, so that the four have the same foot on every line and share its two lattice
// points. Runs of about the same x + y share a list of lines.
//
// Tiles and runs lie at absolute places: x - (y mod 4) and y of a tile's pixels begin at multiples of 32. All rounding
// depends on the pixel, then, not on the image that shows it.

#include <cstddef>

#include "lattice_lines.h"
#include "pixels.h"
#include "thread_block.h"

namespace diffnoise {

constexpr int kTile = 32, kRun = 4, kListStep = 2;
constexpr int kRunsPerThread = kTile * kTile / kRun / kThreads;
// The list of a run is that of its first pixel: x + y from the tile's corner, divided by kListStep.
constexpr int kLists = (2 * kTile - kRun - 1) / kListStep + 1;
// Spans of x + y within a tile and within the runs of a list; least and largest x - y of a run.
constexpr int kTileSpan = 2 * (kTile - 1) + kRun - 1, kListSpan = kListStep - 1 + 2 * (kRun - 1);
constexpr int kLeastDifference = kRun - kTile, kLargestDifference = kTile - 1;

// Shared memory of a block: four fit into a multiprocessor of compute capability 9.0, one into the smallest.
constexpr int kTileBytes = 56 << 10;

template <class T>
struct alignas(4 * sizeof(T)) LineHeader {
    double across;  // of the tile's first pixel
    T along, left;  // u - 1/2 of the tile's first pixel, its foot lying above v[0]; the attenuation at the foot, but
                    // for across
    T d[2];         // offsets along the constant axes
    std::uint32_t vertex;  // index of the line's middle, less kShifterBits
    std::int32_t v[4];
};
template <class T>
struct alignas(4 * sizeof(T)) NearLine {
    T along, across, left;
    std::uint32_t vertex;
};
template <class T>
struct alignas(2 * sizeof(T)) LineVertex {
    std::uint32_t plane;  // the gradient, and its part of the product along the constant axes
    T constant;
};

// One octave, as far as it does not depend on the place.
template <class T>
struct TileOctave {
    double step;                // 1 / wavelength
    T half_step, coarse, rest;  // step / 2, and the same in two parts, the first with few digits
    T scale;                    // amplitude and divisor
    int sums, list_sums;        // of the lines that can reach the tile, and the runs of one list
    int before, run;            // lattice points kept of every line: before its middle, and in all
    std::uint32_t run_inverse;  // 2^32 / run, rounded up
};

template <int D, class T>
struct TileTables;

// The octaves that fit into shared memory, the longest wavelengths first; finer ones are gathered pixel by pixel.
template <int D, class T>
struct TilePlan {
    static constexpr int kMostOctaves = 32;
    int octaves = 0;
    int list_slots = 0;                          // lines that a list can hold
    int headers_at = 0, vertices_at = 0, bytes;  // in shared memory, after the tables and the lists; in all
    TileOctave<T> octave[kMostOctaves];

    explicit TilePlan(const FractalSum& fractal);
};

template <int D, class T>
struct alignas(32) TileTables {
    LatticeTable<D, T> lattice;
    // Of every octave: the tile's first pixel in wavelengths, its sum in units of the lines' spacing past the first
    // line, and the sum of the first line.
    double corner[TilePlan<D, T>::kMostOctaves][D];
    float past_first[TilePlan<D, T>::kMostOctaves];
    std::int64_t first_sum[TilePlan<D, T>::kMostOctaves];
    int length[kLists];
};

template <int D, class T>
class TileMemory {
  public:
    DN_HD TileMemory(unsigned char* memory, const TilePlan<D, T>& plan) : memory_(memory), plan_(plan) {}

    DN_HD TileTables<D, T>& tables() const { return *reinterpret_cast<TileTables<D, T>*>(memory_); }
    DN_HD NearLine<T>* near(int list) const {
        return reinterpret_cast<NearLine<T>*>(memory_ + sizeof(TileTables<D, T>)) + list * plan_.list_slots;
    }
    DN_HD int list_slots() const { return plan_.list_slots; }
    DN_HD LineHeader<T>* headers() const { return reinterpret_cast<LineHeader<T>*>(memory_ + plan_.headers_at); }
    DN_HD LineVertex<T>* vertices() const { return reinterpret_cast<LineVertex<T>*>(memory_ + plan_.vertices_at); }

  private:
    unsigned char* memory_;
    const TilePlan<D, T>& plan_;
};

template <int D, class T>
TilePlan<D, T>::TilePlan(const FractalSum& fractal) : bytes(sizeof(TileTables<D, T>)) {
    double wavelength = fractal.wavelength, amplitude = fractal.gain;
    while (octaves < fractal.octaves && octaves < kMostOctaves) {
        const double step = 1 / wavelength;
        if (!(step < kTile)) break;
        TileOctave<T> next{};
        next.step = step;
        next.half_step = static_cast<T>(0.5 * step);
        // With 16 digits, so that its product with a difference of pixels is exact.
        int exponent;
        const double digits = std::frexp(0.5 * step, &exponent);
        next.coarse = std::is_same_v<T, double>
                          ? next.half_step
                          : static_cast<T>(std::ldexp(std::floor(std::ldexp(digits, 16)), exponent - 16));
        next.rest = static_cast<T>(0.5 * step - static_cast<double>(next.coarse));
        next.scale = static_cast<T>(amplitude * kLineScale<D>);
        next.sums = count_sums<D>(kTileSpan * step);
        next.list_sums = count_sums<D>(kListSpan * step);
        next.before = static_cast<int>(std::ceil(-0.5 * kLeastDifference * step + 0.5));
        next.run = next.before + static_cast<int>(std::ceil(0.5 * kLargestDifference * step + 0.5)) + 2;
        next.run_inverse = static_cast<std::uint32_t>((std::uint64_t{1} << 32) / next.run + 1);
        const int slots = next.sums * kLinesPerSum<D>;
        // An odd number, so that neighbouring lists lie in different banks.
        const int list = (next.list_sums * kReachedPerSum<D>) | 1;
        const int headers = static_cast<int>(sizeof(TileTables<D, T>) + kLists * list * sizeof(NearLine<T>));
        const int vertices = headers + slots * static_cast<int>(sizeof(LineHeader<T>));
        const int end = vertices + slots * next.run * static_cast<int>(sizeof(LineVertex<T>));
        if (end > kTileBytes) break;
        list_slots = list;
        headers_at = headers;
        vertices_at = vertices;
        bytes = end;
        octave[octaves++] = next;
        wavelength *= 0.5;
        amplitude *= fractal.persistence;
    }
}

// A tile of one map: the coordinates of its first pixel, and which of its pixels the image shows.
struct TilePlace {
    double p[4];
    std::int64_t lattice_seed;
    int left, right, top, bottom;

    DN_HD bool shows(int x, int y) const { return left <= x && x < right && top <= y && y < bottom; }
};

// Where a thread's runs begin: x - (y mod 4) and y from the tile's first pixel. A warp has 8 columns, 4 runs of rows at
// a time.
DN_HD int run_column(int thread) { return (thread >> 5) * 8 + (thread & 7); }
DN_HD int run_row(int thread, int run) { return (run * 4 + (thread >> 3 & 3)) * kRun; }

template <class T>
struct Run {
    T value[kRun];
};
// Adding a shifter leaves the nearest integer in the low bits of the sum. Returns that integer; `bits` is it, too, from
// kShifterBits on, as an index that wraps around.
template <class T>
constexpr std::uint32_t kShifterBits = std::is_same_v<T, float> ? 0x4B400000 : 0;
DN_HD float nearest(float x, std::uint32_t& bits) {
    constexpr float shifter = 12582912.0f;
    const float shifted = x + shifter;
    bits = std::bit_cast<std::uint32_t>(shifted);
    return shifted - shifter;
}
DN_HD double nearest(double x, std::uint32_t& bits) {
    constexpr double shifter = 6755399441055744.0;
    const double shifted = x + shifter;
    bits = static_cast<std::uint32_t>(std::bit_cast<std::uint64_t>(shifted));
    return shifted - shifter;
}

// The slot-th line of an octave, seen from the tile's first pixel.
template <int D, class T>
DN_HD LineHeader<T> make_header(const TileOctave<T>& octave, const double* corner, std::int64_t first, int slot) {
    LineHeader<T> header{};
    const std::int64_t sum = first + slot / kLinesPerSum<D>;
    const double shift = Lattice<D>::squish * static_cast<double>(sum);
    std::int64_t rest = sum;
    double left = 1;
    int choice = slot % kLinesPerSum<D>;
    for (int axis = 2; axis < D; ++axis, choice /= kAcross) {
        const double c = corner[axis] - shift, index = std::ceil(c - kRadius) + choice % kAcross, d = c - index;
        const std::int64_t v = static_cast<std::int64_t>(index);
        rest -= v;
        left -= 0.5 * d * d;
        header.d[axis - 2] = static_cast<T>(d);
        header.v[axis] = static_cast<std::int32_t>(v);
    }
    const double half_rest = 0.5 * static_cast<double>(rest), foot = 0.5 * (corner[0] - corner[1]) + half_rest;
    const double middle = std::floor(foot);
    header.across = 0.5 * (corner[0] + corner[1]) - half_rest - shift;
    header.along = static_cast<T>(foot - middle - 0.5);
    header.left = static_cast<T>(left);
    header.vertex = static_cast<std::uint32_t>(slot * octave.run + octave.before) - kShifterBits<T>;
    header.v[0] = static_cast<std::int32_t>(static_cast<std::int64_t>(middle));
    header.v[1] = static_cast<std::int32_t>(rest - static_cast<std::int64_t>(middle));
    return header;
}

template <int D, class T>
DN_HD LineVertex<T> make_vertex(const LineHeader<T>& header, int from_middle, const LatticeTable<D, T>& table) {
    const std::int32_t v[4] = {header.v[0] + from_middle, header.v[1] - from_middle, header.v[2], header.v[3]};
    const Gradient<T>& gradient = table.at(v);
    T constant = 0;
    for (int axis = 2; axis < D; ++axis) constant += gradient.constant[axis - 2] * header.d[axis - 2];
    return {gradient.plane, constant};
}

// The lines that reach the runs of a list, in the lattice's order.
template <int D, class T>
DN_HD void make_list(const TileOctave<T>& octave, const TileMemory<D, T>& memory, int index, int list) {
    auto& tables = memory.tables();
    const double low = 0.5 * kListStep * list * octave.step;
    const T extent = static_cast<T>(0.5 * kListSpan * octave.step);
    // The sums that can reach, and one more because of rounding; a line on the edge, found or not, adds nothing.
    const float first = std::ceil(tables.past_first[index] + static_cast<float>(2 * low / kSumSpacing<D>));
    int slot = static_cast<int>(first > 0 ? first : 0) * kLinesPerSum<D>;
    const int all = octave.sums * kLinesPerSum<D>, window = slot + (octave.list_sums + 1) * kLinesPerSum<D>;
    const LineHeader<T>* header = memory.headers() + slot;
    NearLine<T>* const near = memory.near(list);
    NearLine<T>* const full = near + memory.list_slots();
    NearLine<T>* next = near;
    for (const int end = window < all ? window : all; slot < end; ++slot, ++header) {
        const T across = static_cast<T>(header->across + low), farther = across + extent;
        const T distance = across > 0 ? across : farther < 0 ? farther : 0;
        if (distance * distance < header->left && next < full)
            *next++ = {header->along, across, header->left, header->vertex};
    }
    tables.length[list] = static_cast<int>(next - near);
}

// Adds an octave to the pixels of one run.
template <int D, class T>
DN_HD void add_octave(const TileOctave<T>& octave, const TileMemory<D, T>& memory, int column, int row, Run<T>& run) {
    const int from_corner = column + row, list = from_corner / kListStep;
    // The foot's whole and fractional part, so that no digits are lost in short wavelengths.
    std::uint32_t whole;
    const T difference = static_cast<T>(column - row), coarse = difference * octave.coarse;
    const T along = coarse - nearest(coarse, whole) + difference * octave.rest;
    const LineVertex<T>* vertices = memory.vertices() + static_cast<std::int32_t>(whole - kShifterBits<T>);
    T across[kRun], sum[kRun] = {};
    for (int k = 0; k < kRun; ++k) across[k] = static_cast<T>(from_corner % kListStep + 2 * k) * octave.half_step;
    const NearLine<T>* line = memory.near(list);
    for (int i = memory.tables().length[list]; i > 0; --i, ++line) {
        std::uint32_t bits;
        const T from_middle = line->along + along, u = from_middle - nearest(from_middle, bits);
        const LineVertex<T>* vertex = vertices + static_cast<std::int32_t>(line->vertex + bits);
        const LineVertex<T> first = vertex[0], second = vertex[1];
        const T first_u = u + T(0.5), second_u = u - T(0.5);
        const T first_left = line->left - first_u * first_u, second_left = line->left - second_u * second_u;
        const T first_product = first.constant + gradient_along(first.plane) * first_u;
        const T second_product = second.constant + gradient_along(second.plane) * second_u;
        for (int k = 0; k < kRun; ++k) {
            const T b = line->across + across[k];
            sum[k] += line_term(positive(first_left - b * b), first_product + gradient_across(first.plane) * b);
            sum[k] += line_term(positive(second_left - b * b), second_product + gradient_across(second.plane) * b);
        }
    }
    for (int k = 0; k < kRun; ++k) run.value[k] += octave.scale * sum[k];
}

// One octave at a point. Not inlined: tiles seldom need it, and its many registers would halve the blocks at work.
template <int D, class T>
DN_APART T gather_apart(double x, double y, double z, double w, const LatticeTable<D, T>& table) {
    const double p[4] = {x, y, z, w};
    return gather<D>(p, table);
}

// The fractal sum over a tile: every thread's own runs.
template <int D, class T, class Block>
DN_HD void add_tile(const Block& block, const TilePlan<D, T>& plan, const FractalSum& fractal, const TilePlace& place,
                    const std::uint8_t* permutation, const TileMemory<D, T>& memory, Run<T>* runs) {
    auto& tables = memory.tables();
    const int column = run_column(block.thread());
    block.over(256, [&](int i) { tables.lattice.set(i, permutation[i]); });
    block.over(plan.octaves, [&](int i) {
        double* corner = tables.corner[i];
        octave_point<D>(place.p, plan.octave[i].step, fractal.shift, place.lattice_seed, i, corner);
        double total = 0;
        for (int axis = 0; axis < D; ++axis) total += corner[axis];
        tables.first_sum[i] = first_sum<D>(total);
        tables.past_first[i] =
            static_cast<float>((total - kSumReach<D>) / kSumSpacing<D> - static_cast<double>(tables.first_sum[i]));
    });
    block.barrier();
    for (int i = 0; i < plan.octaves; ++i) {
        const TileOctave<T>& octave = plan.octave[i];
        const unsigned slots = octave.sums * kLinesPerSum<D>, run = octave.run;
        block.over(slots, [&](int slot) {
            memory.headers()[slot] = make_header<D>(octave, tables.corner[i], tables.first_sum[i], slot);
        });
        block.barrier();
        block.over(slots * run, [&](unsigned vertex) {
            const unsigned slot = static_cast<unsigned>(std::uint64_t{vertex} * octave.run_inverse >> 32);
            const LineHeader<T>& header = memory.headers()[slot];
            if (header.left > 0) {
                memory.vertices()[vertex] =
                    make_vertex(header, static_cast<int>(vertex - slot * run) - octave.before, tables.lattice);
            }
        });
        // By the last warp, which has the fewest of the lattice points above.
        const int list = block.thread() - (kThreads - kLanes);
        if (0 <= list && list < kLists) make_list(octave, memory, i, list);
        block.barrier();
        for (int r = 0; r < kRunsPerThread; ++r) {
            const int row = run_row(block.thread(), r);
            bool any = false;
            for (int k = 0; k < kRun; ++k) any = any || place.shows(column + k, row + k);
            if (any) add_octave(octave, memory, column, row, runs[r]);
        }
    }
    if (plan.octaves == fractal.octaves) return;
    double wavelength = fractal.wavelength, amplitude = fractal.gain;
    for (int i = 0; i < plan.octaves; ++i) {
        wavelength *= 0.5;
        amplitude *= fractal.persistence;
    }
    for (std::int64_t i = plan.octaves; i < fractal.octaves; ++i) {
        const T scale = static_cast<T>(amplitude * kLineScale<D>);
        for (int r = 0; r < kRunsPerThread; ++r) {
            for (int k = 0; k < kRun; ++k) {
                const int x = column + k, y = run_row(block.thread(), r) + k;
                if (!place.shows(x, y)) continue;
                const double pixel[4] = {place.p[0] + x, place.p[1] + y, place.p[2], place.p[3]};
                double p[4] = {};
                octave_point<D>(pixel, 1 / wavelength, fractal.shift, place.lattice_seed, i, p);
                runs[r].value[k] += scale * gather_apart(p[0], p[1], p[2], p[3], tables.lattice);
            }
        }
        wavelength *= 0.5;
        amplitude *= fractal.persistence;
    }
}

// As many tiles as a map's pixels touch at most: the host does not see where the map begins.
inline std::int64_t tile_rows(std::int64_t height) { return (height - 2 + kTile) / kTile + 1; }
inline std::int64_t tile_columns(std::int64_t width) { return (width + kRun - 1 - 2 + kTile) / kTile + 1; }

// Coordinates from here on are too far for the lattice of the finest octave.
inline double farthest_coordinate(const FractalSum& fractal) {
    const int finest = static_cast<int>(fractal.octaves < 2000 ? fractal.octaves : 2000);
    const double farthest = std::ldexp(fractal.wavelength, 50 - finest);
    return farthest < 0x1p62 ? farthest : 0x1p62;
}

// Makes a tile of a map, counted from the map's first pixel, and calls store(i, map, y, x, value) for its pixels: i
// counts elements of the output, y and x are absolute. permutations: [B, 256] with four dimensions, else [B, C, 256]. A
// sample with a coordinate of `farthest` or beyond becomes NaN.
template <int D, class T, class Block, class Store>
DN_HD void simplex_block(const Block& block, const BlockIndex& at, const Pixels& pixels, const FractalSum& fractal,
                         const TilePlan<D, T>& plan, double farthest, const std::uint8_t* permutations,
                         unsigned char* shared, const Store& store) {
    Map map(pixels, at.x);
    const auto far = [&](std::int64_t low, std::int64_t length) {
        const double from = static_cast<double>(low), to = from + static_cast<double>(length);
        return !((-from > to ? -from : to) < farthest);
    };
    const bool too_far = far(map.y, pixels.height) || far(map.x, pixels.width) || (D > 2 && far(map.t, 0));
    if (too_far) map.y = map.x = 0;

    const auto tile_of = [](std::int64_t coordinate) { return coordinate >> 5 << 5; };
    const std::int64_t y = tile_of(map.y) + std::int64_t{at.y} * kTile;
    const std::int64_t x = tile_of(map.x - (kRun - 1)) + std::int64_t{at.z} * kTile;
    const auto clip = [](std::int64_t value) {
        return static_cast<int>(value < 0 ? 0 : value > kTile + kRun ? kTile + kRun : value);
    };
    TilePlace place;
    place.left = clip(map.x - x);
    place.right = clip(map.x + pixels.width - x);
    place.top = clip(map.y - y);
    place.bottom = clip(map.y + pixels.height - y);
    if (place.left >= place.right || place.top >= place.bottom) return;
    place.p[0] = static_cast<double>(x);
    place.p[1] = static_cast<double>(y);
    place.p[2] = D == 4 ? static_cast<double>(map.channel) : static_cast<double>(map.t);
    place.p[3] = static_cast<double>(map.t);
    place.lattice_seed = D == 4 ? map.seed : channel_seed(map.seed, map.channel);

    Run<T> runs[kRunsPerThread] = {};
    if (!too_far) {
        const std::uint8_t* permutation = permutations + (D == 4 ? map.sample : map.index) * 256;
        add_tile(block, plan, fractal, place, permutation, TileMemory<D, T>(shared, plan), runs);
    }
    for (int r = 0; r < kRunsPerThread; ++r) {
        for (int k = 0; k < kRun; ++k) {
            const int column = run_column(block.thread()) + k, row = run_row(block.thread(), r) + k;
            if (!place.shows(column, row)) continue;
            const T value = too_far ? std::numeric_limits<T>::quiet_NaN() : runs[r].value[k];
            store((map.index * pixels.height + (y + row - map.y)) * pixels.width + (x + column - map.x), map, y + row,
                  x + column, value);
        }
    }
}

// Stores the value as it is.
template <class T, class Out>
struct StoreSimplex {
    Out out;

    DN_HD void operator()(std::int64_t i, const Map&, std::int64_t, std::int64_t, T value) const { out(i, value); }
};

}  // namespace diffnoise
