#pragma once

// One reverse step for one pixel, as in diffnoise/ops/reverse_step.py.

#include "elementary.h"

namespace diffnoise {

// A row of the table; `Schedule` fills it.
enum Column {
    kX0FromXt,
    kX0FromOutput,
    kPrevFromX0,
    kPrevFromXt,
    kPrevFromOutput,
    kSigma,
    kLogVarianceSmall,
    kLogVarianceLarge,
    kLogVariance,
    kColumns
};

// Like torch.clamp: a NaN stays.
template <class T>
DN_HD T clamp(T x, T limit) {
    x = x < -limit ? -limit : x;
    return x > limit ? limit : x;
}

// x_0 as the model's output predicts it. limit: infinity for no clipping.
template <class T>
DN_HD T predicted_x_0(const T* row, T x_t, T output, T limit) {
    return clamp(row[kX0FromXt] * x_t + row[kX0FromOutput] * output, limit);
}

// x_{t-1} without its noise.
template <class T>
DN_HD T reverse_mean(const T* row, T x_t, T output, T limit) {
    const T x_0 = predicted_x_0(row, x_t, output, limit);
    return (row[kPrevFromX0] * x_0 + row[kPrevFromXt] * x_t) + row[kPrevFromOutput] * output;
}

// exp(log variance / 2), the variance learned as v in [-1, 1] between the row's bounds (Nichol and Dhariwal 2021, eq.
// 15).
template <class T>
DN_HD T learned_deviation(const T* row, T v) {
    const T k = (v + T(1)) * T(0.5);
    return exponential(T(0.5) * (k * row[kLogVarianceLarge] + (T(1) - k) * row[kLogVarianceSmall]));
}

}  // namespace diffnoise
