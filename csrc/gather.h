#pragma once

// CPU: the gather form of OpenSimplex for a batch of points at once. A point's sum depends on that point alone, not on
// its place in the batch.

#include <cstdint>
#include <type_traits>

#include "gather_gradients.h"
#include "isa.h"
#include "simplex_noise_at.h"

namespace diffnoise::gather {

// Where the points lie in the lattice, and the ways to them from their cells' base points, plus 1.
template <class Isa, int D, class T>
DN_HD void place_points(const Batch<double>* p, bool original, Places<D>& places, Batch<T>* from_base) {
    alignas(64) Batch<std::int32_t> key[D + 1], first_place;
    constexpr int doubles = Isa::bytes / sizeof(double), integers = Isa::bytes / sizeof(std::int32_t);
    using Doubles = Lanes<double, doubles>;
    using Few = Lanes<std::int32_t, doubles>;
    using Values = Lanes<T, doubles>;
    using Integers = Lanes<std::int32_t, integers>;
    for (int i = 0; i < kBatch; i += doubles) {
        Doubles point[D];
        for (int axis = 0; axis < D; ++axis) point[axis] = load<Doubles>(p[axis] + i);
        const Cell<D, Doubles> cell(point);
        for (int axis = 0; axis < D; ++axis) {
            const Doubles wrapped = cell.base[axis] - 256 * round_down(cell.base[axis] * (1. / 256));
            store(from_base[axis] + i, __builtin_convertvector(cell.from_base[axis] + 1, Values));
            store(places.base[axis] + i, __builtin_convertvector(wrapped, Few) & 255);  // whatever becomes of a NaN
        }
        const Few region = __builtin_convertvector(cell.region, Few);
        const Few nearest = original ? __builtin_convertvector(nearest_corners(cell), Few) : Few{};
        for (int axis = 0; axis <= D; ++axis) {
            // The f to 2^-30: of two that differ by less, either order names all points in reach.
            store(key[axis] + i, original ? original_key<D>(nearest, region, axis)
                                          : __builtin_convertvector(cell.f[axis] * (1 << 30), Few));
        }
        store(first_place + i, (region - 1) * (D + 1));
    }
    for (int i = 0; i < kBatch; i += integers) {
        Integers f[D + 1], place[D + 1];
        for (int axis = 0; axis <= D; ++axis) {
            f[axis] = load<Integers>(key[axis] + i);
            place[axis] = load<Integers>(first_place + i);
        }
        for (int a = 0; a <= D; ++a) {
            for (int b = a + 1; b <= D; ++b) {
                const Integers later = f[b] > f[a];  // -1 where so
                place[a] -= later;
                place[b] += 1 + later;
            }
        }
        for (int axis = 0; axis < D; ++axis) store(places.place[axis] + i, place[axis]);
    }
}

// Adds amplitude * lattice_sum<D>(p, permutation, original) at every point p of the batch, [D][64], to sums, [64].
template <class Isa, int D, class T>
DN_HD void add_lattice_sums(const Batch<double>* p, double amplitude, const HashTables<D>& tables, T* sums,
                            bool original = false) {
    const WordVectors<D>& words = original ? kOriginalWords<D> : kAllWords<D>;
    const int count = original ? Corners<D>::original_count : Corners<D>::count;
    alignas(64) Batch<T> from_bases[D];
    Places<D> places;
    BatchGradients<D> gradients;
    place_points<Isa>(p, original, places, from_bases);
    find_gradients<Isa>(places, tables, original, gradients);

    // A register of integers goes with one of floats or two of doubles.
    constexpr int length = Isa::bytes / sizeof(std::int32_t), parts = sizeof(T) / sizeof(std::int32_t);
    constexpr int part_length = length / parts;
    using Integers = Lanes<std::int32_t, length>;
    using Floats = Lanes<T, part_length>;
    union Converted {
        Lanes<T, length> whole;
        Floats part[parts];
    };
    const T squish = static_cast<T>(kSquish<D>), squish_of_ones = static_cast<T>(D * kSquish<D>),
            scale = static_cast<T>(amplitude / Lattice<D>::norm);
    for (int i = 0; i < kBatch; i += length) {
        Integers place[D];
        Floats total[parts] = {};
        for (int axis = 0; axis < D; ++axis) place[axis] = load<Integers>(places.place[axis] + i);
        const Offsets<D, Integers> offsets(place);
        for (int n = 0; n < count; ++n) {
            const Integers picked = offsets.pick(words, n), packed = load<Integers>(gradients.components[n] + i);
            Converted offset[D], component[D];
#pragma GCC unroll 4
            for (int axis = 0; axis < D; ++axis) {
                offset[axis].whole = __builtin_convertvector(offsets.along(axis, picked), Lanes<T, length>);
                component[axis].whole = __builtin_convertvector(packed << 8 * (D - 1 - axis) >> 24, Lanes<T, length>);
            }
#pragma GCC unroll 2
            for (int part = 0; part < parts; ++part) {
                Floats sum = offset[0].part[part], left = Floats{} + static_cast<T>(kRadiusSquared), product = {};
#pragma GCC unroll 4
                for (int axis = 1; axis < D; ++axis) sum += offset[axis].part[part];
                const Floats squished = multiply_add<Isa>(Floats{} - squish, sum, Floats{} + squish_of_ones);
#pragma GCC unroll 4
                for (int axis = 0; axis < D; ++axis) {
                    const Floats from_base = load<Floats>(from_bases[axis] + i + part * part_length);
                    const Floats d = from_base - offset[axis].part[part] + squished;
                    left = multiply_add<Isa>(-d, d, left);
                    product = multiply_add<Isa>(component[axis].part[part], d, product);
                }
                left = left <= 0 ? Floats{} : left;  // a NaN must stay in
                left *= left;
                total[part] = multiply_add<Isa>(left * left, product, total[part]);
            }
        }
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part) {
            T* sum = sums + i + part * part_length;
            store(sum, multiply_add<Isa>(Floats{} + scale, total[part], load<Floats>(sum)));
        }
    }
}

}  // namespace diffnoise::gather
