#include "attention.h"

#include "aligned_buffer.h"
#include "images.h"

namespace diffnoise {
namespace {

// qkv: [tokens, 3 heads channels] of one sample, out: [tokens, heads channels].
template <class Image>
void attend(const Image* qkv, int64_t tokens, int64_t heads, int64_t channels, int64_t begin, int64_t end, Image* out) {
    using T = compute_t<Image>;
    const int64_t width = heads * channels, blocks = (tokens + kQueries - 1) / kQueries;
    AlignedBuffer<T> keys(tokens * channels), values(tokens * channels), scratch(attend_scratch(channels));
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / blocks, first = i % blocks * kQueries;
        const Image* const from = qkv + head * channels;
        if (head != packed) {
            packed = head;
            for (int64_t k = 0; k < tokens; ++k) {
                for (int64_t c = 0; c < channels; ++c) {
                    keys.data()[k * channels + c] = static_cast<T>(from[k * 3 * width + width + c]);
                    values.data()[k * channels + c] = static_cast<T>(from[k * 3 * width + 2 * width + c]);
                }
            }
        }
        run_best<Attend>(from + first * 3 * width, 3 * width, std::min(kQueries, tokens - first),
                         static_cast<const T*>(keys.data()), static_cast<const T*>(values.data()), tokens, channels,
                         scratch.data(), out + first * width + head * channels, width);
    }
}

Tensor attention(Tensor qkv, int64_t heads) {
    const Shape given(qkv);
    STD_TORCH_CHECK(heads > 0 && given.channels % (3 * heads) == 0,
                    "qkv must have 3 channels for every one of a head.");
    Shape from = given;
    from.channels_last = true;
    Shape to = from;
    to.channels = given.channels / 3;
    Tensor out = empty(to, qkv.scalar_type(), qkv);
    if (!to.empty()) {
        dispatch_floating(qkv.scalar_type(), [&](auto zero) {
            using Image = decltype(zero);
            const Images<Image> images(qkv, from, "qkv");
            const int64_t tokens = from.height * from.width, blocks = (tokens + kQueries - 1) / kQueries;
            Image* const memory = static_cast<Image*>(out.mutable_data_ptr());
            for (int64_t sample = 0; sample < from.batch; ++sample) {
                parallel_for(0, heads * blocks, 1, [&](int64_t begin, int64_t end) {
                    attend(images.sample(sample), tokens, heads, to.channels / heads, begin, end,
                           memory + sample * to.sample());
                });
            }
        });
    }
    return given.channels_last ? out : torch::stable::contiguous(out);
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("attention", TORCH_BOX(&diffnoise::attention)); }
