#pragma once

// CPU: what an octave of OpenSimplex adds to a tile of a map.
//
// On a map every coordinate but x and y is constant, and each lattice point near that plane reaches a disc of pixels.
// So the lattice points are walked and each adds its kernel to its pixels: its gradient is looked up once, not once per
// pixel. A pixel's sum does not depend on the tile: positions are computed from the lattice alone, and terms are added
// in the lattice's order.

#include <memory>

#include "discs.h"
#include "simplex_noise_at.h"
#include "stencils.h"

namespace diffnoise {

// Room for what an octave needs on the way.
template <class T>
class Scratch {
  public:
    Discs<T> discs;
    T* weights() { return weights_[0].numbers; }

  private:
    struct alignas(64) CacheLine {
        T numbers[64 / sizeof(T)];
    };
    std::unique_ptr<CacheLine[]> weights_{new CacheLine[kStencilWeights * sizeof(T) / 64]};
};

// An octave whose lattice is finer than the pixels: point by point.
template <int D, class T>
DN_HD void add_points(const Plane<D>& plane, const Tile<T>& tile) {
    double p[4];
    for (int axis = 2; axis < D; ++axis) p[axis] = plane.constant[axis - 2];
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        p[1] = static_cast<double>(tile.y + row) / plane.wavelength + plane.shift[1];
        for (std::int64_t column = tile.skip; column < tile.columns; ++column) {
            p[0] = static_cast<double>(tile.x + column) / plane.wavelength + plane.shift[0];
            tile.sum[row * tile.stride + column] +=
                static_cast<T>(plane.amplitude * lattice_sum<D>(p, plane.tables->permutation));
        }
    }
}

// Adds an octave to a tile.
template <int D>
struct AddOctave {
    template <class Isa, class T>
    static DN_HD void run(const Plane<D>& plane, const Tile<T>& tile, Scratch<T>& scratch) {
        constexpr int lanes = Isa::bytes / sizeof(T);
        const double wavelength = plane.wavelength;
        if (wavelength < 1 || plane.by_points) return add_points(plane, tile);
        const Bounds bounds{
            static_cast<double>(tile.x) / wavelength, static_cast<double>(tile.x + tile.columns - 1) / wavelength,
            static_cast<double>(tile.y) / wavelength, static_cast<double>(tile.y + tile.rows - 1) / wavelength};
        if (wavelength > kStencilWavelength || wavelength != std::floor(wavelength)) {
            return add_discs<Isa>(plane, bounds, tile, scratch.discs);
        }
        if (wavelength == 1) return add_stencils<Isa, 4>(plane, bounds, tile, scratch.weights());
        if (wavelength == 2) return add_stencils<Isa, 8>(plane, bounds, tile, scratch.weights());
        add_stencils<Isa, lanes>(plane, bounds, tile, scratch.weights());
    }
};

}  // namespace diffnoise
