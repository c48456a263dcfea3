#include "kl_map.h"

#include "elementary_vector.h"
#include "image_vector.h"
#include "images.h"
#include "isa.h"

namespace diffnoise {
namespace {

// What all pixels of a sample share. tail and precision: those of the fixed variance.
template <class T>
struct Shared {
    Shared(const double* row, double limit)
        : step(row, limit, 0),
          tail(exponential_tail(row[kLogVarianceSmall] - row[kLogVariance])),
          precision(std::exp(-row[kLogVariance])),
          posterior_precision(std::exp(-row[kLogVarianceSmall])),
          half_range(-0.5 * (row[kLogVarianceLarge] - row[kLogVarianceSmall])) {}

    Step<T> step;
    T tail, precision, posterior_precision, half_range;
};

// Where a run of pixels lies; variance may be null.
template <class Image>
struct Run {
    const Image *x_0, *x_t, *output, *variance;

    DN_HD void prefetch(int64_t i) const {
        __builtin_prefetch(x_0 + i);
        __builtin_prefetch(x_t + i);
        __builtin_prefetch(output + i);
        if (variance) __builtin_prefetch(variance + i);
    }
};

constexpr int kPrefetch = 2048;  // bytes ahead

// Means over channels of a run of `count` pixels; a channel's value is `stride` behind that of the one before.
struct MeanPixels {
    template <class Isa, class Image, class T>
    static DN_HD void run(const Shared<T>& of_sample, const Run<Image>& where, int64_t count, int64_t channels,
                          int64_t stride, T* out) {
        using V = Vector<Isa, T>;
        const Shared<T> shared = of_sample;
        const Run<Image> at = where;
        const V tail = broadcast<Isa>(shared.tail), precision = broadcast<Isa>(shared.precision),
                values = broadcast<Isa>(static_cast<T>(2 * channels));
        const auto pixels = [&](int64_t i, auto... part) __attribute__((always_inline)) {
            V sum{};
            for (int64_t channel = 0, j = i; channel < channels; ++channel, j += stride) {
                at.prefetch(j + kPrefetch / static_cast<int>(sizeof(Image)));
                const V x_t = load<Isa>(at.x_t + j, part...), output = load<Isa>(at.output + j, part...);
                const V predicted = clamp<Isa>(predicted_x_0<Isa>(shared.step, x_t, output), shared.step.limit);
                const V difference = shared.step.prev_from_x_0 * (load<Isa>(at.x_0 + j, part...) - predicted);
                if (at.variance) {
                    // l_q - l_p straight from v: no digits of the bounds cancel.
                    const V gap = shared.half_range * (load<Isa>(at.variance + j, part...) + T(1));
                    V ratio, learned_tail;
                    exponential_and_tail<Isa>(gap, ratio, learned_tail);
                    sum += twice_kl<Isa>(learned_tail, shared.posterior_precision * ratio, difference);
                } else {
                    sum += twice_kl<Isa>(tail, precision, difference);
                }
            }
            store<Isa>(out + i, V(sum / values), part...);
        };
        constexpr int size = register_size<Isa, Image>;
        int64_t i = 0;
        for (; i + size <= count; i += size) pixels(i);
        if (i < count) pixels(i, 0, static_cast<int>(count - i));
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
    const Images<Image> x_0(inputs.x_0, shape, "x_0"), x_t(inputs.x_t, shape, "x_t"),
        output(inputs.model_output, shape, "model_output");
    const OptionalImages<Image> variance(inputs.variance, shape, "variance");
    const Input<int64_t> t(inputs.t, {shape.batch}, "t");
    const std::vector<double> rows = table_rows(inputs.table, t, shape.batch);
    const int64_t pixels = shape.height * shape.width, channels = shape.channels;

    parallel_for_samples(shape.batch, pixels, 1 << 13, [&](int64_t sample, int64_t begin, int64_t end) {
        const Shared<T> shared(rows.data() + sample * kColumns, clip_limit(inputs.clip));
        const auto at = [&](int64_t i) {
            return Run<Image>{x_0.sample(sample) + i, x_t.sample(sample) + i, output.sample(sample) + i,
                              variance.at(sample, i)};
        };
        T* map = out + sample * pixels;
        if (!shape.channels_last) {
            run_best<MeanPixels>(shared, at(begin), end - begin, channels, pixels, map + begin);
            return;
        }
        // The divergences of some pixels' channels, side by side, and then their means.
        constexpr int64_t at_once = 256;
        std::vector<T> values(at_once * channels);
        for (; begin < end; begin += at_once) {
            const int64_t count = std::min(at_once, end - begin);
            run_best<MeanPixels>(shared, at(begin * channels), count * channels, 1, 0, values.data());
            for (int64_t i = 0; i < count; ++i) {
                T sum = 0;
                for (int64_t channel = 0; channel < channels; ++channel) sum += values[i * channels + channel];
                map[begin + i] = sum / static_cast<T>(channels);
            }
        }
    });
}

void kl_map_out(Tensor x_0, Tensor x_t, Tensor model_output, Tensor t, Tensor table, std::optional<Tensor> variance,
                std::optional<double> clip, Tensor out) {
    const Shape shape(x_t);
    Shape map = shape;
    map.channels = 1, map.channels_last = false;
    const Inputs inputs{x_0, x_t, model_output, t, table, variance, clip};
    dispatch_floating(x_t.scalar_type(), [&](auto zero) {
        using Image = decltype(zero);
        using T = compute_t<Image>;
        fill<T>(out, map, [&](T* memory) { kl_map_kernel<Image>(inputs, shape, memory); });
    });
}

Tensor kl_map(Tensor x_0, Tensor x_t, Tensor model_output, Tensor t, Tensor table, std::optional<Tensor> variance,
              std::optional<double> clip) {
    const Shape shape(x_t);
    // A half would overflow where the prediction is poor and t small.
    const ScalarType dtype = x_t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    Tensor out = empty({shape.batch, 1, shape.height, shape.width}, dtype, x_t);
    kl_map_out(x_0, x_t, model_output, t, table, variance, clip, out);
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) {
    m.impl("kl_map", TORCH_BOX(&diffnoise::kl_map));
    m.impl("kl_map.out", TORCH_BOX(&diffnoise::kl_map_out));
}
