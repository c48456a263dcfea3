#include "gmm_noise.h"

#include <algorithm>
#include <vector>

#include "stable.h"

namespace diffnoise {
namespace {

struct Mixture {
    int64_t full_height, full_width, components;
    double sigma_low, sigma_high;
    bool is_signed, standardize;

    double sigma(double u) const {
        return (sigma_low + (sigma_high - sigma_low) * u) * static_cast<double>(std::max(full_height, full_width));
    }
};

// Profiles of all components along x or y, [length, K], and of y with the weights.
std::vector<double> profiles(const std::vector<Component>& components, const Mixture& mixture, bool along_x,
                             int64_t start, int64_t length) {
    const double extent = static_cast<double>(along_x ? mixture.full_width : mixture.full_height);
    std::vector<double> values(length * components.size());
    for (int64_t i = 0; i < length; ++i) {
        for (size_t k = 0; k < components.size(); ++k) {
            const Component& c = components[k];
            const double position = static_cast<double>(start + i);
            values[i * components.size() + k] =
                along_x ? density(position, c.mu_x * extent, mixture.sigma(c.sigma_x))
                        : c.weight * density(position, c.mu_y * extent, mixture.sigma(c.sigma_y));
        }
    }
    return values;
}

// gram[k, l] = sum over positions of p[., k] p[., l]; total[k] = sum of p[., k].
DN_CLONES void moments(const double* p, int64_t length, int64_t count, double* gram, double* total) {
    for (int64_t i = 0; i < length; ++i) {
        for (int64_t k = 0; k < count; ++k) {
            for (int64_t l = 0; l < count; ++l) gram[k * count + l] += p[i * count + k] * p[i * count + l];
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
    for (int64_t k = 0; k < count * count; ++k) square += gram_x[k] * gram_y[k];
    mean = sum / area;
    const double variance = square / area - mean * mean;
    inverse_deviation = variance > 1e-12 * (square / area) ? 1 / std::sqrt(variance) : 0;
}

// One row of the map: out[x] = offset + sum over k of y[k] x[k, .].
template <class T>
DN_CLONES void mix_row(const T* y, const T* x, T offset, int64_t count, int64_t width, T* out) {
    for (int64_t i = 0; i < width; ++i) out[i] = offset;
    for (int64_t k = 0; k < count; ++k) {
        for (int64_t i = 0; i < width; ++i) out[i] += y[k] * x[k * width + i];
    }
}

template <class Out>
void gmm_noise_kernel(const Grid& grid, const Mixture& mixture, Out* out) {
    using T = compute_t<Out>;
    const int64_t count = mixture.components, height = grid.height, width = grid.width;
    parallel_for(0, grid.batch * grid.channels, 1, [&](int64_t begin, int64_t end) {
        std::vector<Component> components(count);
        std::vector<T> x(count * width), y(count), row(width);
        for (int64_t map = begin; map < end; ++map) {
            const int64_t sample = map / grid.channels;
            for (int64_t k = 0; k < count; ++k) {
                components[k] = make_component(grid.seeds[sample], grid.t[sample], map % grid.channels,
                                               static_cast<uint32_t>(k), mixture.is_signed);
            }
            const int64_t y_0 = grid.origins[2 * sample], x_0 = grid.origins[2 * sample + 1];
            const std::vector<double> x_profiles = profiles(components, mixture, true, x_0, width);
            const std::vector<double> y_profiles = profiles(components, mixture, false, y_0, height);
            double mean = 0, scale = 1;
            if (mixture.standardize) {
                const bool whole_x = x_0 == 0 && width == mixture.full_width;
                const bool whole_y = y_0 == 0 && height == mixture.full_height;
                standard_scale(whole_x ? x_profiles : profiles(components, mixture, true, 0, mixture.full_width),
                               whole_y ? y_profiles : profiles(components, mixture, false, 0, mixture.full_height),
                               mixture, mean, scale);
            }
            for (int64_t k = 0; k < count; ++k) {
                for (int64_t i = 0; i < width; ++i) x[k * width + i] = static_cast<T>(x_profiles[i * count + k]);
            }
            for (int64_t j = 0; j < height; ++j) {
                for (int64_t k = 0; k < count; ++k) y[k] = static_cast<T>(scale * y_profiles[j * count + k]);
                mix_row(y.data(), x.data(), static_cast<T>(-mean * scale), count, width, row.data());
                Out* to = out + (map * height + j) * width;
                for (int64_t i = 0; i < width; ++i) to[i] = static_cast<Out>(row[i]);
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
