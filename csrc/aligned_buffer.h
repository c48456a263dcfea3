#pragma once

// CPU: memory for numbers that starts at a cache line.

#include <cstddef>
#include <memory>

namespace diffnoise {

template <class T>
class AlignedBuffer {
  public:
    AlignedBuffer() = default;
    explicit AlignedBuffer(std::size_t size) { reserve(size); }

    // Room for `size` numbers, of any value. What was there before is lost where the room has to grow.
    T* reserve(std::size_t size) {
        const std::size_t lines = (size + kNumbers - 1) / kNumbers;
        if (lines > lines_) memory_.reset(new CacheLine[lines]), lines_ = lines;
        return data();
    }
    T* data() const { return memory_ ? memory_[0].numbers : nullptr; }

  private:
    static constexpr std::size_t kNumbers = 64 / sizeof(T);
    struct alignas(64) CacheLine {
        T numbers[kNumbers];
    };

    std::size_t lines_ = 0;
    std::unique_ptr<CacheLine[]> memory_;
};

}  // namespace diffnoise
