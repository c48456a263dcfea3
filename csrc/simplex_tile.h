#pragma once

// CPU: what an octave of OpenSimplex adds to a tile of a map.
//
// On a map every coordinate but x and y is constant, and each lattice point near that plane reaches a disc of pixels.
// So the lattice points are walked and each adds its kernel to its pixels: its gradient is looked up once, not once per
// pixel. A pixel's sum does not depend on the tile: positions are computed from the lattice alone, and terms are added
// in the lattice's order.

#include "aligned_buffer.h"
#include "diagonals.h"
#include "discs.h"
#include "stencils.h"

namespace diffnoise {

// Room for what an octave needs on the way.
template <class T>
struct Scratch {
    Discs<T> discs;
    AlignedBuffer<T> weights{kStencilWeights};
    DiagonalScratch<T> diagonals;
};

// Adds an octave to a tile.
template <int D, class T>
void add_octave(const Plane<D>& plane, const Tile<T>& tile, Scratch<T>& scratch);

}  // namespace diffnoise
