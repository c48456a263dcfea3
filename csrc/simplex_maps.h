#pragma once

// CPU: maps of fractal OpenSimplex noise, tile by tile; for simplex_noise and for the noises made of it.

#include <vector>

#include "simplex_tile.h"
#include "stable.h"

namespace diffnoise {

struct Fractal {
    int64_t octaves;
    double persistence, wavelength, gain;
    bool shift;
};

// The lattices of a batch: one per sample in 4-D, else one per map.
template <int D>
class Lattices {
  public:
    explicit Lattices(const Grid& grid) : grid_(grid), tables_(D == 4 ? grid.batch : grid.batch * grid.channels) {
        parallel_for(0, static_cast<int64_t>(tables_.size()), 16, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) make_tables<D>(seed(i), tables_[i]);
        });
    }

    // Adds all octaves to a tile of a map.
    template <class T>
    void add(const Fractal& fractal, int64_t map, const Tile<T>& tile, Scratch<T>& scratch) const {
        const int64_t lattice = D == 4 ? map / grid_.channels : map;
        const double t = static_cast<double>(grid_.t[map / grid_.channels]);
        const double constant[2] = {D == 4 ? static_cast<double>(map % grid_.channels) : t, t};
        double amplitude = fractal.gain, wavelength = fractal.wavelength;
        for (int64_t octave = 0; octave < fractal.octaves; ++octave) {
            double shift[4] = {};
            if (fractal.shift) octave_shift<D>(seed(lattice), octave, shift);
            const Plane<D> plane{wavelength,
                                 amplitude,
                                 {shift[0], shift[1]},
                                 {constant[0] / wavelength + shift[2], constant[1] / wavelength + shift[3]},
                                 &tables_[lattice]};
            add_octave(plane, tile, scratch);
            amplitude *= fractal.persistence;
            wavelength *= 0.5;
        }
    }

    const LatticeTables& of_map(int64_t map) const { return tables_[D == 4 ? map / grid_.channels : map]; }

  private:
    int64_t seed(int64_t lattice) const {
        return D == 4 ? grid_.seeds[lattice]
                      : channel_seed(grid_.seeds[lattice / grid_.channels], lattice % grid_.channels);
    }

    const Grid& grid_;
    std::vector<LatticeTables> tables_;
};

// Room for one tile.
template <class T>
class Workspace {
  public:
    Workspace(int64_t rows, int64_t columns)
        : stride_((columns + 4 * kTileAlignment - 1) / kTileAlignment * kTileAlignment), sums_(rows * stride_) {}

    // A tile of zeros that holds the pixels from (y, x) on.
    const Tile<T>& clear(int64_t y, int64_t x, int64_t rows, int64_t columns) {
        const int64_t skip = ((x % kTileAlignment) + kTileAlignment) % kTileAlignment;
        tile_ = {y, x - skip, rows, skip + columns, skip, sums_.data() + kTileAlignment, stride_};
        std::fill_n(sums_.data(), rows * stride_, T{});
        return tile_;
    }
    // The wanted pixels of a row.
    const T* row(int64_t i) const { return tile_.sum + i * stride_ + tile_.skip; }

    Scratch<T> scratch;

  private:
    int64_t stride_;
    AlignedBuffer<T> sums_;
    Tile<T> tile_{};
};

// Calls make(map, y, x, rows, columns, workspace) for all tiles of all maps, from all threads; y and x count from the
// map's first pixel.
template <class T, class F>
void for_each_tile(const Grid& grid, const F& make) {
    const int64_t maps = grid.batch * grid.channels, columns = std::min<int64_t>(grid.width, 256);
    const int64_t across = (grid.width + columns - 1) / columns;
    int64_t rows = std::min<int64_t>(grid.height, 256);
    // Few maps are cut finer, so that all threads have some.
    while (rows > 64 && maps * across * ((grid.height + rows - 1) / rows) < 4 * torch::stable::get_num_threads())
        rows /= 2;
    const int64_t down = (grid.height + rows - 1) / rows;
    parallel_for(0, maps * down * across, 1, [&](int64_t begin, int64_t end) {
        Workspace<T> workspace(rows, columns);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t y = i / across % down * rows, x = i % across * columns;
            make(i / (down * across), y, x, std::min(rows, grid.height - y), std::min(columns, grid.width - x),
                 workspace);
        }
    });
}

// Throws where coordinates have so few digits left behind the point that they eat up the margin of every reach.
inline void check_reach(const Grid& grid, bool has_t, int64_t octaves, double wavelength) {
    const double largest = std::ldexp(wavelength, 36 - static_cast<int>(std::min<int64_t>(octaves, 2000)));
    const auto check = [&](const char* name, int64_t low, int64_t length) {
        const double far = std::max(-static_cast<double>(low), static_cast<double>(low) + static_cast<double>(length));
        STD_TORCH_CHECK(far < largest, name, " reaches ", far, ", too far for the lattice of the finest octave.");
    };
    for (int64_t i = 0; i < grid.batch; ++i) {
        if (has_t) check("t", grid.t[i], 0);
        check("y", grid.origins[2 * i], grid.height);
        check("x", grid.origins[2 * i + 1], grid.width);
    }
}

}  // namespace diffnoise
