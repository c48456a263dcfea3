#pragma once

// CPU: the three steps of a mixture that take time: profiles, their moments and their product.

#include <algorithm>
#include <utility>
#include <vector>

#include "vector.h"

namespace diffnoise {

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

// Zeros at an address that vectors may be loaded from whole.
template <class T>
class Aligned {
  public:
    explicit Aligned(std::int64_t size) : lines_((size * sizeof(T) + 63) / 64) {}
    T* data() { return lines_.data()->values; }
    bool empty() const { return lines_.empty(); }

  private:
    struct alignas(64) Line {
        T values[64 / sizeof(T)];
    };
    std::vector<Line> lines_;
};

constexpr std::int64_t kChunk = 8;  // positions that are summed side by side, whatever the registers

// 2^-((i - mu) rate)^2 at i = start .. start + length - 1, a row per component, padded with zeros to whole chunks.
struct Profiles {
    template <class Isa>
    static DN_HD void run(const double* mu, const double* rate, std::int64_t count, std::int64_t start,
                          std::int64_t length, double cut, double* out) {
        using F64 = Vector<Isa, double>;
        using I64 = Vector<Isa, std::int64_t>;
        constexpr int lanes = Isa::bytes / 8;
        constexpr double shifter = 6755399441055744.0;  // 1.5 * 2^52 leaves the nearest integer in the low bits
        const std::int64_t stride = round_up(length, kChunk);
        F64 first = broadcast<Isa>(static_cast<double>(start));
        for (int i = 0; i < lanes; ++i) first[i] += i;
        for (std::int64_t k = 0; k < count; ++k, out += stride) {
            F64 position = first;
            for (std::int64_t i = 0; i < stride; i += lanes, position += lanes) {
                const F64 z = (position - mu[k]) * rate[k], exponent = z * z;
                const F64 shifted = shifter - exponent, r = (shifter - shifted) - exponent;
                const F64 power = horner<Isa>(r, 7.0372792916660396e-9, 1.0208538068367602e-7, 1.321566283681217e-6,
                                              1.5252658115733586e-5, 1.5403529961113818e-4, 1.3333558228562724e-3,
                                              9.6181291080346244e-3, 5.5504108664458829e-2, 2.4022650695908768e-1,
                                              6.9314718055994977e-1, 1.0);
                const F64 value = (F64)((I64)power + ((I64)shifted << 52));
                *reinterpret_cast<F64*>(out + i) = exponent > cut ? F64{} : value;
            }
            for (std::int64_t i = length; i < stride; ++i) out[i] = 0;
        }
    }
};

// The lower plus the upper half of every run of `length` elements, first a's, then b's.
template <int length, class V, std::size_t... I>
DN_HD V add_halves(V a, V b, std::index_sequence<I...>) {
    constexpr int half = length / 2;
    return __builtin_shufflevector(a, b, (I / half * length + I % half)...) +
           __builtin_shufflevector(a, b, (I / half * length + I % half + half)...);
}

// gram[k, l] = sum over positions of rows[k, .] rows[l, .] for l >= k. The rows and gram have room for kSpare more
// components, because several are taken at once.
struct Moments {
    static constexpr std::int64_t kSpare = 4;

    template <class Isa>
    static DN_HD void run(const double* rows, std::int64_t count, std::int64_t stride, double* gram) {
        using F64 = Vector<Isa, double>;
        constexpr int lanes = Isa::bytes / 8, parts = kChunk / lanes, high = parts == 1 ? 4 : 2, wide = lanes / 2;
        for (std::int64_t k = 0; k < count; k += high) {
            for (std::int64_t l = k; l < count; l += wide) {
                F64 sum[high * wide][parts] = {};
                for (std::int64_t i = 0; i < stride; i += kChunk) {
                    for (int p = 0; p < parts; ++p) {
                        const double* at = rows + i + p * lanes;
                        F64 right[wide];
                        for (int c = 0; c < wide; ++c) right[c] = *reinterpret_cast<const F64*>(at + (l + c) * stride);
                        for (int r = 0; r < high; ++r) {
                            const F64 left = *reinterpret_cast<const F64*>(at + (k + r) * stride);
                            for (int c = 0; c < wide; ++c) {
                                sum[r * wide + c][p] = multiply_add<Isa>(left, right[c], sum[r * wide + c][p]);
                            }
                        }
                    }
                }
                double totals[high * wide];
                for (int r = 0; r < high; r += 2) {
                    *reinterpret_cast<F64*>(totals + r * wide) = add_up<Isa, parts>(sum + r * wide);
                }
                for (int r = 0; r < high; ++r) {
                    std::copy_n(totals + r * wide, wide, gram + (k + r) * (count + kSpare) + l);
                }
            }
        }
    }

  private:
    // As many sums as a register has lanes, each of kChunk elements, which are added by halves whatever the register.
    template <class Isa, int parts>
    static DN_HD Vector<Isa, double> add_up(Vector<Isa, double> (*sum)[parts]) {
        constexpr int lanes = kChunk / parts;
        constexpr std::make_index_sequence<lanes> all;
        for (int n = parts / 2; n > 0; n /= 2) {
            for (int i = 0; i < lanes; ++i) {
                for (int p = 0; p < n; ++p) sum[i][p] += sum[i][p + n];
            }
        }
        if constexpr (lanes > 4) {
            for (int i = 0; i < 4; ++i) sum[i][0] = add_halves<8>(sum[2 * i][0], sum[2 * i + 1][0], all);
        }
        if constexpr (lanes > 2) {
            for (int i = 0; i < 2; ++i) sum[i][0] = add_halves<4>(sum[2 * i][0], sum[2 * i + 1][0], all);
        }
        return add_halves<2>(sum[0][0], sum[1][0], all);
    }
};

// Profiles as the product takes them, in pieces of `size` positions: out[n, k, i] = factor[k] rows[k, n size + i].
template <std::int64_t size>
struct Pack {
    template <class Isa, class T>
    static DN_HD void run(const double* rows, const double* factor, std::int64_t count, std::int64_t stride, T* out) {
        constexpr int lanes = Isa::bytes / 8;
        typedef T Narrow __attribute__((vector_size(lanes * sizeof(T)), may_alias, aligned(sizeof(T))));
        for (std::int64_t i = 0; i < stride; i += size) {
            const std::int64_t length = size == kChunk ? size : std::min(size, stride - i);
            for (std::int64_t k = 0; k < count; ++k, out += size) {
                for (std::int64_t j = 0; j < length; j += lanes) {
                    const auto wide =
                        *reinterpret_cast<const Vector<Isa, double>*>(rows + k * stride + i + j) * factor[k];
                    *reinterpret_cast<Narrow*>(out + j) = __builtin_convertvector(wide, Narrow);
                }
            }
        }
    }
};

template <class T>
struct Product {
    static constexpr std::int64_t kPanel = 128 / sizeof(T), kBlock = 8;

    // out[j, i] = offset + sum over k of y[k, j] x[k, i] for up to kBlock rows, `distance` apart. y: one piece of
    // kBlock positions from Pack; x: pieces of kPanel.
    template <class Isa>
    static DN_HD void run(const T* y, const T* x, T offset, std::int64_t count, std::int64_t rows, std::int64_t width,
                          T* out, std::int64_t distance) {
        using V = Vector<Isa, T>;
        constexpr int lanes = Isa::bytes / sizeof(T), together = Isa::bytes == 64 ? 8 : 4;
        for (std::int64_t i = 0; i < width; i += kPanel, x += count * kPanel) {
            const bool whole = rows == kBlock && i + kPanel <= width;
            T values[kBlock * kPanel];
            T* to = whole ? out + i : values;
            const std::int64_t step = whole ? distance : kPanel;
            // The next block's memory is on its way while this one is computed.
            for (std::int64_t j = kBlock; j < 2 * kBlock; ++j) {
                __builtin_prefetch(out + j * distance + i, 1);
                __builtin_prefetch(out + j * distance + i + kPanel / 2, 1);
            }
            for (int column = 0; column < kPanel; column += 2 * lanes) {
                for (int top = 0; top < kBlock; top += together) {
                    V sum[together][2];
                    for (int j = 0; j < together; ++j) sum[j][0] = sum[j][1] = broadcast<Isa>(offset);
                    for (std::int64_t k = 0; k < count; ++k) {
                        const T* at = x + k * kPanel + column;
                        const V left = *reinterpret_cast<const V*>(at), right = *reinterpret_cast<const V*>(at + lanes);
                        for (int j = 0; j < together; ++j) {
                            const V factor = broadcast<Isa>(y[k * kBlock + top + j]);
                            sum[j][0] = multiply_add<Isa>(factor, left, sum[j][0]);
                            sum[j][1] = multiply_add<Isa>(factor, right, sum[j][1]);
                        }
                    }
                    for (int j = 0; j < together; ++j) {
                        T* row = to + (top + j) * step + column;
                        *reinterpret_cast<V*>(row) = sum[j][0];
                        *reinterpret_cast<V*>(row + lanes) = sum[j][1];
                    }
                }
            }
            if (!whole) {
                const std::int64_t columns = std::min(kPanel, width - i);
                for (std::int64_t j = 0; j < rows; ++j) {
                    std::copy_n(values + j * kPanel, columns, out + j * distance + i);
                }
            }
        }
    }
};

}  // namespace diffnoise
