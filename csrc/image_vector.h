#pragma once

// CPU: registers of pixels, computed in float or double, in memory as any floating dtype.

#include "stable.h"
#include "vector.h"

namespace diffnoise {

// What a register holds of an image.
template <class Isa, class Image>
using Register = Vector<Isa, compute_t<Image>>;
template <class Isa, class Image>
constexpr int register_size = Isa::bytes / static_cast<int>(sizeof(compute_t<Image>));

// Of the plain conversions GCC makes several instructions.
template <int N>
DN_HD Wide<std::uint32_t, N> widened(Wide<std::uint16_t, N> x) {
#ifdef DN_GCC_X86
    using I32 = Wide<std::int32_t, N>;
    if constexpr (N == 16) return (Wide<std::uint32_t, N>)__builtin_ia32_pmovzxwd512_mask((Wide<short, N>)x, I32{}, -1);
    if constexpr (N == 8) return (Wide<std::uint32_t, N>)__builtin_ia32_pmovzxwd256((Wide<short, N>)x);
#endif
    return __builtin_convertvector(x, Wide<std::uint32_t, N>);
}

// The low halves.
template <int N>
DN_HD Wide<std::uint16_t, N> narrowed(Wide<std::uint32_t, N> x) {
#ifdef DN_GCC_X86
    if constexpr (N == 16)
        return (Wide<std::uint16_t, N>)__builtin_ia32_pmovdw512_mask((Wide<std::int32_t, N>)x, Wide<short, N>{}, -1);
#endif
    return __builtin_convertvector(x, Wide<std::uint16_t, N>);
}

template <class Isa, class Image>
DN_HD Register<Isa, Image> load(const Image* from) {
    constexpr int size = register_size<Isa, Image>;
    if constexpr (std::is_same_v<Image, BFloat16>) {
        const auto bits = *reinterpret_cast<const UnalignedWide<std::uint16_t, size>*>(from);
        return (Register<Isa, Image>)(widened<size>(bits) << 16);
    } else if constexpr (std::is_same_v<Image, Half>) {
        Register<Isa, Image> values{};
#ifdef DN_GCC_X86
        if constexpr (Isa::bytes == 64) {
            const auto bits = *reinterpret_cast<const UnalignedWide<short, size>*>(from);
            return __builtin_ia32_vcvtph2ps512_mask(bits, values, -1, 4);
        } else if constexpr (Isa::bytes == 32) {
            return __builtin_ia32_vcvtph2ps256(*reinterpret_cast<const UnalignedWide<short, size>*>(from));
        }
#endif
        for (int i = 0; i < size; ++i) values[i] = static_cast<float>(from[i]);
        return values;
    } else {
        return *reinterpret_cast<const Register<Isa, Image>*>(from);
    }
}

template <class Isa, class Image>
DN_HD void store(Image* to, Register<Isa, Image> values) {
    constexpr int size = register_size<Isa, Image>;
    if constexpr (std::is_same_v<Image, BFloat16>) {
        using U32 = Vector<Isa, std::uint32_t>;
        const U32 bits = (U32)values, rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
        const U32 kept = values == values ? rounded : U32{} + 0x7FC0u;
        *reinterpret_cast<UnalignedWide<std::uint16_t, size>*>(to) = narrowed<size>(kept);
    } else if constexpr (std::is_same_v<Image, Half>) {
#ifdef DN_GCC_X86
        if constexpr (Isa::bytes == 64) {
            *reinterpret_cast<UnalignedWide<short, size>*>(to) =
                __builtin_ia32_vcvtps2ph512_mask(values, 0, UnalignedWide<short, size>{}, -1);
            return;
        } else if constexpr (Isa::bytes == 32) {
            *reinterpret_cast<UnalignedWide<short, size>*>(to) = __builtin_ia32_vcvtps2ph256(values, 0);
            return;
        }
#endif
        for (int i = 0; i < size; ++i) to[i] = static_cast<Half>(values[i]);
    } else {
        *reinterpret_cast<Register<Isa, Image>*>(to) = values;
    }
}

// How many pixels lie before the next address that is a multiple of a register's length.
template <class Isa, class Image>
DN_HD int before_boundary(const Image* at) {
    constexpr std::uintptr_t length = register_size<Isa, Image> * sizeof(Image);
    return static_cast<int>(-reinterpret_cast<std::uintptr_t>(at) % length / sizeof(Image));
}

// Like `store` at such an address, past the caches where there is an instruction for it; `end_of_stream` after the
// last.
template <class Isa, class Image>
DN_HD void stream(Image* to, Register<Isa, Image> values) {
#ifdef DN_GCC_X86
    if constexpr (std::is_same_v<Image, float>) {
        if constexpr (Isa::bytes == 64) {
            return __builtin_ia32_movntps512(to, values);
        } else if constexpr (Isa::bytes == 32) {
            return __builtin_ia32_movntps256(to, values);
        } else {
            return __builtin_ia32_movntps(to, values);
        }
    }
#endif
    store<Isa>(to, values);
}
DN_HD void end_of_stream() {
#ifdef DN_GCC_X86
    __builtin_ia32_sfence();
#endif
}

// Of a register at `from` the pixels begin .. end - 1, zero around them.
template <class Isa, class Image>
DN_HD Register<Isa, Image> load(const Image* from, int begin, int end) {
    Image whole[register_size<Isa, Image>] = {};
    for (int i = begin; i < end; ++i) whole[i] = from[i];
    return load<Isa>(whole);
}
template <class Isa, class Image>
DN_HD void store(Image* to, Register<Isa, Image> values, int begin, int end) {
    Image whole[register_size<Isa, Image>];
    store<Isa>(whole, values);
    for (int i = begin; i < end; ++i) to[i] = whole[i];
}

}  // namespace diffnoise
