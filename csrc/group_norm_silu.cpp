#include "group_norm_silu.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "isa.h"
#include "numbers.h"

namespace diffnoise {
namespace {

// Mean and sum of squared deviations of every column of rows x columns numbers.
struct ColumnMoments {
    template <class Isa, class Image>
    static DN_HD void run(const Image* x, int64_t rows, int64_t columns, double* mean, double* squares) {
        constexpr int lanes = kLanes<Isa, Image>;
        int64_t i = 0;
        for (; i + 4 * lanes <= columns; i += 4 * lanes) block<Isa, lanes, 4>(x, rows, columns, i, mean, squares);
        if (columns < lanes) {
            for (; i < columns; ++i) block<Isa, 1, 1>(x, rows, columns, i, mean, squares);
        } else {  // the last block may do some columns again
            for (; i < columns; i += lanes)
                block<Isa, lanes, 1>(x, rows, columns, std::min<int64_t>(i, columns - lanes), mean, squares);
        }
    }

    template <class Isa, int N, int K, class Image>
    static DN_HD void block(const Image* x, int64_t rows, int64_t columns, int64_t first, double* mean,
                            double* squares) {
        using T = compute_t<Image>;
        using V = Lanes<T, N>;
        x += first;
        // Deviations from the mean of an eighth of the rows: near enough to the mean for their squares to keep its
        // digits.
        const int64_t some = (rows + 7) / 8;
        V pivot[K] = {}, sum[K] = {}, square[K] = {};
        for (int64_t row = 0; row < some; ++row) {
            for (int k = 0; k < K; ++k) pivot[k] += load_lanes<Isa, N>(x + row * columns + k * N);
        }
        for (int k = 0; k < K; ++k) pivot[k] = pivot[k] * all_lanes<T, N>(T(1) / static_cast<T>(some));
        for (int64_t row = 0; row < rows; ++row) {
            for (int k = 0; k < K; ++k) {
                const V d = load_lanes<Isa, N>(x + row * columns + k * N) - pivot[k];
                sum[k] += d;
                square[k] = multiply_add<Isa>(d, d, square[k]);
            }
        }
        T pivots[K * N], sums[K * N], square_sums[K * N];
        for (int k = 0; k < K; ++k) {
            store_lanes<Isa, N>(pivots + k * N, pivot[k]);
            store_lanes<Isa, N>(sums + k * N, sum[k]);
            store_lanes<Isa, N>(square_sums + k * N, square[k]);
        }
        for (int i = 0; i < K * N; ++i) {
            const double shift = sums[i] / static_cast<double>(rows);
            mean[first + i] = pivots[i] + shift;
            squares[first + i] = std::max(0.0, square_sums[i] - sums[i] * shift);
        }
    }
};

// out = silu((x - mean) factor + shift), or without the SiLU, of rows x columns numbers. The coefficients are one per
// column, or shared by all.
struct Normalize {
    template <class Isa, class Image, class T>
    static DN_HD void run(const Image* x, int64_t rows, int64_t columns, const T* mean, const T* factor, const T* shift,
                          bool per_column, bool activate, Image* out, int64_t out_columns) {
        if (per_column && activate)
            all_rows<Isa, true, true>(x, rows, columns, mean, factor, shift, out, out_columns);
        else if (per_column)
            all_rows<Isa, true, false>(x, rows, columns, mean, factor, shift, out, out_columns);
        else if (activate)
            all_rows<Isa, false, true>(x, rows, columns, mean, factor, shift, out, out_columns);
        else
            all_rows<Isa, false, false>(x, rows, columns, mean, factor, shift, out, out_columns);
    }

    template <class Isa, bool per_column, bool activate, class Image, class T>
    static DN_HD void all_rows(const Image* x, int64_t rows, int64_t columns, const T* mean, const T* factor,
                               const T* shift, Image* out, int64_t out_columns) {
        constexpr int lanes = kLanes<Isa, Image>;
        for (int64_t row = 0; row < rows; ++row, x += columns, out += out_columns) {
            if (columns < lanes) {
                for (int64_t i = 0; i < columns; ++i)
                    block<Isa, 1, per_column, activate>(x, i, mean, factor, shift, out);
            } else {
                int64_t i = 0;
                for (; i + lanes <= columns; i += lanes)
                    block<Isa, lanes, per_column, activate>(x, i, mean, factor, shift, out);
                if (i < columns) block<Isa, lanes, per_column, activate>(x, columns - lanes, mean, factor, shift, out);
            }
        }
    }

    template <class Isa, int N, bool per_column, bool activate, class Image, class T>
    static DN_HD void block(const Image* x, int64_t i, const T* mean, const T* factor, const T* shift, Image* out) {
        const auto coefficient = [i](const T* values) __attribute__((always_inline)) {
            if constexpr (per_column)
                return load_lanes<Isa, N>(values + i);
            else
                return all_lanes<T, N>(*values);
        };
        const Lanes<T, N> d = load_lanes<Isa, N>(x + i) - coefficient(mean);
        Lanes<T, N> y = multiply_add<Isa>(d, coefficient(factor), coefficient(shift));
        if constexpr (activate) y = silu<Isa, N>(y);
        store_lanes<Isa, N>(out + i, y);
    }
};

// How the pixels are cut into pieces of work, which does not depend on the number of threads.
constexpr int64_t kRows = 128, kRowColumns = 16;

// Dense images, either [B, H W, C] (last) or [B, C, H W].
struct Layout {
    int64_t batch, channels, pixels;
    bool last;

    int64_t chunk_pixels() const { return last ? kRows : kRows * kRowColumns; }
    int64_t chunks() const { return (pixels + chunk_pixels() - 1) / chunk_pixels(); }
    int64_t chunk_size(int64_t chunk) const { return std::min(chunk_pixels(), pixels - chunk * chunk_pixels()); }
    int64_t grain() const { return 1 + (1 << 14) / (chunk_pixels() * (last ? std::max<int64_t>(channels, 1) : 1)); }
};

// Means and sums of squared deviations of every chunk of a channel, [B, chunks, C of all images].
struct Moments {
    std::vector<double> mean, squares;
    int64_t channels;
};

template <class Image>
void measure(const Image* x, const Layout& layout, int64_t first_channel, Moments& moments) {
    const int64_t chunks = layout.chunks(), planes = layout.last ? 1 : layout.channels;
    parallel_for(0, layout.batch * chunks * planes, layout.grain(), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t plane = i % planes, chunk = i / planes % chunks, sample = i / planes / chunks;
            const int64_t size = layout.chunk_size(chunk), start = chunk * layout.chunk_pixels();
            const int64_t at = (sample * chunks + chunk) * moments.channels + first_channel + plane;
            double *mean = moments.mean.data() + at, *squares = moments.squares.data() + at;
            if (layout.last) {
                const Image* from = x + (sample * layout.pixels + start) * layout.channels;
                run_best<ColumnMoments>(from, size, layout.channels, mean, squares);
                continue;
            }
            const Image* from = x + (sample * layout.channels + plane) * layout.pixels + start;
            // The columns are parts of one channel: whole rows of them, then the rest as one row of fewer.
            const int64_t rows = size / kRowColumns, rest = size % kRowColumns;
            double means[2 * kRowColumns], deviations[2 * kRowColumns];
            run_best<ColumnMoments>(from, rows, rows ? kRowColumns : 0, means, deviations);
            run_best<ColumnMoments>(from + size - rest, 1, rest, means + kRowColumns, deviations + kRowColumns);
            double total = 0, deviation = 0;
            const auto each = [&](const auto& use) {
                for (int64_t k = 0; k < (rows ? kRowColumns : 0); ++k) use(static_cast<double>(rows), k);
                for (int64_t k = 0; k < rest; ++k) use(1.0, kRowColumns + k);
            };
            each([&](double count, int64_t k) { total += count * means[k]; });
            *mean = total / static_cast<double>(size);
            each([&](double count, int64_t k) {
                deviation += deviations[k] + count * (means[k] - *mean) * (means[k] - *mean);
            });
            *squares = deviation;
        }
    });
}

template <class Image>
void normalize(const Image* x, const Layout& layout, int64_t first_channel, int64_t channels, bool activate,
               const std::vector<compute_t<Image>>& coefficients, Image* out) {
    using T = compute_t<Image>;
    const int64_t chunks = layout.chunks(), planes = layout.last ? 1 : layout.channels, pixels = layout.pixels;
    const int64_t set = layout.batch * channels;  // of one kind of coefficients
    parallel_for(0, layout.batch * chunks * planes, layout.grain(), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t plane = i % planes, chunk = i / planes % chunks, sample = i / planes / chunks;
            const int64_t size = layout.chunk_size(chunk), start = chunk * layout.chunk_pixels();
            const T* mean = coefficients.data() + sample * channels + first_channel + plane;
            if (layout.last) {
                run_best<Normalize>(x + (sample * pixels + start) * layout.channels, size, layout.channels, mean,
                                    mean + set, mean + 2 * set, true, activate,
                                    out + (sample * pixels + start) * channels + first_channel, channels);
            } else {
                run_best<Normalize>(x + (sample * layout.channels + plane) * pixels + start, int64_t{1}, size, mean,
                                    mean + set, mean + 2 * set, false, activate,
                                    out + (sample * channels + first_channel + plane) * pixels + start, size);
            }
        }
    });
}

// The values of a tensor of this shape; `otherwise` without one.
std::vector<double> numbers_or(double otherwise, const std::optional<Tensor>& tensor,
                               std::initializer_list<int64_t> shape, const char* name) {
    if (tensor) {
        check_shape(*tensor, shape, name);
        return numbers(*tensor, name);
    }
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return std::vector<double>(count, otherwise);
}

struct Affine {
    std::vector<double> weight, bias, scale, shift, offset;
};

// mean, factor and shift of y = (x - mean) factor + shift for every sample and channel, [3, B, C].
template <class T>
std::vector<T> coefficients(const Moments& moments, const Layout& layout, int64_t groups, double eps,
                            const Affine& affine) {
    const int64_t channels = moments.channels, chunks = layout.chunks(), width = channels / groups;
    const int64_t set = layout.batch * channels;
    const double count = static_cast<double>(width * layout.pixels);
    std::vector<T> result(3 * set);
    for (int64_t sample = 0; sample < layout.batch; ++sample) {
        for (int64_t group = 0; group < groups; ++group) {
            const auto each = [&](const auto& use) {
                for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                    const double size = static_cast<double>(layout.chunk_size(chunk));
                    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
                        const int64_t at = (sample * chunks + chunk) * channels + c;
                        use(size, moments.mean[at] + affine.offset[sample * channels + c], moments.squares[at]);
                    }
                }
            };
            double total = 0, squares = 0;
            each([&](double size, double part, double) { total += size * part; });
            const double mean = total / count;
            each([&](double size, double part, double deviation) {
                squares += deviation + size * (part - mean) * (part - mean);
            });
            const double inverse = 1 / std::sqrt(squares / count + eps);
            for (int64_t c = group * width; c < (group + 1) * width; ++c) {
                const int64_t at = sample * channels + c;
                const double factor = inverse * affine.weight[c] * (1 + affine.scale[at]);
                const double shift = affine.bias[c] * (1 + affine.scale[at]) + affine.shift[at];
                const double centre = mean - affine.offset[at];
                result[at] = static_cast<T>(centre);
                result[set + at] = static_cast<T>(factor);
                // What rounding took from the mean.
                result[2 * set + at] = static_cast<T>(shift + (static_cast<double>(result[at]) - centre) * factor);
            }
        }
    }
    return result;
}

bool is_channels_last(const Tensor& x) {
    const int64_t strides[] = {x.size(1) * x.size(2) * x.size(3), 1, x.size(1) * x.size(3), x.size(1)};
    for (int64_t axis = 0; axis < 4; ++axis) {
        if (x.size(axis) != 1 && x.stride(axis) != strides[axis]) return false;
    }
    return !x.is_contiguous();
}

// [B, C, H, W] as [B, H, W, C] and back.
Tensor channels_behind(const Tensor& x) { return torch::stable::transpose(torch::stable::transpose(x, 1, 3), 1, 2); }
Tensor channels_before(const Tensor& x) { return torch::stable::transpose(torch::stable::transpose(x, 1, 3), 2, 3); }

Tensor group_norm_silu(Tensor x, int64_t groups, std::optional<Tensor> weight, std::optional<Tensor> bias,
                       std::optional<Tensor> scale, std::optional<Tensor> shift, std::optional<Tensor> offset,
                       std::optional<Tensor> skip, double eps, bool activate) {
    STD_TORCH_CHECK(x.dim() == 4, "x must have shape [B, C, H, W].");
    const int64_t batch = x.size(0), own = x.size(1), height = x.size(2), width = x.size(3);
    if (skip) check_shape(*skip, {batch, skip->dim() == 4 ? skip->size(1) : -1, height, width}, "skip");
    const int64_t joined = skip ? skip->size(1) : 0, channels = own + joined;
    STD_TORCH_CHECK(groups > 0 && channels % groups == 0, "groups must divide the number of channels.");
    const Affine affine{numbers_or(1, weight, {channels}, "weight"), numbers_or(0, bias, {channels}, "bias"),
                        numbers_or(0, scale, {batch, channels}, "scale"),
                        numbers_or(0, shift, {batch, channels}, "shift"),
                        numbers_or(0, offset, {batch, channels}, "offset")};
    const bool last = is_channels_last(x);
    const auto arrange = [last](const Tensor& image) { return last ? channels_behind(image) : image; };
    Tensor out = last ? empty({batch, height, width, channels}, x.scalar_type(), x)
                      : empty({batch, channels, height, width}, x.scalar_type(), x);
    if (out.numel() > 0) {
        dispatch_floating(x.scalar_type(), [&](auto zero) {
            using Image = decltype(zero);
            const Layout layout{batch, own, height * width, last}, behind{batch, joined, height * width, last};
            const std::size_t count = batch * layout.chunks() * channels;
            Moments moments{std::vector<double>(count), std::vector<double>(count), channels};
            const Input<Image> first(arrange(x), "x");
            std::optional<Input<Image>> second;
            if (skip) second.emplace(arrange(*skip), "skip");
            measure(first.data(), layout, 0, moments);
            if (skip) measure(second->data(), behind, own, moments);
            const auto values = coefficients<compute_t<Image>>(moments, layout, groups, eps, affine);
            Image* to = static_cast<Image*>(out.mutable_data_ptr());
            normalize(first.data(), layout, 0, channels, activate, values, to);
            if (skip) normalize(second->data(), behind, own, channels, activate, values, to);
        });
    }
    return last ? channels_before(out) : out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("group_norm_silu", TORCH_BOX(&diffnoise::group_norm_silu)); }
