#include "anomaly_map.h"

#include <vector>

#include "aligned_buffer.h"
#include "images.h"
#include "numbers.h"
#include "separable_filter.h"

namespace diffnoise {
namespace {

// One sample's images, of which is made the sum over scales of factor * (mean over channels of the error - offset).
template <class Image, class T>
struct Source {
    const Image *images, *x_0;  // [S C, H, W] and [C, H, W]; x_0 may be null
    bool absolute;
    int64_t scales, channels, height, width;
    const T *offsets, *factors;  // [S]
};

template <class T>
struct Taps {
    std::vector<T> values;
    bool equal;
};

template <class T>
struct Scratch {
    AlignedBuffer<T> sum, plane, turned, column;
};

// A row y of what is filtered; `sum` has room for a row.
template <class Error, class Image, class T>
DN_HD void combine(const Source<Image, T>& source, int64_t y, T* sum, T* out) {
    const int64_t width = source.width, map = source.height * width;
    const T share = T(1) / source.channels;
    const Image *image = source.images + y * width, *x_0 = source.x_0;
    for (int64_t scale = 0; scale < source.scales; ++scale) {
        const T offset = source.offsets[scale], factor = source.factors[scale];
        for (int64_t channel = 0; channel < source.channels; ++channel, image += map) {
            const int64_t at = channel * map + y * width;
            const auto error = [&](int64_t x) __attribute__((always_inline)) {
                if constexpr (std::is_same_v<Error, Itself>) {
                    return static_cast<T>(image[x]);
                } else {
                    return Error::error(static_cast<T>(image[x]), static_cast<T>(x_0[at + x]));
                }
            };
            if (channel == 0) {
                for (int64_t x = 0; x < width; ++x) sum[x] = error(x);
            } else {
                for (int64_t x = 0; x < width; ++x) sum[x] += error(x);
            }
        }
        if (scale == 0) {
            for (int64_t x = 0; x < width; ++x) out[x] = (sum[x] * share - offset) * factor;
        } else {
            for (int64_t x = 0; x < width; ++x) out[x] += (sum[x] * share - offset) * factor;
        }
    }
}

template <class Image, class T>
DN_HD void combine(const Source<Image, T>& source, int64_t y, T* sum, T* out) {
    if (!source.x_0) return combine<Itself>(source, y, sum, out);
    if (source.absolute) return combine<Absolute>(source, y, sum, out);
    combine<Squared>(source, y, sum, out);
}

// Rows top to top + rows of a sample's map.
struct Band {
    template <class Isa, class Image, class T>
    static DN_HD void run(const Source<Image, T>& source, const Taps<T>& taps, Scratch<T>& scratch, int64_t top,
                          int64_t rows, T* out) {
        using V = Vector<Isa, T>;
        constexpr int64_t lanes = Isa::bytes / sizeof(T);
        const auto rounded = [](int64_t length) { return (length + lanes - 1) / lanes * lanes; };
        const int64_t width = source.width, size = taps.values.size(), radius = size / 2;
        const int64_t wide = rounded(width), high = rounded(rows),
                      stride = wide | lanes;  // an odd number: neighbouring rows in other sets of the cache
        T* sum = scratch.sum.reserve(width);
        if (size == 1 && taps.values[0] == 1) {
            for (int64_t y = top; y < top + rows; ++y) combine(source, y, sum, out + y * width);
            return;
        }
        T* plane = scratch.plane.reserve((rows + 2 * radius) * stride);    // [rows, width], with borders
        T* turned = scratch.turned.reserve((wide + 2 * radius) * high);    // [rows / lanes, width, lanes]
        T* column = scratch.column.reserve(std::max(wide, high) * lanes);  // [rows or width, lanes]
        const T* values = taps.values.data();
        const bool equal = taps.equal;
        const auto filter = [&](const T* in, int64_t apart, int64_t count, const auto& soon)
                                __attribute__((always_inline)) {
                                    if (equal) {
                                        equal_sums<Isa>(in, apart, count, values[0], size, column, soon);
                                    } else {
                                        weighted_sums<Isa>(in, apart, count, values, size, column, soon);
                                    }
                                };

        for (int64_t i = 0; i < rows + 2 * radius; ++i) {
            T* line = plane + i * stride;
            combine(source, reflected(top + i - radius, source.height), sum, line);
            std::fill(line + width, line + wide, T(0));
        }
        std::fill(column + rows * lanes, column + high * lanes, T(0));
        const int64_t block = (wide + 2 * radius) * lanes;
        for (int64_t x = 0; x < wide; x += lanes) {
            filter(plane + x, stride, rows, [](int64_t) {});
            for (int64_t y = 0; y < high; y += lanes) {
                transpose<Isa>(column + y * lanes, turned + y / lanes * block + (radius + x) * lanes, lanes);
            }
        }
        for (int64_t y = 0; y < high; y += lanes) {
            T* lines = turned + y / lanes * block;
            const auto reflect = [&](int64_t x) __attribute__((always_inline)) {
                const T* from = lines + (radius + reflected(x, width)) * lanes;
                *reinterpret_cast<V*>(lines + (radius + x) * lanes) = *reinterpret_cast<const V*>(from);
            };
            for (int64_t x = 0; x < radius; ++x) reflect(x - radius), reflect(width + x);
            // A square's rows lie too far apart for the processor to foresee them.
            T* to = out + (top + y) * width;
            filter(lines, lanes, width, [&](int64_t i) __attribute__((always_inline)) {
                __builtin_prefetch(to + i % lanes * width + i / lanes * lanes, 1);
            });
            for (int64_t x = 0; x < width; x += lanes) {
                if (x + lanes <= width && y + lanes <= rows) {
                    transpose<Isa>(column + x * lanes, to + x, width);
                } else {
                    alignas(Isa::bytes) T tile[lanes * lanes];
                    transpose<Isa>(column + x * lanes, tile, lanes);
                    for (int64_t i = 0; i < std::min(lanes, rows - y); ++i) {
                        std::copy_n(tile + i * lanes, std::min(lanes, width - x), to + i * width + x);
                    }
                }
            }
        }
    }
};

struct Inputs {
    Tensor images, taps;
    std::optional<Tensor> x_0, scales;
    bool absolute;
};

template <class Image>
void anomaly_map_kernel(const Inputs& inputs, const Shape& shape, compute_t<Image>* out) {
    using T = compute_t<Image>;
    const std::vector<double> scales = inputs.scales ? numbers(*inputs.scales, "scales") : std::vector<double>{0, 1};
    const int64_t count = scales.size() / 2, channels = count ? shape.channels / count : 0;
    STD_TORCH_CHECK(scales.size() % 2 == 0 && channels * count == shape.channels && count > 0,
                    "images must have as many channels for every scale.");
    const Input<Image> images(inputs.images, {shape.batch, shape.channels, shape.height, shape.width}, "images");
    std::optional<Input<Image>> x_0;
    if (inputs.x_0) {
        x_0.emplace(*inputs.x_0, std::initializer_list<int64_t>{shape.batch, channels, shape.height, shape.width},
                    "x_0");
    }
    std::vector<T> offsets(count), factors(count);
    for (int64_t scale = 0; scale < count; ++scale) {
        offsets[scale] = scales[2 * scale];
        factors[scale] = 1 / (scales[2 * scale + 1] * count);
    }
    const std::vector<double> values = numbers(inputs.taps, "taps");
    STD_TORCH_CHECK(values.size() % 2 == 1, "taps must be odd in number.");
    const bool equal = std::all_of(values.begin(), values.end(), [&](double tap) { return tap == values[0]; });
    const Taps<T> taps{{values.begin(), values.end()}, equal};

    const int64_t height = shape.height, map = height * shape.width;
    if (map == 0) return;
    // Rows that stay in the cache, and not much fewer than the filter needs beyond them. A multiple of every register.
    const int64_t band = std::max<int64_t>({64, (1 << 15) / shape.width, int64_t(values.size())}) / 16 * 16;
    const int64_t bands = (height + band - 1) / band;
    parallel_for(0, shape.batch * bands, 1, [&](int64_t begin, int64_t end) {
        Scratch<T> scratch;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t sample = i / bands, top = i % bands * band;
            const Source<Image, T> source{images.data() + sample * shape.channels * map,
                                          x_0 ? x_0->data() + sample * channels * map : nullptr,
                                          inputs.absolute,
                                          count,
                                          channels,
                                          height,
                                          shape.width,
                                          offsets.data(),
                                          factors.data()};
            run_best<Band>(source, taps, scratch, top, std::min(band, height - top), out + sample * map);
        }
    });
}

Tensor anomaly_map(Tensor images, Tensor taps, std::optional<Tensor> x_0, std::optional<Tensor> scales, bool absolute) {
    const Shape shape(images);
    const ScalarType dtype = images.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    Tensor out = empty({shape.batch, 1, shape.height, shape.width}, dtype, images);
    const Inputs inputs{images, taps, x_0, scales, absolute};
    dispatch_floating(images.scalar_type(), [&](auto zero) {
        using Image = decltype(zero);
        anomaly_map_kernel<Image>(inputs, shape, static_cast<compute_t<Image>*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("anomaly_map", TORCH_BOX(&diffnoise::anomaly_map)); }
