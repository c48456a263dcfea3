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
    // length: of a tile. cut: binary exponent below which a profile is 0.
    Axis(int64_t components, int64_t full, int64_t length, double cut)
        : full_(full),
          length_(length),
          cut_(cut),
          mu_(components),
          rate_(components),
          tile_(padded(components) * stride(length)),
          whole_(padded(components) * stride(full)) {}

    static int64_t padded(int64_t components) { return components + Moments::kSpare; }
    static int64_t stride(int64_t length) { return round_up(length, kChunk); }

    void set(int64_t k, double mean, double sigma) {
        mu_[k] = mean * static_cast<double>(full_);
        rate_[k] = kRootHalfLog2E / sigma;
    }
    // [K, stride(length)], until the next call.
    const double* tile(int64_t start) {
        fill(start, length_, tile_.data());
        is_whole_ = start == 0 && length_ == full_;
        return tile_.data();
    }
    // The same over the full image, [padded(K), stride(full)]; after `tile`.
    const double* whole() {
        if (is_whole_) return tile_.data();
        fill(0, full_, whole_.data());
        return whole_.data();
    }

  private:
    void fill(int64_t start, int64_t length, double* out) const {
        const int64_t components = static_cast<int64_t>(mu_.size());
        run_best<Profiles>(mu_.data(), rate_.data(), components, start, length, cut_, out);
    }

    int64_t full_, length_;
    double cut_;
    bool is_whole_ = false;
    std::vector<double> mu_, rate_;
    Aligned<double> tile_, whole_;
};

// Sums over one axis.
struct Sums {
    explicit Sums(int64_t components)
        : count(components), total(Axis::padded(count)), gram(Axis::padded(count) * Axis::padded(count)) {}

    void set(const double* rows, int64_t length) {
        run_best<Moments>(rows, count, Axis::stride(length), total.data(), gram.data());
    }
    double product(int64_t k, int64_t l) const { return gram[k * Axis::padded(count) + l]; }

    int64_t count;
    std::vector<double> total, gram;
};

// Mean and 1 / deviation of a map over the full image. A constant map has no deviation: 0.
void standard_scale(const Sums& x, const Sums& y, const std::vector<double>& factor, const Mixture& mixture,
                    double& mean, double& inverse_deviation) {
    const int64_t count = mixture.components;
    const double area = static_cast<double>(mixture.full_height) * static_cast<double>(mixture.full_width);
    double sum = 0, square = 0;
    for (int64_t k = 0; k < count; ++k) {
        sum += factor[k] * (x.total[k] * y.total[k]);
        double row = 0;
        for (int64_t l = k + 1; l < count; ++l) row += factor[l] * (x.product(k, l) * y.product(k, l));
        square += factor[k] * (factor[k] * (x.product(k, k) * y.product(k, k)) + 2 * row);
    }
    mean = sum / area;
    const double variance = square / area - mean * mean;
    inverse_deviation = variance > 1e-12 * (square / area) ? 1 / std::sqrt(variance) : 0;
}

template <class Out>
void gmm_noise_kernel(const Grid& grid, const Mixture& mixture, Out* out) {
    using T = compute_t<Out>;
    constexpr int64_t panel = Product<T>::kPanel, block = Product<T>::kBlock;
    // Nobody sees what is cut off; left in, it would make denormal numbers, and those are slow.
    constexpr double cut = std::is_same_v<T, double> ? 430 : 50;
    const int64_t count = mixture.components, height = grid.height, width = grid.width;
    parallel_for(0, grid.batch * grid.channels, 1, [&](int64_t begin, int64_t end) {
        Axis along_x(count, mixture.full_width, width, cut), along_y(count, mixture.full_height, height, cut);
        Sums x_sums(count), y_sums(count);
        std::vector<double> factor(count);
        const std::vector<double> ones(count, 1.0);
        Aligned<T> x(count * round_up(width, panel)), y(count * round_up(height, block));
        Aligned<T> rows(std::is_same_v<T, Out> ? 0 : block * width);
        for (int64_t map = begin; map < end; ++map) {
            const int64_t sample = map / grid.channels;
            for (int64_t k = 0; k < count; ++k) {
                const Component c = make_component(grid.seeds[sample], grid.t[sample], map % grid.channels,
                                                   static_cast<uint32_t>(k), mixture.is_signed);
                const double sigma_x = mixture.sigma(c.sigma_x), sigma_y = mixture.sigma(c.sigma_y);
                along_x.set(k, c.mu_x, sigma_x);
                along_y.set(k, c.mu_y, sigma_y);
                factor[k] = c.weight * (kInverseRootTwoPi / sigma_x) * (kInverseRootTwoPi / sigma_y);
            }
            const double* tile_x = along_x.tile(grid.origins[2 * sample + 1]);
            const double* tile_y = along_y.tile(grid.origins[2 * sample]);
            double mean = 0, scale = 1;
            if (mixture.standardize) {
                x_sums.set(along_x.whole(), mixture.full_width);
                y_sums.set(along_y.whole(), mixture.full_height);
                standard_scale(x_sums, y_sums, factor, mixture, mean, scale);
            }
            for (double& f : factor) f *= scale;
            run_best<Pack>(tile_x, static_cast<const double*>(ones.data()), count, Axis::stride(width), panel,
                           x.data());
            run_best<Pack>(tile_y, static_cast<const double*>(factor.data()), count, Axis::stride(height), block,
                           y.data());
            const T offset = static_cast<T>(-mean * scale);
            for (int64_t top = 0; top < height; top += block) {
                const int64_t here = std::min(block, height - top);
                Out* to = out + (map * height + top) * width;
                if constexpr (std::is_same_v<T, Out>) {
                    run_best<Product<T>>(y.data() + top * count, x.data(), offset, count, here, width, to, width);
                } else {
                    run_best<Product<T>>(y.data() + top * count, x.data(), offset, count, here, width, rows.data(),
                                         width);
                    for (int64_t i = 0; i < here * width; ++i) to[i] = static_cast<Out>(rows[i]);
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
