#include "gmm_noise.h"

#include <type_traits>

#include "gmm_vector.h"
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

// The components of a map along one axis: where they lie, and their profiles without the factor of the density.
class Axis {
  public:
    // length: of a tile. cut: below 2^-cut of its peak a profile is 0.
    Axis(int64_t components, int64_t full, int64_t length, double cut)
        : full_(full), length_(length), cut_(cut), mu_(components), rate_(components), tile_(rows(length)) {}

    static int64_t stride(int64_t length) { return round_up(length, kChunk); }

    void set(int64_t k, double mean, double sigma) {
        mu_[k] = mean * static_cast<double>(full_);
        rate_[k] = kRootHalfLog2E / sigma;
    }
    // [K, stride(length)] at start, start + 1, ..., until the next call.
    const double* tile(int64_t start) {
        is_whole_ = start == 0 && length_ == full_;
        return fill(start, length_, tile_);
    }
    // The sums over the full image of all products of profiles and, as component K, 1.
    const std::vector<double>& gram() {
        if (!is_whole_ && whole_.empty()) whole_ = rows(full_);
        const double* values = is_whole_ ? tile_.data() : fill(0, full_, whole_);
        gram_.resize((components() + 1 + Moments::kSpare) * (components() + 1 + Moments::kSpare));
        run_best<Moments>(values, components() + 1, stride(full_), gram_.data());
        return gram_;
    }

  private:
    int64_t components() const { return static_cast<int64_t>(mu_.size()); }
    Aligned<double> rows(int64_t length) const {
        Aligned<double> values((components() + 1 + Moments::kSpare) * stride(length));
        std::fill_n(values.data() + components() * stride(length), length, 1.0);
        return values;
    }
    const double* fill(int64_t start, int64_t length, Aligned<double>& rows) const {
        run_best<Profiles>(mu_.data(), rate_.data(), components(), start, length, cut_, rows.data());
        return rows.data();
    }

    int64_t full_, length_;
    double cut_;
    bool is_whole_ = false;
    std::vector<double> mu_, rate_, gram_;
    Aligned<double> tile_, whole_{0};
};

// sum of a b c, in four sums because one would be a chain.
double triple_product(const double* a, const double* b, const double* c, int64_t count) {
    double sum[4] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (int64_t j = 0; j < 4; ++j) sum[j] += a[i + j] * (b[i + j] * c[i + j]);
    }
    for (; i < count; ++i) sum[0] += a[i] * (b[i] * c[i]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Mean and 1 / deviation of a map over the full image. A constant map has no deviation: 0.
void standard_scale(const std::vector<double>& gram_x, const std::vector<double>& gram_y,
                    const std::vector<double>& factor, double area, double& mean, double& inverse_deviation) {
    const int64_t count = static_cast<int64_t>(factor.size()), stride = count + 1 + Moments::kSpare;
    double sum = 0, square = 0;
    for (int64_t k = 0; k < count; ++k) {
        const double *x = gram_x.data() + k * stride, *y = gram_y.data() + k * stride;
        const double others = triple_product(factor.data() + k + 1, x + k + 1, y + k + 1, count - k - 1);
        square += factor[k] * (factor[k] * (x[k] * y[k]) + 2 * others);
        sum += factor[k] * (x[count] * y[count]);
    }
    mean = sum / area;
    const double variance = square / area - mean * mean;
    inverse_deviation = variance > 1e-12 * (square / area) ? 1 / std::sqrt(variance) : 0;
}

template <class Out>
void gmm_noise_kernel(const Grid& grid, const Mixture& mixture, Out* out) {
    using T = compute_t<Out>;
    constexpr int64_t panel = Product<T>::kPanel, block = Product<T>::kBlock;
    // Below 2^-cut of its peak a profile is 0: what cannot show would make denormal numbers, and those are slow.
    constexpr double cut = std::is_same_v<T, double> ? 430 : 50;
    const int64_t count = mixture.components, height = grid.height, width = grid.width;
    parallel_for(0, grid.batch * grid.channels, 1, [&](int64_t begin, int64_t end) {
        Axis along_x(count, mixture.full_width, width, cut), along_y(count, mixture.full_height, height, cut);
        std::vector<double> factor(count);
        const std::vector<double> ones(count, 1.0);
        Aligned<T> x(count * round_up(width, panel)), y(count * round_up(height, block));
        Aligned<T> rows(std::is_same_v<T, Out> ? 0 : block * width);
        for (int64_t map = begin; map < end; ++map) {
            const int64_t sample = map / grid.channels, channel = map % grid.channels;
            const int64_t seed = grid.seeds[sample], t = grid.t[sample];
            for (int64_t k = 0; k < count; ++k) {
                const Component c = make_component(seed, t, channel, static_cast<uint32_t>(k), mixture.is_signed);
                const double sigma_x = mixture.sigma(c.sigma_x), sigma_y = mixture.sigma(c.sigma_y);
                along_x.set(k, c.mu_x, sigma_x);
                along_y.set(k, c.mu_y, sigma_y);
                factor[k] = c.weight * (kInverseRootTwoPi / sigma_x) * (kInverseRootTwoPi / sigma_y);
            }
            const double* tile_x = along_x.tile(grid.origins[2 * sample + 1]);
            const double* tile_y = along_y.tile(grid.origins[2 * sample]);
            double mean = 0, scale = 1;
            if (mixture.standardize) {
                const double area = static_cast<double>(mixture.full_height) * static_cast<double>(mixture.full_width);
                standard_scale(along_x.gram(), along_y.gram(), factor, area, mean, scale);
            }
            for (double& f : factor) f *= scale;
            run_best<Pack<panel>>(tile_x, ones.data(), count, Axis::stride(width), x.data());
            run_best<Pack<block>>(tile_y, factor.data(), count, Axis::stride(height), y.data());
            const T offset = static_cast<T>(-mean * scale);
            for (int64_t top = 0; top < height; top += block) {
                const int64_t here = std::min(block, height - top);
                Out* to = out + (map * height + top) * width;
                if constexpr (std::is_same_v<T, Out>) {
                    run_best<Product<T>>(y.data() + top * count, x.data(), offset, count, here, width, to, width);
                } else {
                    run_best<Product<T>>(y.data() + top * count, x.data(), offset, count, here, width, rows.data(),
                                         width);
                    for (int64_t i = 0; i < here * width; ++i) to[i] = static_cast<Out>(rows.data()[i]);
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
