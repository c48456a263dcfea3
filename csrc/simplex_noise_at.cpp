#include "simplex_noise_at.h"

#include <vector>

#include "stable.h"

namespace diffnoise {
namespace {

struct Fractal {
    int64_t octaves;
    double persistence, gain;
    bool shift;
};

template <int D>
DN_CLONES double fractal_sum(const double* point, int64_t seed, const uint8_t* permutation, const Fractal& fractal) {
    double total = 0, amplitude = fractal.gain, scale = 1, p[D], origin[D] = {};
    for (int64_t octave = 0; octave < fractal.octaves; ++octave) {
        if (fractal.shift) octave_shift<D>(seed, octave, origin);
        for (int axis = 0; axis < D; ++axis) p[axis] = point[axis] * scale + origin[axis];
        total += amplitude * lattice_sum<D>(p, permutation);
        amplitude *= fractal.persistence;
        scale *= 2;
    }
    return total;
}

template <class In>
void simplex_noise_at_kernel(const Tensor& points, const Tensor& seeds, const Fractal& fractal, const Tensor& out,
                             ScalarType dtype) {
    const int64_t batch = points.size(0), count = points.size(1), dims = points.size(2);
    const Input<In> at(points, "points");
    const Input<int64_t> seed(seeds, {batch}, "seeds");
    std::vector<uint8_t> permutations(batch * 256);
    for (int64_t i = 0; i < batch; ++i) make_permutation(seed[i], permutations.data() + i * 256);
    dispatch_floating(dtype, [&](auto zero) {
        using Out = decltype(zero);
        Out* data = static_cast<Out*>(out.mutable_data_ptr());
        parallel_for(0, batch * count, 256, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                double p[4];
                for (int64_t axis = 0; axis < dims; ++axis) p[axis] = static_cast<double>(at[i * dims + axis]);
                const uint8_t* permutation = permutations.data() + i / count * 256;
                const double value = dims == 2   ? fractal_sum<2>(p, seed[i / count], permutation, fractal)
                                     : dims == 3 ? fractal_sum<3>(p, seed[i / count], permutation, fractal)
                                                 : fractal_sum<4>(p, seed[i / count], permutation, fractal);
                data[i] = static_cast<Out>(static_cast<compute_t<Out>>(value));
            }
        });
    });
}

Tensor simplex_noise_at(Tensor points, Tensor seeds, int64_t octaves, double persistence, double gain, bool shift,
                        ScalarType dtype) {
    STD_TORCH_CHECK(points.dim() == 3 && points.size(2) >= 2 && points.size(2) <= 4,
                    "points must have shape [B, N, D] with D = 2, 3 or 4.");
    Tensor out = empty({points.size(0), points.size(1)}, dtype, points);
    const Fractal fractal{octaves, persistence, gain, shift};
    if (points.scalar_type() == ScalarType::Double) {
        simplex_noise_at_kernel<double>(points, seeds, fractal, out, dtype);
    } else {
        simplex_noise_at_kernel<float>(points, seeds, fractal, out, dtype);
    }
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("simplex_noise_at", TORCH_BOX(&diffnoise::simplex_noise_at)); }
