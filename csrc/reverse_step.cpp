#include "reverse_step.h"

#include "elementary_vector.h"
#include "gaussian_row.h"
#include "image_vector.h"
#include "images.h"

namespace diffnoise {
namespace {

// Where a run of pixels lies; variance, target and noise may be null. Z: the noise's type.
template <class Image, class Z = Image>
struct Run {
    const Image *x_t, *output, *variance, *target;
    const Z* noise;
    Image* out;
};

// The register of pixels at i. z: its noise, or null. part: the range of pixels in it that count, if not all.
template <class Isa, class Image, class Z, class T, class... Part>
DN_HD void step_register(const Step<T>& step, const Run<Image, Z>& at, int64_t i, const Vector<Isa, T>* z,
                         Part... part) {
    using V = Vector<Isa, T>;
    const V x_t = load<Isa>(at.x_t + i, part...), output = load<Isa>(at.output + i, part...);
    V value;
    if (at.target) {
        value = reverse_mean(step, x_t, output, V(load<Isa>(at.target + i, part...)));
    } else {
        value = reverse_mean(step, x_t, output);
    }
    if (z) {
        V sigma = broadcast<Isa>(step.sigma);
        if (at.variance) {
            const V v = load<Isa>(at.variance + i, part...);
            sigma *= exponential<Isa>(T(0.5) * learned_log_variance(step, v));
        }
        value += sigma * *z;
    }
    store<Isa>(at.out + i, value, part...);
}

struct StepPixels {
    template <class Isa, class Image, class Z, class T>
    static DN_HD void run(const Step<T>& shared, const Run<Image, Z>& where, int64_t count) {
        const Step<T> step = shared;
        const Run<Image, Z> at = where;
        const auto pixels = [&](int64_t i, auto... part) __attribute__((always_inline)) {
            if (at.noise) {
                const Vector<Isa, T> z = load<Isa>(at.noise + i, part...);
                step_register<Isa>(step, at, i, &z, part...);
            } else {
                step_register<Isa>(step, at, i, static_cast<const Vector<Isa, T>*>(nullptr), part...);
            }
        };
        constexpr int size = register_size<Isa, Image>;
        int64_t i = 0;
        for (; i + size <= count; i += size) pixels(i);
        if (i < count) pixels(i, 0, static_cast<int>(count - i));
    }
};

// Takes the noise as `NormalRows` makes it.
template <class Image>
struct StepSink {
    template <class Isa, class... Part>
    DN_HD void put(int64_t i, Vector<Isa, float> z, Part... part) const {
        step_register<Isa>(step, at, i, &z, part...);
    }
    DN_HD void prefetch(int64_t i) const {
        __builtin_prefetch(at.x_t + i);
        __builtin_prefetch(at.output + i);
        if (at.variance) __builtin_prefetch(at.variance + i);
        if (at.target) __builtin_prefetch(at.target + i);
        __builtin_prefetch(at.out + i, 1);
    }

    Step<float> step;
    Run<Image> at;
};

struct Inputs {
    Tensor x_t, model_output, t, table;
    std::optional<Tensor> variance, noise, seeds, origins;
    std::optional<double> clip;
    std::optional<Tensor> target;
    double guidance;
};

template <class Image>
struct Batch {
    using T = compute_t<Image>;

    Batch(const Inputs& inputs, const Shape& shape)
        : shape(shape),
          x_t(inputs.x_t, shape, "x_t"),
          output(inputs.model_output, shape, "model_output"),
          variance(inputs.variance, shape, "variance"),
          target(inputs.target, shape, "target"),
          noise(inputs.noise, shape, "noise"),
          t(inputs.t, {shape.batch}, "t"),
          steps(
              diffnoise::steps<T>(table_rows(inputs.table, t, shape.batch), clip_limit(inputs.clip), inputs.guidance)) {
        if (inputs.seeds) seeds.emplace(*inputs.seeds, std::initializer_list<int64_t>{shape.batch}, "seeds");
        if (inputs.origins) origins.emplace(*inputs.origins, std::initializer_list<int64_t>{shape.batch, 2}, "origins");
    }

    // The pixels from the i-th value of a sample on.
    Run<Image> run(int64_t sample, int64_t i, Image* out) const {
        return {x_t.sample(sample) + i, output.sample(sample) + i, variance.at(sample, i),
                target.at(sample, i),   noise.at(sample, i),       out + sample * shape.sample() + i};
    }
    Address address(int64_t sample, int64_t channel, int64_t y) const {
        return Address((*seeds)[sample], t[sample], channel, (origins ? (*origins)[2 * sample] : 0) + y,
                       kStreamReverse);
    }
    int64_t x(int64_t sample) const { return origins ? (*origins)[2 * sample + 1] : 0; }

    const Shape& shape;
    Images<Image> x_t, output;
    OptionalImages<Image> variance, target, noise;
    Input<int64_t> t;
    std::vector<Step<T>> steps;
    std::optional<Input<int64_t>> seeds, origins;
};

template <class Image>
void with_given_noise(const Batch<Image>& batch, Image* out) {
    parallel_for_samples(batch.shape.batch, batch.shape.sample(), 1 << 14, [&](int64_t sample, int64_t i, int64_t end) {
        run_best<StepPixels>(batch.steps[sample], batch.run(sample, i, out), end - i);
    });
}

// Rows of one channel, or of all channels where these lie side by side.
template <class Image>
void with_own_noise(const Batch<Image>& batch, Image* out) {
    using T = compute_t<Image>;
    const Shape& shape = batch.shape;
    const int64_t depth = shape.channels_last ? shape.channels : 1, groups = shape.channels / depth;
    const int64_t length = shape.width * depth, rows = groups * shape.height;
    parallel_for_samples(shape.batch, rows, 1 + (1 << 14) / length, [&](int64_t sample, int64_t row, int64_t end) {
        std::vector<GaussianRow<T>> normals(depth, GaussianRow<T>(shape.width));
        std::vector<T> beside(depth == 1 ? 0 : length);
        while (row < end) {
            const int64_t group = row / shape.height, y = row % shape.height;
            const Run<Image> at = batch.run(sample, row * length, out);
            if constexpr (std::is_same_v<T, float>) {
                if (!shape.channels_last) {
                    const int64_t count = std::min(shape.height - y, end - row);
                    run_best<NormalRows>(batch.address(sample, group, y), batch.x(sample), count, length,
                                         StepSink<Image>{batch.steps[sample], at});
                    row += count;
                    continue;
                }
            }
            const T* z = normals[0](batch.address(sample, group, y), batch.x(sample));
            if (depth > 1) {
                for (int64_t channel = 0; channel < depth; ++channel) {
                    z = normals[channel](batch.address(sample, channel, y), batch.x(sample));
                    for (int64_t x = 0; x < shape.width; ++x) beside[x * depth + channel] = z[x];
                }
                z = beside.data();
            }
            run_best<StepPixels>(batch.steps[sample],
                                 Run<Image, T>{at.x_t, at.output, at.variance, at.target, z, at.out}, length);
            ++row;
        }
    });
}

void reverse_step_out(Tensor x_t, Tensor model_output, Tensor t, Tensor table, std::optional<Tensor> variance,
                      std::optional<Tensor> noise, std::optional<Tensor> seeds, std::optional<Tensor> origins,
                      std::optional<double> clip, std::optional<Tensor> target, double guidance, Tensor out) {
    const Shape shape(x_t);
    const Inputs inputs{x_t, model_output, t, table, variance, noise, seeds, origins, clip, target, guidance};
    dispatch_floating(x_t.scalar_type(), [&](auto zero) {
        using Image = decltype(zero);
        const Batch<Image> batch(inputs, shape);
        fill<Image>(out, shape, [&](Image* memory) {
            if (shape.empty()) return;
            if (seeds) {
                with_own_noise(batch, memory);
            } else {
                with_given_noise(batch, memory);
            }
        });
    });
}

Tensor reverse_step(Tensor x_t, Tensor model_output, Tensor t, Tensor table, std::optional<Tensor> variance,
                    std::optional<Tensor> noise, std::optional<Tensor> seeds, std::optional<Tensor> origins,
                    std::optional<double> clip, std::optional<Tensor> target, double guidance) {
    Tensor out = empty(Shape(x_t), x_t.scalar_type(), x_t);
    reverse_step_out(x_t, model_output, t, table, variance, noise, seeds, origins, clip, target, guidance, out);
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) {
    m.impl("reverse_step", TORCH_BOX(&diffnoise::reverse_step));
    m.impl("reverse_step.out", TORCH_BOX(&diffnoise::reverse_step_out));
}
