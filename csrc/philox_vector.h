#pragma once

// CPU: the words of philox.h and the float N(0, 1) numbers made of them, a register's worth of counters at a time.

#include <utility>

#include "philox.h"
#include "vector.h"

namespace diffnoise {

// a0 b1 a2 b3 ...
template <class V, std::size_t... I>
DN_HD V alternate(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (I % 2 ? sizeof...(I) + I : I)...);
}

// Of every four a and four b: a0 b0 a1 b1 for half = 0, a2 b2 a3 b3 for half = 1.
template <int half, class V, std::size_t... I>
DN_HD V interleave(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + 2 * half + I % 4 / 2 + I % 2 * sizeof...(I))...);
}

// What all rows of one seed, t, channel and stream share.
template <class Isa>
struct MapWords {
    using U64 = Vector<Isa, std::uint64_t>;

    DN_HD explicit MapWords(const Address& map) : m0(U64{} + kPhiloxM0), m1(U64{} + kPhiloxM1) {
        for (std::uint32_t i = 0; i < 10; ++i) {
            k0[i] = U64{} + (map.k0 + i * kPhiloxW0);
            k1[i] = U64{} + (map.k1 + i * kPhiloxW1);
        }
        t = U64{} + (map.t ^ map.k1);
        channel = U64{} + (map.channel * kPhiloxM1 ^ (map.k0 + kPhiloxW0));
    }

    U64 m0, m1, k0[10], k1[10], t, channel;
};

// Where a block lies.
template <class Isa>
struct BlockAddress {
    using U64 = Vector<Isa, std::uint64_t>;
    static constexpr int counters = Isa::bytes / 8;

    // Members are set one by one, because compilers leave what is copied as a whole in memory.
    // x_quarter: a quarter of the first x.
    DN_HD void set(const Address& row, std::int64_t x_quarter) {
        x = U64{} + static_cast<std::uint64_t>(x_quarter);
        // The order that `interleave` needs: 0, n / 2, 1, n / 2 + 1, ...
        for (int i = 0; i < counters; ++i) x[i] += i % 2 * (counters / 2) + i / 2;
        // The products of the first two rounds without x are the same in the whole row.
        const std::uint64_t first = static_cast<std::uint64_t>(row.channel) * kPhiloxM1;
        const std::uint32_t w0 = static_cast<std::uint32_t>(first >> 32) ^ row.y ^ row.k0;
        const std::uint64_t second = static_cast<std::uint64_t>(w0) * kPhiloxM0;
        y_high = U64{} + (static_cast<std::uint32_t>(second >> 32) ^ (row.k1 + kPhiloxW1));
        y_low = U64{} + (static_cast<std::uint32_t>(second) ^ (row.k1 + 2 * kPhiloxW1));
    }
    DN_HD void advance() { x += counters; }

    U64 x, y_high, y_low;
};

// 4 * counters neighbours in x, in steps that a caller runs for several blocks in turn: one block alone is a chain of
// dependent operations.
//
// A word lies in the low half of a 64-bit lane; what is in the high half never counts.
template <class Isa>
class NormalBlock {
  public:
    static constexpr int counters = BlockAddress<Isa>::counters;
    static constexpr int size = 4 * counters;

    // Three rounds.
    DN_HD void start(const MapWords<Isa>& map, const BlockAddress<Isa>& address) {
        U64 p0 = multiply_low_halves<Isa>(address.x, map.m0);
        U64 p1 = multiply_low_halves<Isa>((p0 >> 32) ^ map.t, map.m1);
        w0_ = (p1 >> 32) ^ map.channel, w1_ = p1, w2_ = p0 ^ address.y_high;
        p0 = multiply_low_halves<Isa>(w0_, map.m0), p1 = multiply_low_halves<Isa>(w2_, map.m1);
        w0_ = (p1 >> 32) ^ w1_ ^ map.k0[2], w1_ = p1, w2_ = (p0 >> 32) ^ address.y_low, w3_ = p0;
    }

    DN_HD void round(const MapWords<Isa>& map, int i) {
        const U64 p0 = multiply_low_halves<Isa>(w0_, map.m0), p1 = multiply_low_halves<Isa>(w2_, map.m1);
        w0_ = (p1 >> 32) ^ w1_ ^ map.k0[i], w1_ = p1, w2_ = (p0 >> 32) ^ w3_ ^ map.k1[i], w3_ = p0;
    }

    // The last round. Words 0 and 2, which make radii, come to lie side by side, and so do 1 and 3, which make angles.
    DN_HD void finish(const MapWords<Isa>& map) {
        const U64 p0 = multiply_low_halves<Isa>(w0_, map.m0), p1 = multiply_low_halves<Isa>(w2_, map.m1);
        const U64 w0 = (p1 >> 32) ^ w1_ ^ map.k0[9], w2_high = p0 ^ (w3_ << 32) ^ (map.k1[9] << 32);
        radius_ = alternate((U32)w0, (U32)w2_high, Lanes{});
        angle_ = alternate((U32)p1, (U32)(p0 << 32), Lanes{});
    }

    // sqrt(-2 log u) with the sign of the angle's half turn.
    DN_HD void make_radius() {
        // u 2^24 = m 2^e with m / 2^24 between sqrt(1/2) and sqrt(2). Then -2 log u = z p(z) - 2 log(2) e, where z = m
        // / 2^24 - 1.
        constexpr std::int32_t root_half = 0x4B3504F3;
        const I32 bits = (I32) __builtin_convertvector((I32)((radius_ >> 8) + 1), F32);
        const I32 e = (bits - root_half) & (I32{} - 0x800000);  // times 2^23
        const F32 z = multiply_add<Isa>((F32)(bits - e), F32{} + 0x1p-24f, F32{} - 1.0f);
        const F32 p =
            horner<Isa>(z, -0.174447161227f, 0.287336876464f, -0.299045321097f, 0.331247861931f, -0.399136673297f,
                        0.500041481196f, -0.666683712385f, 0.999999759288f, -1.99999994838f);
        const F32 square = multiply_add<Isa>(__builtin_convertvector(e, F32), F32{} - 1.65259165897e-7f, z * p);
        signed_radius_ = (F32)((U32)square_root<Isa>(square) ^ (angle_ & 0x80000000u));
    }

    // The numbers in the order of x. The angle is pi (h + 1/2 + r) with h = 0 or 1 and r in [-1/2, 1/2).
    DN_HD void values(Vector<Isa, float>& low_half, Vector<Isa, float>& high_half) const {
        const F32 r = (F32)((angle_ >> 8 & 0x7FFFFFu) | 0x3F800000u) - 1.5f, square = r * r;
        const F32 sine =
            r * horner<Isa>(square, -0.0772201249797f, 0.59804517179f, -2.5500313768f, 5.16770687889f, -3.14159258004f);
        const F32 cosine =
            horner<Isa>(square, 0.219696798619f, -1.33188016337f, 4.05841191496f, -4.93479285875f, 0.999999953468f);
        const F32 first = signed_radius_ * sine, second = signed_radius_ * cosine;
        low_half = interleave<0>(first, second, Lanes{});
        high_half = interleave<1>(first, second, Lanes{});
    }

  private:
    using Lanes = std::make_index_sequence<size / 2>;
    using U64 = Vector<Isa, std::uint64_t>;
    using U32 = Vector<Isa, std::uint32_t>;
    using I32 = Vector<Isa, std::int32_t>;
    using F32 = Vector<Isa, float>;

    U64 w0_, w1_, w2_, w3_;
    U32 radius_, angle_;
    F32 signed_radius_;
};

}  // namespace diffnoise
