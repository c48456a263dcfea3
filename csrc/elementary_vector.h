#pragma once

// CPU: e^x for every element of a register. float: the polynomial of elementary.h, with the level's fused
// multiply-adds. double: number by number.

#include "elementary.h"
#include "vector.h"

namespace diffnoise {

// e^x in parts: x = n log(2) + r, and e^r = 1 + r + tail. n is held to what 2^n can be: e^x ends at 2^127.5, and at 0
// where it would be below the normal numbers.
template <class Isa>
struct Exponent {
    using F32 = Vector<Isa, float>;
    using I32 = Vector<Isa, std::int32_t>;

    DN_HD explicit Exponent(F32 x) {
        const F32 low = broadcast<Isa>(-88.0f), high = broadcast<Isa>(88.37f);
        x = x < low ? low : x;
        x = x > high ? high : x;
        // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
        const F32 shifter = broadcast<Isa>(12582912.0f);
        const F32 shifted = multiply_add<Isa>(x, broadcast<Isa>(1.44269504088896341f), shifter), n = shifted - shifter;
        r = multiply_add<Isa>(n, broadcast<Isa>(2.12194440e-4f),
                              multiply_add<Isa>(n, broadcast<Isa>(-0.693359375f), x));
        tail = r * r *
               horner<Isa>(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                           5.0000001201e-1f);
        power = (F32)(((I32)shifted + 127) << 23);
    }

    // e^x
    DN_HD F32 value() const { return multiply_add<Isa>(power, tail + r, power); }

    F32 r, tail, power;
};

// e^x; keeps NaN.
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
    const Exponent<Isa> parts(x);
    value = parts.value();
    // 2^n tail + (2^n - 1) + (2^n r - x)
    tail =
        multiply_add<Isa>(parts.power, parts.tail, (parts.power - 1.0f) + multiply_add<Isa>(parts.power, parts.r, -x));
}
template <class Isa>
DN_HD void exponential_and_tail(Vector<Isa, double> x, Vector<Isa, double>& value, Vector<Isa, double>& tail) {
    for (int i = 0; i < Isa::bytes / 8; ++i) {
        value[i] = std::exp(x[i]);
        tail[i] = exponential_tail(x[i]);
    }
}

}  // namespace diffnoise
