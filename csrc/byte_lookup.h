#pragma once

// CPU: 64 bytes at once looked up in a table of 256, on machines that can.

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define DN_BYTE_LOOKUP __attribute__((target("arch=x86-64-v4,avx512vbmi")))

namespace diffnoise {

// Beyond what Avx512 promises.
inline bool has_byte_lookup() {
    static const bool has = __builtin_cpu_supports("avx512vbmi");
    return has;
}

class ByteTable {
  public:
    DN_BYTE_LOOKUP explicit ByteTable(const std::uint8_t* bytes) {
        for (int i = 0; i < 4; ++i) part_[i] = _mm512_loadu_si512(bytes + 64 * i);
    }
    DN_BYTE_LOOKUP __m512i operator[](__m512i index) const {
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(part_[0], index, part_[1]),
                                      _mm512_permutex2var_epi8(part_[2], index, part_[3]));
    }

  private:
    __m512i part_[4];
};

}  // namespace diffnoise
#endif
