#pragma once

// One reverse step for one pixel, or for a register of them, as in diffnoise/ops/reverse_step.py.

#include "host_device.h"

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
    kOneMinusAlphaBar,
    kPrevFromShift,
    kColumns
};

// What all pixels of a sample share. limit: of x_0, infinity for no clipping.
template <class T>
struct Step {
    Step(const double* row, double limit, double guidance)
        : x_0_from_x_t(row[kX0FromXt]),
          x_0_from_output(row[kX0FromOutput]),
          prev_from_x_0(row[kPrevFromX0]),
          prev_from_x_t(row[kPrevFromXt]),
          prev_from_output(row[kPrevFromOutput]),
          prev_from_shift(row[kPrevFromShift]),
          sigma(row[kSigma]),
          log_variance_small(row[kLogVarianceSmall]),
          log_variance_large(row[kLogVarianceLarge]),
          limit(limit),
          weight(guidance * row[kOneMinusAlphaBar]) {}

    T x_0_from_x_t, x_0_from_output, prev_from_x_0, prev_from_x_t, prev_from_output, prev_from_shift;
    T sigma, log_variance_small, log_variance_large;
    T limit, weight;
};

// Like torch.clamp: a NaN stays.
template <class V, class T>
DN_HD V clamp(V x, T limit) {
    const V high = V{} + limit, low = -high;
    x = x < low ? low : x;
    return x > high ? high : x;
}

// x_0 as the model's output predicts it, before clipping.
template <class V, class T>
DN_HD V predicted_x_0(const Step<T>& step, V x_t, V output) {
    return step.x_0_from_x_t * x_t + step.x_0_from_output * output;
}

// x_{t-1} without its noise.
template <class V, class T>
DN_HD V previous(const Step<T>& step, V x_0, V x_t, V output) {
    return (step.prev_from_x_0 * clamp(x_0, step.limit) + step.prev_from_x_t * x_t) + step.prev_from_output * output;
}
template <class V, class T>
DN_HD V reverse_mean(const Step<T>& step, V x_t, V output) {
    return previous(step, predicted_x_0(step, x_t, output), x_t, output);
}
template <class V, class T>
DN_HD V reverse_mean(const Step<T>& step, V x_t, V output, V target) {
    const V x_0 = predicted_x_0(step, x_t, output), shift = step.weight * (target - x_0);
    return previous(step, x_0 + shift, x_t, output) + step.prev_from_shift * shift;
}

// The log variance that is learned as v in [-1, 1] between the row's bounds (Nichol and Dhariwal 2021, eq. 15).
template <class V, class T>
DN_HD V learned_log_variance(const Step<T>& step, V v) {
    const V k = (v + T(1)) * T(0.5);
    return k * step.log_variance_large + (T(1) - k) * step.log_variance_small;
}

}  // namespace diffnoise
