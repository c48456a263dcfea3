#pragma once

// CPU: e^x for every element of a register. float: the polynomial of elementary.h, with the level's fused
// multiply-adds. double: number by number.

#include "elementary.h"
#include "vector.h"

namespace diffnoise {

// e^x in parts: x = n log(2) + r, and e^r = 1 + r + tail.
template <class Isa>
struct Exponent {
    using F32 = Vector<Isa, float>;
    using I32 = Vector<Isa, std::int32_t>;

    DN_HD explicit Exponent(F32 x) {
        const F32 low = F32{} - 104.0f, high = F32{} + 89.0f;
        x = x < low ? low : x;
        x = x > high ? high : x;
        // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
        const F32 shifter = F32{} + 12582912.0f;
        const F32 shifted = multiply_add<Isa>(x, F32{} + 1.44269504088896341f, shifter), n = shifted - shifter;
        r = multiply_add<Isa>(n, F32{} + 2.12194440e-4f, multiply_add<Isa>(n, F32{} - 0.693359375f, x));
        tail = r * r *
               horner<Isa>(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                           5.0000001201e-1f);
        // 2^n in two factors, for results below the smallest normal number and for infinity.
        const I32 exponent = (I32)shifted - (I32)shifter, half = exponent >> 1;
        power = (F32)((half + 127) << 23), rest = (F32)((exponent - half + 127) << 23);
    }

    // e^x
    DN_HD F32 value() const { return (tail + r + 1.0f) * power * rest; }

    F32 r, tail, power, rest;
};

// e^x; overflows to infinity, keeps NaN.
template <class Isa>
DN_HD Vector<Isa, float> exponential(Vector<Isa, float> x) {
    return Exponent<Isa>(x).value();
}
template <class Isa>
DN_HD Vector<Isa, double> exponential(Vector<Isa, double> x) {
    for (int i = 0; i < Isa::bytes / 8; ++i) x[i] = exponential(x[i]);
    return x;
}

// e^x, and e^x - 1 - x without loss of digits near 0.
template <class Isa>
DN_HD void exponential_and_tail(Vector<Isa, float> x, Vector<Isa, float>& value, Vector<Isa, float>& tail) {
    using F32 = Vector<Isa, float>;
    const Exponent<Isa> parts(x);
    value = parts.value();
    // Near 0 each part by itself: 2^n tail + (2^n - 1) + (2^n r - x).
    const F32 scale = parts.power * parts.rest;
    const F32 near = multiply_add<Isa>(scale, parts.tail, (scale - 1.0f) + multiply_add<Isa>(scale, parts.r, -x));
    tail = x * x < 1.0f ? near : value - 1.0f - x;
}
template <class Isa>
DN_HD void exponential_and_tail(Vector<Isa, double> x, Vector<Isa, double>& value, Vector<Isa, double>& tail) {
    for (int i = 0; i < Isa::bytes / 8; ++i) {
        value[i] = std::exp(x[i]);
        tail[i] = exponential_tail(x[i]);
    }
}

}  // namespace diffnoise
