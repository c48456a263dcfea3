// Which clone of the hot loops this machine runs; `diffnoise doctor` prints it.
extern "C" __attribute__((visibility("default"))) const char* diffnoise_isa() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
    if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
    return "x86-64 (SSE2)";
#else
    return "baseline of the compiler's target";
#endif
}
