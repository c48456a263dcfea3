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

    // The same, where the compiler is to know that there is no variance or no target.
    template <bool learned, bool guided>
    DN_HD Run known() const {
        return {x_t, output, learned ? variance : nullptr, guided ? target : nullptr, noise, out};
    }

    DN_HD void prefetch(int64_t i, bool written) const {
        __builtin_prefetch(x_t + i);
        __builtin_prefetch(output + i);
        if (variance) __builtin_prefetch(variance + i);
        if (target) __builtin_prefetch(target + i);
        if (noise) __builtin_prefetch(noise + i);
        if (written) __builtin_prefetch(out + i, 1);
    }
};

constexpr int kPrefetch = 2048;         // bytes ahead
constexpr int64_t kStreamed = 4 << 20;  // bytes of a result, from which on it is not kept in the caches

// The register of pixels at i with the noise z, or null. part: the range of pixels in it that count, if not all.
template <class Isa, class Image, class Z, class T, class... Part>
DN_HD Vector<Isa, T> stepped(const Step<T>& step, const Run<Image, Z>& at, int64_t i, const Vector<Isa, T>* z,
                             Part... part) {
    using V = Vector<Isa, T>;
    const V x_t = load<Isa>(at.x_t + i, part...), output = load<Isa>(at.output + i, part...);
    V value;
    if (at.target) {
        const V target = load<Isa>(at.target + i, part...);
        value = reverse_mean<Isa>(step, x_t, output, &target);
    } else {
        value = reverse_mean<Isa, T>(step, x_t, output, nullptr);
    }
    if (!z) return value;
    V sigma = broadcast<Isa>(step.sigma);
    if (at.variance) {
        const V v = load<Isa>(at.variance + i, part...);
        sigma *= exponential<Isa>(learned_log_sigma<Isa>(step, v));
    }
    return multiply_add<Isa>(sigma, *z, value);
}

// streaming: the result goes past the caches.
template <bool streaming>
struct StepPixels {
    template <class Isa, class Image, class Z, class T>
    static DN_HD void run(const Step<T>& shared, const Run<Image, Z>& where, int64_t count) {
        const Step<T> step = shared;
        const Run<Image, Z> at = where;
        constexpr int size = register_size<Isa, Image>;
        const auto value = [&](int64_t i, auto... part) __attribute__((always_inline)) {
            if (!at.noise) return stepped<Isa>(step, at, i, static_cast<const Vector<Isa, T>*>(nullptr), part...);
            const Vector<Isa, T> z = load<Isa>(at.noise + i, part...);
            return stepped<Isa>(step, at, i, &z, part...);
        };
        const int head = streaming ? static_cast<int>(std::min<int64_t>(before_boundary<Isa>(at.out), count)) : 0;
        if (head > 0) store<Isa>(at.out, value(0, 0, head), 0, head);
        int64_t i = head;
        for (; i + size <= count; i += size) {
            at.prefetch(i + kPrefetch / static_cast<int>(sizeof(Image)), !streaming);
            const Vector<Isa, T> values = value(i);
            if constexpr (streaming) {
                stream<Isa>(at.out + i, values);
            } else {
                store<Isa>(at.out + i, values);
            }
        }
        const int rest = static_cast<int>(count - i);
        if (rest > 0) store<Isa>(at.out + i, value(i, 0, rest), 0, rest);
        if constexpr (streaming) end_of_stream();
    }
};

// Takes the noise as `NormalRows` makes it.
template <class Image, bool learned, bool guided>
struct StepSink {
    template <class Isa, class... Part>
    DN_HD void put(int64_t i, Vector<Isa, float> z, Part... part) const {
        store<Isa>(at.out + i, stepped<Isa>(step, at.template known<learned, guided>(), i, &z, part...), part...);
    }
    DN_HD void prefetch(int64_t i) const { at.template known<learned, guided>().prefetch(i, true); }

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
    // Whether the result is to go past the caches, which it would not fit and which an input in its place already
    // fills.
    bool streams(const Image* out) const {
        return shape.batch * shape.sample() * static_cast<int64_t>(sizeof(Image)) >= kStreamed &&
               out != x_t.sample(0) && out != output.sample(0) && out != target.at(0, 0) && out != noise.at(0, 0);
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
        const Run<Image> run = batch.run(sample, i, out);
        if (batch.streams(out)) {
            run_best<StepPixels<true>>(batch.steps[sample], run, end - i);
        } else {
            run_best<StepPixels<false>>(batch.steps[sample], run, end - i);
        }
    });
}

// The noise stays in registers: float, and rows of one channel.
template <bool learned, bool guided, class Image>
void with_noise_in_registers(const Batch<Image>& batch, Image* out) {
    const Shape& shape = batch.shape;
    const int64_t rows = shape.channels * shape.height, grain = 1 + (1 << 14) / shape.width;
    parallel_for_samples(shape.batch, rows, grain, [&](int64_t sample, int64_t row, int64_t end) {
        while (row < end) {
            const int64_t channel = row / shape.height, y = row % shape.height;
            const int64_t count = std::min(shape.height - y, end - row);
            const StepSink<Image, learned, guided> sink{batch.steps[sample], batch.run(sample, row * shape.width, out)};
            run_best<NormalRows>(batch.address(sample, channel, y), batch.x(sample), count, shape.width, sink);
            row += count;
        }
    });
}

// The noise of a row at a time in memory: of one channel, or of all where these lie side by side.
template <class Image>
void with_noise_by_the_row(const Batch<Image>& batch, Image* out) {
    using T = compute_t<Image>;
    const Shape& shape = batch.shape;
    const int64_t depth = shape.channels_last ? shape.channels : 1, length = shape.width * depth;
    const int64_t rows = shape.channels / depth * shape.height, grain = 1 + (1 << 14) / length;
    parallel_for_samples(shape.batch, rows, grain, [&](int64_t sample, int64_t row, int64_t end) {
        std::vector<GaussianRow<T>> normals(depth, GaussianRow<T>(shape.width));
        std::vector<T> z(length);
        for (; row < end; ++row) {
            const int64_t group = row / shape.height, y = row % shape.height;
            for (int64_t i = 0; i < depth; ++i) {
                const T* values = normals[i](batch.address(sample, group * depth + i, y), batch.x(sample));
                for (int64_t x = 0; x < shape.width; ++x) z[x * depth + i] = values[x];
            }
            const Run<Image> at = batch.run(sample, row * length, out);
            const Run<Image, T> run{at.x_t, at.output, at.variance, at.target, z.data(), at.out};
            run_best<StepPixels<false>>(batch.steps[sample], run, length);
        }
    });
}

template <class Image>
void with_own_noise(const Batch<Image>& batch, Image* out) {
    if constexpr (std::is_same_v<compute_t<Image>, float>) {
        if (!batch.shape.channels_last) {
            const bool learned = batch.variance.given(), guided = batch.target.given();
            if (learned && guided) return with_noise_in_registers<true, true>(batch, out);
            if (learned) return with_noise_in_registers<true, false>(batch, out);
            if (guided) return with_noise_in_registers<false, true>(batch, out);
            return with_noise_in_registers<false, false>(batch, out);
        }
    }
    with_noise_by_the_row(batch, out);
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
