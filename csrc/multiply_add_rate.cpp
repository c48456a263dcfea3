#include <cstdint>
#include <type_traits>

#include "isa.h"
#include "stable.h"

namespace diffnoise {
namespace {

constexpr int64_t kChains = 12;  // enough to hide the latency of two units; few enough for the 16 registers of AVX2

template <class Isa>
struct Register {
    static constexpr int64_t lanes = std::is_same_v<Isa, Avx512> ? 16 : std::is_same_v<Isa, Avx2> ? 8 : 4;
    typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
};

struct MultiplyAdd {
    template <class Isa>
    static DN_HD void run(int64_t rounds, volatile float* result, int64_t* count) {
        using Vector = typename Register<Isa>::Vector;
        const Vector factor = Vector{} + 0.5f, addend = Vector{} + 1.f;
        Vector sum[kChains];
        for (int64_t i = 0; i < kChains; ++i)
            sum[i] = Vector{} + static_cast<float>(i);  // else they would be one chain
        for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
            for (Vector& chain : sum) chain = multiply_add<Isa>(chain, factor, addend);
        }
        Vector total{};
        for (const Vector& chain : sum) total += chain;
        *result = total[0];
        *count = rounds * kChains * Register<Isa>::lanes;
    }
};

}  // namespace
}  // namespace diffnoise

// The limit of arithmetic that `diffnoise bench` measures: `rounds` of independent multiply-adds in registers on each
// of `threads` threads, at the level whose hot loops run. Returns how many float multiply-adds a thread did.
extern "C" __attribute__((visibility("default"))) int64_t diffnoise_multiply_adds(int64_t threads, int64_t rounds) {
    int64_t count = 0;
    diffnoise::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            volatile float result;
            int64_t mine;
            diffnoise::run_best<diffnoise::MultiplyAdd>(rounds, &result, &mine);
            if (i == 0) count = mine;
        }
    });
    return count;
}
