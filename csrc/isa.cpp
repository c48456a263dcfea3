#include "isa.h"

#include <cstdlib>
#include <string_view>

namespace diffnoise {

namespace {

Level find_level() {
#if defined(__x86_64__) && defined(__GNUC__)
    const char* asked = std::getenv("DIFFNOISE_ISA");
    const std::string_view limit = asked ? asked : "avx512";
    if (limit == "baseline") return Level::baseline;
    if (limit != "avx2" && __builtin_cpu_supports("x86-64-v4")) return Level::avx512;
    if (__builtin_cpu_supports("x86-64-v3")) return Level::avx2;
#endif
    return Level::baseline;
}

}  // namespace

Level isa_level() {
    static const Level level = find_level();  // for good: all loops run at the level that was reported
    return level;
}

}  // namespace diffnoise

// Which copy of the hot loops runs; `diffnoise doctor` prints it.
extern "C" __attribute__((visibility("default"))) const char* diffnoise_isa() {
    switch (diffnoise::isa_level()) {
        case diffnoise::Level::avx512:
            return "avx512";
        case diffnoise::Level::avx2:
            return "avx2";
        default:
            return "baseline";
    }
}
