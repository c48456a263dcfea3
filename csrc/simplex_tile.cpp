#include "simplex_tile.h"

#include "gather.h"

namespace diffnoise {
namespace {

// An octave whose lattice is finer than the pixels: point by point.
template <class Isa, int D, class T>
DN_HD void add_points(const Plane<D>& plane, const Tile<T>& tile) {
    const gather::HashTables<D> tables(plane.tables->permutation);
    const std::int64_t columns = tile.columns - tile.skip, pixels = tile.rows * columns;
    const double step = 1 / plane.wavelength;
    for (std::int64_t begin = 0; begin < pixels; begin += gather::kBatch) {
        const std::int64_t length = std::min<std::int64_t>(gather::kBatch, pixels - begin);
        alignas(64) gather::Batch<double> p[D] = {};
        alignas(64) gather::Batch<T> sums = {};
        T* at[gather::kBatch];
        for (std::int64_t i = 0; i < length; ++i) {
            const std::int64_t row = (begin + i) / columns, column = tile.skip + (begin + i) % columns;
            p[0][i] = static_cast<double>(tile.x + column) * step + plane.shift[0];
            p[1][i] = static_cast<double>(tile.y + row) * step + plane.shift[1];
            for (int axis = 2; axis < D; ++axis) p[axis][i] = plane.constant[axis - 2];
            at[i] = tile.sum + row * tile.stride + column;
        }
        gather::add_lattice_sums<Isa, D>(p, plane.amplitude, tables, static_cast<T*>(sums));
        for (std::int64_t i = 0; i < length; ++i) *at[i] += sums[i];
    }
}

template <int D>
struct AddOctave {
    template <class Isa, class T>
    static DN_HD void run(const Plane<D>& plane, const Tile<T>& tile, Scratch<T>& scratch) {
        const double wavelength = plane.wavelength;
        if (wavelength < 1) return add_points<Isa>(plane, tile);
        const Bounds bounds{
            static_cast<double>(tile.x) / wavelength, static_cast<double>(tile.x + tile.columns - 1) / wavelength,
            static_cast<double>(tile.y) / wavelength, static_cast<double>(tile.y + tile.rows - 1) / wavelength};
        if (is_diagonal(wavelength)) return add_diagonals<Isa>(plane, bounds, tile, scratch.diagonals);
        if (is_stencil(wavelength, tile)) return add_stencils<Isa>(plane, bounds, tile, scratch.weights.data());
        add_discs<Isa>(plane, bounds, tile, scratch.discs);
    }
};

}  // namespace

template <int D, class T>
void add_octave(const Plane<D>& plane, const Tile<T>& tile, Scratch<T>& scratch) {
    run_best<AddOctave<D>>(plane, tile, scratch);
}

template void add_octave(const Plane<2>&, const Tile<float>&, Scratch<float>&);
template void add_octave(const Plane<3>&, const Tile<float>&, Scratch<float>&);
template void add_octave(const Plane<4>&, const Tile<float>&, Scratch<float>&);
template void add_octave(const Plane<2>&, const Tile<double>&, Scratch<double>&);
template void add_octave(const Plane<3>&, const Tile<double>&, Scratch<double>&);
template void add_octave(const Plane<4>&, const Tile<double>&, Scratch<double>&);

}  // namespace diffnoise
