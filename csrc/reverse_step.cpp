#include "reverse_step.h"

#include "gaussian_row.h"
#include "images.h"
#include "isa.h"

namespace diffnoise {
namespace {

// One row of pixels. Z: the noise's type; variance and noise may be null.
struct StepRow {
    template <class Isa, class Image, class Z, class T>
    static DN_HD void run(const T* row, T limit, const Image* x_t, const Image* output, const Image* variance,
                          const Z* noise, int64_t width, Image* out) {
        if (!noise) {
            for (int64_t i = 0; i < width; ++i) {
                out[i] =
                    static_cast<Image>(reverse_mean(row, static_cast<T>(x_t[i]), static_cast<T>(output[i]), limit));
            }
        } else if (!variance) {
            for (int64_t i = 0; i < width; ++i) {
                const T mean = reverse_mean(row, static_cast<T>(x_t[i]), static_cast<T>(output[i]), limit);
                out[i] = static_cast<Image>(mean + row[kSigma] * static_cast<T>(noise[i]));
            }
        } else {
            for (int64_t i = 0; i < width; ++i) {
                const T mean = reverse_mean(row, static_cast<T>(x_t[i]), static_cast<T>(output[i]), limit);
                const T sigma = row[kSigma] * learned_deviation(row, static_cast<T>(variance[i]));
                out[i] = static_cast<Image>(mean + sigma * static_cast<T>(noise[i]));
            }
        }
    }
};

struct Inputs {
    Tensor x_t, model_output, t, table;
    std::optional<Tensor> variance, noise, seeds, origins;
    std::optional<double> clip;
};

template <class Image>
void reverse_step_kernel(const Inputs& inputs, const Shape& shape, Image* out) {
    using T = compute_t<Image>;
    const auto x_t = image<Image>(inputs.x_t, shape, "x_t");
    const auto output = image<Image>(inputs.model_output, shape, "model_output");
    const auto variance = image<Image>(inputs.variance, shape, "variance");
    const auto noise = image<Image>(inputs.noise, shape, "noise");
    const Input<int64_t> t(inputs.t, {shape.batch}, "t");
    std::optional<Input<int64_t>> seeds, origins;
    if (inputs.seeds) seeds.emplace(*inputs.seeds, std::initializer_list<int64_t>{shape.batch}, "seeds");
    if (inputs.origins) origins.emplace(*inputs.origins, std::initializer_list<int64_t>{shape.batch, 2}, "origins");
    const std::vector<double> table = table_rows(inputs.table, t, shape.batch);
    const std::vector<T> rows(table.begin(), table.end());
    const T limit = clip_limit<T>(inputs.clip);
    if (shape.width == 0) return;

    const int64_t width = shape.width, count = shape.batch * shape.channels * shape.height;
    parallel_for(0, count, 1 + (1 << 14) / width, [&](int64_t begin, int64_t end) {
        GaussianRow<T> normals(width);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t map = i / shape.height, sample = map / shape.channels, at = i * width;
            const T* row = rows.data() + sample * kColumns;
            const Image* v = variance ? variance->data() + at : nullptr;
            if (seeds) {
                const int64_t y = (origins ? (*origins)[2 * sample] : 0) + i % shape.height;
                const int64_t x = origins ? (*origins)[2 * sample + 1] : 0;
                const Address address((*seeds)[sample], t[sample], map % shape.channels, y, kStreamReverse);
                const T* z = normals(address, x);
                run_best<StepRow>(row, limit, x_t.data() + at, output.data() + at, v, z, width, out + at);
            } else {
                const Image* z = noise ? noise->data() + at : nullptr;
                run_best<StepRow>(row, limit, x_t.data() + at, output.data() + at, v, z, width, out + at);
            }
        }
    });
}

Tensor reverse_step(Tensor x_t, Tensor model_output, Tensor t, Tensor table, std::optional<Tensor> variance,
                    std::optional<Tensor> noise, std::optional<Tensor> seeds, std::optional<Tensor> origins,
                    std::optional<double> clip) {
    const Shape shape(x_t);
    Tensor out = empty({shape.batch, shape.channels, shape.height, shape.width}, x_t.scalar_type(), x_t);
    const Inputs inputs{x_t, model_output, t, table, variance, noise, seeds, origins, clip};
    dispatch_floating(x_t.scalar_type(), [&](auto zero) {
        reverse_step_kernel(inputs, shape, static_cast<decltype(zero)*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("reverse_step", TORCH_BOX(&diffnoise::reverse_step)); }
