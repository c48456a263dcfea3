#pragma once

// CPU: one reverse step for a register of pixels, as in diffnoise/ops/reverse_step.py.

#include "vector.h"

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
          log_sigma_middle(0.25 * (row[kLogVarianceLarge] + row[kLogVarianceSmall])),
          log_sigma_slope(0.25 * (row[kLogVarianceLarge] - row[kLogVarianceSmall])),
          limit(limit),
          weight(guidance * row[kOneMinusAlphaBar]) {}

    T x_0_from_x_t, x_0_from_output, prev_from_x_0, prev_from_x_t, prev_from_output, prev_from_shift;
    T sigma, log_sigma_middle, log_sigma_slope;
    T limit, weight;
};

// x * scale + rest with a number as the scale.
template <class Isa, class T>
DN_HD Vector<Isa, T> scaled(Vector<Isa, T> x, std::type_identity_t<T> scale, Vector<Isa, T> rest) {
    return multiply_add<Isa>(x, broadcast<Isa>(scale), rest);
}

// Like torch.clamp: a NaN stays.
template <class Isa, class T>
DN_HD Vector<Isa, T> clamp(Vector<Isa, T> x, T limit) {
    const Vector<Isa, T> high = broadcast<Isa>(limit), low = broadcast<Isa>(-limit);
    x = x < low ? low : x;
    return x > high ? high : x;
}

// x_0 as the model's output predicts it, before clipping.
template <class Isa, class T>
DN_HD Vector<Isa, T> predicted_x_0(const Step<T>& step, Vector<Isa, T> x_t, Vector<Isa, T> output) {
    return scaled<Isa, T>(x_t, step.x_0_from_x_t, output * broadcast<Isa>(step.x_0_from_output));
}

// x_{t-1} without its noise. target may be null.
template <class Isa, class T>
DN_HD Vector<Isa, T> reverse_mean(const Step<T>& step, Vector<Isa, T> x_t, Vector<Isa, T> output,
                                  const Vector<Isa, T>* target) {
    Vector<Isa, T> x_0 = predicted_x_0<Isa>(step, x_t, output);
    Vector<Isa, T> rest = output * broadcast<Isa>(step.prev_from_output);
    if (target) {
        const Vector<Isa, T> shift = (*target - x_0) * broadcast<Isa>(step.weight);
        x_0 += shift;
        rest = scaled<Isa, T>(shift, step.prev_from_shift, rest);
    }
    rest = scaled<Isa, T>(x_t, step.prev_from_x_t, rest);
    return scaled<Isa, T>(clamp<Isa>(x_0, step.limit), step.prev_from_x_0, rest);
}

// Half the log variance that is learned as v in [-1, 1] between the row's bounds (Nichol and Dhariwal 2021, eq. 15).
template <class Isa, class T>
DN_HD Vector<Isa, T> learned_log_sigma(const Step<T>& step, Vector<Isa, T> v) {
    return scaled<Isa, T>(v, step.log_sigma_slope, broadcast<Isa>(step.log_sigma_middle));
}

}  // namespace diffnoise
