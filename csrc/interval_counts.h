#pragma once

// Where numbers lie among ascending edges, as in diffnoise/ops/interval_counts.py. Without torch.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "host_device.h"

namespace diffnoise {

template <class T>
using KeyOf = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

// An integer for every number, in the same order: -0 is 0, and NaN is above all.
template <class T>
DN_HD KeyOf<T> order_key(T value) {
    using Key = KeyOf<T>;
    constexpr Key sign = Key{1} << (8 * sizeof(Key) - 1);
    if (value != value) return ~Key{0};
    const Key bits = std::bit_cast<Key>(value + T(0));
    return bits & sign ? ~bits : bits | sign;
}

// Edges by their keys, and a table of where to begin to look for one.
template <class T>
class Edges {
  public:
    using Key = KeyOf<T>;
    static constexpr int kBlock = 64;  // numbers looked up side by side, so that none waits for another's memory

    // keys: of `count` edges below 2^31, strictly ascending.
    explicit Edges(std::vector<Key> keys) : count_(keys.size()), keys_(std::move(keys)) {
        if (count_ > 0) fill_starts();
        keys_.push_back(~Key{0});  // ends every search
    }

    // For each of `size` <= kBlock values 2 i between edges i - 1 and i, 2 i + 1 at edge i; that of NaN may be 2 count
    // + 1.
    void find(const T* values, int size, std::uint32_t* cells) const {
        const Key *keys = keys_.data(), lowest = lowest_, last = last_;
        const std::uint32_t* starts = starts_.data();
        const int shift = shift_;
        Key wanted[kBlock], found[kBlock];
        std::uint32_t buckets[kBlock];
        for (int j = 0; j < size; ++j) wanted[j] = order_key(values[j]);
        for (int j = 0; j < size; ++j) {
            buckets[j] = static_cast<std::uint32_t>(std::min((std::max(wanted[j], lowest) - lowest) >> shift, last));
        }
        for (int j = 0; j < size; ++j) cells[j] = starts[buckets[j]];
        // Two steps without a branch, whose outcome nobody could predict, are nearly always enough.
        for (int j = 0; j < size; ++j) cells[j] += keys[cells[j]] < wanted[j];
        for (int j = 0; j < size; ++j) cells[j] += keys[cells[j]] < wanted[j];
        bool all = true;
        for (int j = 0; j < size; ++j) found[j] = keys[cells[j]];
        for (int j = 0; j < size; ++j) all &= found[j] >= wanted[j];
        for (int j = 0; !all && j < size; ++j) {
            if (found[j] >= wanted[j]) continue;
            const Key* end = keys + starts[buckets[j] + 1];
            cells[j] = static_cast<std::uint32_t>(std::lower_bound(keys + cells[j], end, wanted[j]) - keys);
            found[j] = keys[cells[j]];
        }
        for (int j = 0; j < size; ++j) cells[j] = 2 * cells[j] + (found[j] == wanted[j]);
    }

  private:
    static constexpr Key kMostBuckets = Key{1} << 21;

    // Buckets of equal width, about half the gap between the edges where most of them are, as far as memory allows.
    void fill_starts() {
        lowest_ = keys_.front();
        const Key span = keys_.back() - lowest_;
        const std::size_t tail = count_ / 10;
        const Key gap = (keys_[count_ - 1 - tail] - keys_[tail]) / (count_ - 2 * tail);
        shift_ = std::max(0, static_cast<int>(std::bit_width(gap)) - 2);
        while ((span >> shift_) >= kMostBuckets) ++shift_;
        last_ = span >> shift_;
        starts_.resize(last_ + 2);
        std::size_t i = 0;
        for (Key bucket = 0; bucket <= last_; ++bucket) {
            starts_[bucket] = static_cast<std::uint32_t>(i);
            while (i < count_ && ((keys_[i] - lowest_) >> shift_) == bucket) ++i;
        }
        starts_[last_ + 1] = static_cast<std::uint32_t>(count_);
    }

    std::size_t count_;
    std::vector<Key> keys_;
    std::vector<std::uint32_t> starts_{0, 0};  // by bucket, the first edge in it or after it
    Key lowest_ = 0, last_ = 0;
    int shift_ = 0;
};

}  // namespace diffnoise
