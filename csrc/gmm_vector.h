#pragma once

// CPU: the three steps of a mixture that take time: profiles, their moments and their product.

#include <algorithm>
#include <cstring>
#include <vector>

#include "isa.h"

namespace diffnoise {

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

// Zeros at an address that vectors may be loaded from whole.
template <class T>
class Aligned {
  public:
    explicit Aligned(std::int64_t size) : lines_((size * sizeof(T) + 63) / 64) {}
    T* data() { return lines_.data()->values; }
    T& operator[](std::int64_t i) { return data()[i]; }

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
        constexpr double shifter =
            6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
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

// total[k] = sum over positions of rows[k, .]; gram[k, l] = sum of rows[k, .] rows[l, .] for l >= k. Both and the rows
// have room for kSpare more components, which come in handy where components are taken together.
struct Moments {
    static constexpr std::int64_t kSpare = 4;

    template <class Isa>
    static DN_HD void run(const double* rows, std::int64_t count, std::int64_t stride, double* total, double* gram) {
        using F64 = Vector<Isa, double>;
        constexpr int lanes = Isa::bytes / 8, parts = kChunk / lanes;
        constexpr int high = 2, wide = lanes == 2 ? 1 : lanes / 2;
        for (std::int64_t k = 0; k < count; ++k) {
            F64 sum[parts] = {};
            for (std::int64_t i = 0; i < stride; i += kChunk) {
                for (int p = 0; p < parts; ++p)
                    sum[p] += *reinterpret_cast<const F64*>(rows + k * stride + i + p * lanes);
            }
            total[k] = reduce<Isa>(sum);
        }
        const std::int64_t width = count + kSpare;
        for (std::int64_t k = 0; k < count; k += high) {
            for (std::int64_t l = k; l < count; l += wide) {
                F64 sum[high][wide][parts] = {};
                for (std::int64_t i = 0; i < stride; i += kChunk) {
                    for (int p = 0; p < parts; ++p) {
                        const double* at = rows + i + p * lanes;
                        F64 left[high];
                        for (int r = 0; r < high; ++r) left[r] = *reinterpret_cast<const F64*>(at + (k + r) * stride);
                        for (int c = 0; c < wide; ++c) {
                            const F64 right = *reinterpret_cast<const F64*>(at + (l + c) * stride);
                            for (int r = 0; r < high; ++r)
                                sum[r][c][p] = multiply_add<Isa>(left[r], right, sum[r][c][p]);
                        }
                    }
                }
                for (int r = 0; r < high; ++r) {
                    for (int c = 0; c < wide; ++c) gram[(k + r) * width + l + c] = reduce<Isa>(sum[r][c]);
                }
            }
        }
    }

  private:
    // The sum of kChunk elements, by halves.
    template <class Isa>
    static DN_HD double reduce(Vector<Isa, double>* parts) {
        double values[kChunk];
        std::memcpy(values, parts, sizeof(values));
        return ((values[0] + values[4]) + (values[2] + values[6])) +
               ((values[1] + values[5]) + (values[3] + values[7]));
    }
};

// Profiles as the product takes them, in panels or blocks of `size` positions: out[p, k, i] = factor[k] rows[k, p size
// + i].
struct Pack {
    template <class Isa, class T>
    static DN_HD void run(const double* rows, const double* factor, std::int64_t count, std::int64_t stride,
                          std::int64_t size, T* out) {
        for (std::int64_t i = 0; i < stride; i += size) {
            const std::int64_t length = std::min(size, stride - i);
            for (std::int64_t k = 0; k < count; ++k, out += size) {
                for (std::int64_t j = 0; j < length; j += kChunk) {
                    const double* from = rows + k * stride + i + j;
                    for (int n = 0; n < kChunk; ++n) out[j + n] = static_cast<T>(from[n] * factor[k]);
                }
            }
        }
    }
};

template <class T>
struct Product {
    static constexpr std::int64_t kPanel = 128 / sizeof(T), kBlock = 8;

    // out[j, i] = offset + sum over k of y[k, j] x[k, i] for a block's rows. They may lie `distance` apart.
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
