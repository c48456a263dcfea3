#include "gmm_noise.h"

#include <algorithm>
#include <vector>

#include "stable.h"

namespace diffnoise {
namespace {

constexpr int64_t kRows = 4;  // of the product at a time

struct Mixture {
    int64_t full_height, full_width, components;
    double sigma_low, sigma_high;
    bool is_signed, standardize;

    double sigma(double u) const {
        return (sigma_low + (sigma_high - sigma_low) * u) * static_cast<double>(std::max(full_height, full_width));
    }
};

// All components along one axis, in pixels.
struct Axis {
    std::vector<double> mu, inverse_sigma, factor;

    void add(double mean, double sigma, double weight) {
        mu.push_back(mean);
        inverse_sigma.push_back(1 / sigma);
        factor.push_back(weight * kInverseRootTwoPi / sigma);
    }
};

DN_CLONES void fill_profiles(const double* mu, const double* inverse_sigma, const double* factor, int64_t count,
                             int64_t start, int64_t length, double* values) {
    for (int64_t i = 0; i < length; ++i) {
        const double position = static_cast<double>(start + i);
        for (int64_t k = 0; k < count; ++k) {
            values[i * count + k] = bump(position, mu[k], inverse_sigma[k], factor[k]);
        }
    }
}

// Profiles of all components at start .. start + length - 1, [length, K].
std::vector<double> profiles(const Axis& axis, int64_t start, int64_t length) {
    const int64_t count = static_cast<int64_t>(axis.mu.size());
    std::vector<double> values(length * count);
    fill_profiles(axis.mu.data(), axis.inverse_sigma.data(), axis.factor.data(), count, start, length, values.data());
    return values;
}

// gram[k, l] = sum over positions of p[., k] p[., l] for l >= k; total[k] = sum of p[., k].
DN_CLONES void moments(const double* p, int64_t length, int64_t count, double* gram, double* total) {
    for (int64_t i = 0; i < length; ++i) {
        for (int64_t k = 0; k < count; ++k) {
            for (int64_t l = k; l < count; ++l) gram[k * count + l] += p[i * count + k] * p[i * count + l];
            total[k] += p[i * count + k];
        }
    }
}

// Mean and 1 / deviation of a map over the full image, from closed sums. A constant map has no deviation: 0.
void standard_scale(const std::vector<double>& full_x, const std::vector<double>& full_y, const Mixture& mixture,
                    double& mean, double& inverse_deviation) {
    const int64_t count = mixture.components;
    std::vector<double> gram_x(count * count), gram_y(count * count), total_x(count), total_y(count);
    moments(full_x.data(), mixture.full_width, count, gram_x.data(), total_x.data());
    moments(full_y.data(), mixture.full_height, count, gram_y.data(), total_y.data());
    const double area = static_cast<double>(mixture.full_height) * static_cast<double>(mixture.full_width);
    double sum = 0, square = 0;
    for (int64_t k = 0; k < count; ++k) sum += total_x[k] * total_y[k];
    for (int64_t k = 0; k < count; ++k) {
        square += gram_x[k * count + k] * gram_y[k * count + k];
        for (int64_t l = k + 1; l < count; ++l) square += 2 * gram_x[k * count + l] * gram_y[k * count + l];
    }
    mean = sum / area;
    const double variance = square / area - mean * mean;
    inverse_deviation = variance > 1e-12 * (square / area) ? 1 / std::sqrt(variance) : 0;
}

// Rows of the map: out[j, i] = offset + sum over k of y[j, k] x[k, i], a register's worth of i at a time.
template <class T>
DN_CLONES void mix_rows(const T* y, const T* x, T offset, int64_t count, int64_t stride, T* out) {
    constexpr int64_t length = 64 / sizeof(T);
    typedef T Vector __attribute__((vector_size(64), may_alias, aligned(sizeof(T))));
    for (int64_t i = 0; i < stride; i += length) {
        // Four named sums, because an array of them would live in memory.
        Vector sum_0 = Vector{} + offset, sum_1 = sum_0, sum_2 = sum_0, sum_3 = sum_0;
        for (int64_t k = 0; k < count; ++k) {
            const Vector column = *reinterpret_cast<const Vector*>(x + k * stride + i);
            sum_0 += y[k] * column;
            sum_1 += y[count + k] * column;
            sum_2 += y[2 * count + k] * column;
            sum_3 += y[3 * count + k] * column;
        }
        *reinterpret_cast<Vector*>(out + i) = sum_0;
        *reinterpret_cast<Vector*>(out + stride + i) = sum_1;
        *reinterpret_cast<Vector*>(out + 2 * stride + i) = sum_2;
        *reinterpret_cast<Vector*>(out + 3 * stride + i) = sum_3;
    }
}

template <class Out>
void gmm_noise_kernel(const Grid& grid, const Mixture& mixture, Out* out) {
    using T = compute_t<Out>;
    const int64_t count = mixture.components, height = grid.height, width = grid.width;
    parallel_for(0, grid.batch * grid.channels, 1, [&](int64_t begin, int64_t end) {
        constexpr int64_t length = 64 / sizeof(T);
        const int64_t stride = (width + length - 1) / length * length;
        std::vector<T> x(count * stride), y(kRows * count), rows(kRows * stride);
        for (int64_t map = begin; map < end; ++map) {
            const int64_t sample = map / grid.channels;
            Axis along_x, along_y;
            for (int64_t k = 0; k < count; ++k) {
                const Component c = make_component(grid.seeds[sample], grid.t[sample], map % grid.channels,
                                                   static_cast<uint32_t>(k), mixture.is_signed);
                along_x.add(c.mu_x * static_cast<double>(mixture.full_width), mixture.sigma(c.sigma_x), 1);
                along_y.add(c.mu_y * static_cast<double>(mixture.full_height), mixture.sigma(c.sigma_y), c.weight);
            }
            const int64_t y_0 = grid.origins[2 * sample], x_0 = grid.origins[2 * sample + 1];
            const std::vector<double> x_profiles = profiles(along_x, x_0, width);
            const std::vector<double> y_profiles = profiles(along_y, y_0, height);
            double mean = 0, scale = 1;
            if (mixture.standardize) {
                const bool whole_x = x_0 == 0 && width == mixture.full_width;
                const bool whole_y = y_0 == 0 && height == mixture.full_height;
                standard_scale(whole_x ? x_profiles : profiles(along_x, 0, mixture.full_width),
                               whole_y ? y_profiles : profiles(along_y, 0, mixture.full_height), mixture, mean, scale);
            }
            for (int64_t k = 0; k < count; ++k) {
                for (int64_t i = 0; i < width; ++i)
                    x[k * stride + i] = narrow<T>(x_profiles[i * count + k], along_x.factor[k]);
            }
            for (int64_t top = 0; top < height; top += kRows) {
                const int64_t here = std::min(kRows, height - top);
                for (int64_t i = 0; i < here * count; ++i) {
                    const double factor = scale * along_y.factor[i % count];
                    y[i] = narrow<T>(scale * y_profiles[top * count + i], factor);
                }
                mix_rows(y.data(), x.data(), static_cast<T>(-mean * scale), count, stride, rows.data());
                for (int64_t j = 0; j < here; ++j) {
                    Out* to = out + (map * height + top + j) * width;
                    for (int64_t i = 0; i < width; ++i) to[i] = static_cast<Out>(rows[j * stride + i]);
                }
            }
        }
    });
}

Tensor gmm_noise(Tensor seeds, Tensor t, Tensor origins, int64_t channels, int64_t height, int64_t width,
                 int64_t full_height, int64_t full_width, int64_t components, double sigma_low, double sigma_high,
                 bool is_signed, bool standardize, ScalarType dtype) {
    const Grid grid(seeds, t, origins, channels, height, width);
    STD_TORCH_CHECK(components >= 1 && full_height >= 1 && full_width >= 1,
                    "components, full_height and full_width must be at least 1.");
    Tensor out = empty({grid.batch, channels, height, width}, dtype, seeds);
    if (grid.empty()) return out;
    const Mixture mixture{full_height, full_width, components, sigma_low, sigma_high, is_signed, standardize};
    dispatch_floating(dtype, [&](auto zero) {
        gmm_noise_kernel(grid, mixture, static_cast<decltype(zero)*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("gmm_noise", TORCH_BOX(&diffnoise::gmm_noise)); }
