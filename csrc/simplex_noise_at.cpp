#include "simplex_noise_at.h"

#include <algorithm>

#include "gather.h"
#include "stable.h"

namespace diffnoise {
namespace {

struct Fractal {
    int64_t octaves;
    double persistence, gain;
    bool shift, original;
};

// Adds all octaves at a batch of points, [D][64], to sums, [64].
template <int D, class T>
struct AddOctaves {
    template <class Isa>
    static DN_HD void run(const gather::Batch<double>* points, int64_t seed, const gather::HashTables<D>& tables,
                          const Fractal& fractal, T* sums) {
        alignas(64) gather::Batch<double> p[D];
        double amplitude = fractal.gain, scale = 1, origin[D] = {};
        for (int64_t octave = 0; octave < fractal.octaves; ++octave) {
            if (fractal.shift) octave_shift<D>(seed, octave, origin);
            for (int axis = 0; axis < D; ++axis) {
                for (int i = 0; i < gather::kBatch; ++i) p[axis][i] = points[axis][i] * scale + origin[axis];
            }
            gather::add_lattice_sums<Isa, D>(p, amplitude, tables, sums, fractal.original);
            amplitude *= fractal.persistence;
            scale *= 2;
        }
    }
};

// Fractal noise at points [count, D] of one sample.
template <int D, class In, class Out>
void fill(const In* points, int64_t count, int64_t seed, const Fractal& fractal, Out* out) {
    using T = compute_t<Out>;
    uint8_t permutation[256];
    make_permutation(seed, permutation);
    const gather::HashTables<D> tables(permutation);
    for (int64_t begin = 0; begin < count; begin += gather::kBatch) {
        const int length = static_cast<int>(std::min<int64_t>(gather::kBatch, count - begin));
        alignas(64) gather::Batch<double> batch[D] = {};
        alignas(64) gather::Batch<T> sums = {};
        for (int i = 0; i < length; ++i) {
            for (int axis = 0; axis < D; ++axis) batch[axis][i] = static_cast<double>(points[(begin + i) * D + axis]);
        }
        run_best<AddOctaves<D, T>>(batch, seed, tables, fractal, static_cast<T*>(sums));
        for (int i = 0; i < length; ++i) out[begin + i] = static_cast<Out>(sums[i]);
    }
}

template <int D, class In>
void simplex_noise_at_kernel(const Tensor& points, const Tensor& seeds, const Fractal& fractal, const Tensor& out,
                             ScalarType dtype) {
    const int64_t batch = points.size(0), count = points.size(1);
    const Input<In> at(points, "points");
    const Input<int64_t> seed(seeds, {batch}, "seeds");
    dispatch_floating(dtype, [&](auto zero) {
        auto* data = static_cast<decltype(zero)*>(out.mutable_data_ptr());
        parallel_for(0, batch * count, 256, [&](int64_t begin, int64_t end) {
            while (begin < end) {
                const int64_t sample = begin / count, stop = std::min(end, (sample + 1) * count);
                fill<D>(at.data() + begin * D, stop - begin, seed[sample], fractal, data + begin);
                begin = stop;
            }
        });
    });
}

Tensor simplex_noise_at(Tensor points, Tensor seeds, int64_t octaves, double persistence, double gain, bool shift,
                        bool original, ScalarType dtype) {
    STD_TORCH_CHECK(points.dim() == 3, "points must have shape [B, N, D].");
    const int64_t dims = points.size(2);
    STD_TORCH_CHECK(dims >= 2 && dims <= 4, "points must have shape [B, N, D] with D = 2, 3 or 4.");
    Tensor out = empty({points.size(0), points.size(1)}, dtype, points);
    const Fractal fractal{octaves, persistence, gain, shift, original};
    const auto run = [&](auto zero) {
        using In = decltype(zero);
        if (dims == 2) simplex_noise_at_kernel<2, In>(points, seeds, fractal, out, dtype);
        if (dims == 3) simplex_noise_at_kernel<3, In>(points, seeds, fractal, out, dtype);
        if (dims == 4) simplex_noise_at_kernel<4, In>(points, seeds, fractal, out, dtype);
    };
    if (points.scalar_type() == ScalarType::Double)
        run(double{});
    else
        run(float{});
    return out;
}

}  // namespace
}  // namespace diffnoise

// For diffnoise.compat.opensimplex: one point, as the original sums it, without the cost of calling an op.
extern "C" __attribute__((visibility("default"))) void diffnoise_permutation(int64_t seed, uint8_t* table) {
    diffnoise::make_permutation(seed, table);
}
extern "C" __attribute__((visibility("default"))) double diffnoise_opensimplex(const uint8_t* permutation, int dims,
                                                                               double x, double y, double z, double w) {
    const double p[] = {x, y, z, w};
    return dims == 2   ? diffnoise::lattice_sum<2>(p, permutation, true)
           : dims == 3 ? diffnoise::lattice_sum<3>(p, permutation, true)
                       : diffnoise::lattice_sum<4>(p, permutation, true);
}

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("simplex_noise_at", TORCH_BOX(&diffnoise::simplex_noise_at)); }
