#pragma once

// GPU: the seeded shuffle of opensimplex.h, 256 entries at a time instead of one after the other.
//
// The shuffle is, for i = 255 .. 0: table[i] = source[r_i]; source[r_i] = source[i]. So what it finds at a place was
// put there by the last step before it that wrote there, which took it from a place of its own, and so on: every thread
// follows one entry back to where it came from.

#include "opensimplex.h"
#include "thread_block.h"

namespace diffnoise {

struct ShuffleMemory {
    std::uint8_t place[256];  // r_i
    // The steps that last wrote to place i and to place r_i before step i, which reads them; -1: none.
    std::int16_t writer[256], source[256];
};

// The generator's state after `steps` steps.
DN_HD std::uint64_t shuffle_state(std::int64_t seed, int steps) {
    std::uint64_t state = static_cast<std::uint64_t>(seed);
    std::uint64_t factor = 6364136223846793005u, increment = 1442695040888963407u;
    for (; steps; steps >>= 1) {
        if (steps & 1) state = state * factor + increment;
        increment *= factor + 1;
        factor *= factor;
    }
    return state;
}

// The permutation of the lattice that the index of the block counts, with `channels` lattices per sample.
template <class Block>
DN_HD void permutation_block(const Block& block, const BlockIndex& at, const std::int64_t* seeds, std::int64_t channels,
                             ShuffleMemory& memory, std::uint8_t* tables) {
    const unsigned sample = at.x / static_cast<unsigned>(channels),
                   channel = at.x - sample * static_cast<unsigned>(channels);
    const std::int64_t seed = channel_seed(seeds[sample], channel);
    block.over(256, [&](int i) {
        const std::int64_t state = static_cast<std::int64_t>(shuffle_state(seed, 259 - i) + 31);
        const std::int64_t r = state % (i + 1);
        memory.place[i] = static_cast<std::uint8_t>(r < 0 ? r + i + 1 : r);
    });
    block.barrier();
    block.over(256, [&](int i) {
        int writer = -1, source = -1;
        const int place = memory.place[i];
        for (int step = 255; step > i; --step) {
            const int written = memory.place[step];
            if (written == i) writer = step;
            if (written == place) source = step;
        }
        memory.writer[i] = static_cast<std::int16_t>(writer);
        memory.source[i] = static_cast<std::int16_t>(source);
    });
    block.barrier();
    block.over(256, [&](int i) {
        int from = memory.place[i];
        for (int step = memory.source[i]; step >= 0; step = memory.writer[step]) from = step;
        tables[std::int64_t{at.x} * 256 + i] = static_cast<std::uint8_t>(from);
    });
}

}  // namespace diffnoise
