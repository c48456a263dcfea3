#include "interval_counts.h"

#include <mutex>

#include "stable.h"

namespace diffnoise {
namespace {

constexpr int64_t kMostAtOnce = int64_t{1} << 31;  // fit the counts of a thread

template <class T>
void count(const Input<T>& values, int64_t size, const Input<T>& edges, int64_t edge_count, int64_t* out) {
    std::vector<KeyOf<T>> keys(edge_count);
    for (int64_t i = 0; i < edge_count; ++i) {
        keys[i] = order_key(edges[i]);
        STD_TORCH_CHECK(i == 0 || keys[i - 1] < keys[i], "edges must ascend strictly and hold no NaN.");
    }
    const Edges<T> among(std::move(keys));
    const int64_t cells = 2 * edge_count + 1;
    std::fill_n(out, cells, 0);
    std::mutex adding;
    parallel_for(0, size, std::max<int64_t>(1 << 15, cells), [&](int64_t begin, int64_t end) {
        std::vector<uint32_t> counts(cells + 1);
        uint32_t found[Edges<T>::kBlock];
        while (begin < end) {
            const int64_t stop = std::min(end, begin + kMostAtOnce);
            for (; begin < stop; begin += Edges<T>::kBlock) {
                const int block = static_cast<int>(std::min<int64_t>(stop - begin, Edges<T>::kBlock));
                among.find(values.data() + begin, block, found);
                for (int j = 0; j < block; ++j) ++counts[found[j]];
            }
            begin = stop;
            counts[cells - 1] += counts[cells];
            const std::lock_guard lock(adding);
            for (int64_t i = 0; i < cells; ++i) out[i] += counts[i];
            std::fill(counts.begin(), counts.end(), 0);
        }
    });
}

Tensor interval_counts(Tensor values, Tensor edges) {
    const int64_t edge_count = edges.numel();
    check_shape(values, {values.numel()}, "values");
    check_shape(edges, {edge_count}, "edges");
    STD_TORCH_CHECK(edge_count < int64_t{1} << 30, "There are too many edges.");
    Tensor out = empty({2 * edge_count + 1}, ScalarType::Long, values);
    int64_t* memory = static_cast<int64_t*>(out.mutable_data_ptr());
    const auto of = [&](auto zero) {
        using T = decltype(zero);
        const Input<T> given(values, "values"), bounds(edges, "edges");
        count(given, values.numel(), bounds, edge_count, memory);
    };
    if (values.scalar_type() == ScalarType::Double)
        of(double{});
    else
        of(float{});
    return out;
}

}  // namespace
}  // namespace diffnoise

STABLE_TORCH_LIBRARY_IMPL(diffnoise, CPU, m) { m.impl("interval_counts", TORCH_BOX(&diffnoise::interval_counts)); }
