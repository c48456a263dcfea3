#include "kl_map.h"

#include "images.h"
#include "isa.h"

namespace diffnoise {
namespace {

// What all pixels of a sample share. tail and precision: those of the fixed variance.
template <class T>
struct Shared {
    const T* row;
    T limit, tail, precision, posterior_precision;
};

// Adds one channel's row of pixels to sum; variance may be null.
struct AddRow {
    template <class Isa, class Image, class T>
    static DN_HD void run(const Shared<T>& shared, const Image* x_0, const Image* x_t, const Image* output,
                          const Image* variance, int64_t width, T* sum) {
        const T *row = shared.row, limit = shared.limit;
        const auto difference = [&](int64_t i) __attribute__((always_inline)) {
            const T predicted = predicted_x_0(row, static_cast<T>(x_t[i]), static_cast<T>(output[i]), limit);
            return row[kPrevFromX0] * (static_cast<T>(x_0[i]) - predicted);
        };
        if (variance) {
            // l_q - l_p straight from v: no digits of the bounds cancel.
            const T range = T(-0.5) * (row[kLogVarianceLarge] - row[kLogVarianceSmall]);
            for (int64_t i = 0; i < width; ++i) {
                const T gap = range * (static_cast<T>(variance[i]) + T(1));
                sum[i] += kl(exponential_tail(gap), shared.posterior_precision * exponential(gap), difference(i));
            }
        } else {
            for (int64_t i = 0; i < width; ++i) sum[i] += kl(shared.tail, shared.precision, difference(i));
        }
    }
};

struct Inputs {
    Tensor x_0, x_t, model_output, t, table;
    std::optional<Tensor> variance;
    std::optional<double> clip;
};

template <class Image>
void kl_map_kernel(const Inputs& inputs, const Shape& shape, compute_t<Image>* out) {
    using T = compute_t<Image>;
    const auto x_0 = image<Image>(inputs.x_0, shape, "x_0");
    const auto x_t = image<Image>(inputs.x_t, shape, "x_t");
    const auto output = image<Image>(inputs.model_output, shape, "model_output");
    const auto variance = image<Image>(inputs.variance, shape, "variance");
    const Input<int64_t> t(inputs.t, {shape.batch}, "t");
    const std::vector<double> table = table_rows(inputs.table, t, shape.batch);
    const std::vector<T> rows(table.begin(), table.end());
    const T limit = clip_limit<T>(inputs.clip);
    if (shape.width == 0) return;

    const int64_t width = shape.width;
    parallel_for(0, shape.batch * shape.height, 1 + (1 << 13) / width, [&](int64_t begin, int64_t end) {
        std::vector<T> sum(width);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t sample = i / shape.height, y = i % shape.height;
            const double* bounds = table.data() + sample * kColumns;
            const Shared<T> shared{rows.data() + sample * kColumns, limit,
                                   static_cast<T>(exponential_tail(bounds[kLogVarianceSmall] - bounds[kLogVariance])),
                                   static_cast<T>(std::exp(-bounds[kLogVariance])),
                                   static_cast<T>(std::exp(-bounds[kLogVarianceSmall]))};
            std::fill(sum.begin(), sum.end(), T(0));
            for (int64_t channel = 0; channel < shape.channels; ++channel) {
                const int64_t at = ((sample * shape.channels + channel) * shape.height + y) * width;
                run_best<AddRow>(shared, x_0.data() + at, x_t.data() + at, output.data() + at,
                                 variance ? variance->data() + at : nullptr, width, sum.data());
            }
            const T channels = static_cast<T>(shape.channels);
            for (int64_t x = 0; x < width; ++x) out[i * width + x] = sum[x] / channels;
        }
    });
}

Tensor kl_map(Tensor x_0, Tensor x_t, Tensor model_output, Tensor t, Tensor table, std::optional<Tensor> variance,
              std::optional<double> clip) {
    const Shape shape(x_t);
    // A half would overflow where the prediction is poor and t small.
    const ScalarType dtype = x_t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    Tensor out = empty({shape.batch, 1, shape.height, shape.width}, dtype, x_t);
    const Inputs inputs{x_0, x_t, model_output, t, table, variance, clip};
    dispatch_floating(x_t.scalar_type(), [&](auto zero) {
        using Image = decltype(zero);
        kl_map_kernel<Image>(inputs, shape, static_cast<compute_t<Image>*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("kl_map", TORCH_BOX(&diffnoise::kl_map)); }
