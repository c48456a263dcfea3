// The bodies of the CUDA kernels, run on the CPU: every thread of a block is a fiber that runs from one barrier to the
// next, one after the other in an order that the caller chooses (0: forwards, 1: backwards, else shuffled). Where a
// barrier is missing, some order finds memory that is not yet written, or not any more. Shared memory begins full of
// NaNs and wild indices.

#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "gaussian_noise_block.h"
#include "gmm_noise_block.h"
#include "kts_noise_block.h"
#include "permutation.h"
#include "simplex_noise_at_block.h"
#include "simplex_noise_block.h"
#include "tsg_noise_block.h"

namespace diffnoise {
namespace {

// Set when some threads of a block ended while others waited at a barrier.
bool barriers_diverged = false;

class Fibers {
  public:
    using Body = std::function<void(int)>;

    explicit Fibers(int order) : order_(kThreads) {
        std::iota(order_.begin(), order_.end(), 0);
        if (order == 1) std::reverse(order_.begin(), order_.end());
        if (order > 1) std::shuffle(order_.begin(), order_.end(), std::mt19937(order));
    }
    void run(const Body& body) {
        body_ = &body;
        done_.assign(kThreads, false);
        running_ = this;
        for (int thread = 0; thread < kThreads; ++thread) {
            getcontext(&contexts_[thread]);
            contexts_[thread].uc_stack.ss_sp = stacks_.data() + thread * kStack;
            contexts_[thread].uc_stack.ss_size = kStack;
            contexts_[thread].uc_link = nullptr;
            makecontext(&contexts_[thread], enter, 0);
        }
        for (std::ptrdiff_t left = kThreads, before; left > 0;) {
            for (const int thread : order_) {
                current_ = thread;
                if (!done_[thread]) swapcontext(&main_, &contexts_[thread]);
            }
            before = left;
            left = std::count(done_.begin(), done_.end(), false);
            barriers_diverged |= left > 0 && left < before;
        }
    }
    void barrier() { swapcontext(&contexts_[current_], &main_); }

  private:
    static constexpr std::size_t kStack = 64 << 10;
    static void enter() {
        Fibers& self = *running_;
        (*self.body_)(self.current_);
        self.done_[self.current_] = true;
        self.barrier();
    }
    static inline Fibers* running_;

    std::vector<int> order_;
    std::vector<char> stacks_ = std::vector<char>(kThreads * kStack);
    std::vector<ucontext_t> contexts_ = std::vector<ucontext_t>(kThreads);
    std::vector<bool> done_;
    ucontext_t main_;
    const Body* body_;
    int current_;
};

class FiberBlock {
  public:
    FiberBlock(Fibers& fibers, int thread) : fibers_(fibers), thread_(thread) {}
    int thread() const { return thread_; }
    void barrier() const { fibers_.barrier(); }
    template <class F>
    void over(int count, const F& f) const {
        for (int i = thread_; i < count; i += kThreads) f(i);
    }

  private:
    Fibers& fibers_;
    int thread_;
};

class SharedMemory {
  public:
    explicit SharedMemory(std::size_t bytes) : bytes_(bytes + 64), begin_(bytes_.data()) {
        std::size_t room = bytes_.size();
        void* place = bytes_.data();
        begin_ = static_cast<unsigned char*>(std::align(32, bytes, place, room));
    }
    void spoil() { std::fill(bytes_.begin(), bytes_.end(), 0xFF); }
    unsigned char* data() { return begin_; }

  private:
    std::vector<unsigned char> bytes_;
    unsigned char* begin_;
};

// body(block, index, shared) for every block of a grid.
template <class Body>
void launch(int order, BlockIndex blocks, std::size_t shared_bytes, const Body& body) {
    Fibers fibers(order);
    SharedMemory shared(shared_bytes);
    for (BlockIndex at{}; at.x < blocks.x; ++at.x) {
        for (at.y = 0; at.y < blocks.y; ++at.y) {
            for (at.z = 0; at.z < blocks.z; ++at.z) {
                shared.spoil();
                fibers.run([&](int thread) { body(FiberBlock(fibers, thread), at, shared.data()); });
            }
        }
    }
}

// What a kernel writes to.
struct Out {
    double* data;

    template <class T>
    void operator()(std::int64_t i, T value) const {
        data[i] = value;
    }
    template <class T>
    void four(std::int64_t i, const T* value, std::int64_t begin, std::int64_t end) const {
        for (int k = 0; k < 4; ++k) {
            if (begin <= k && k < end) data[i + k] = value[k];
        }
    }
};

unsigned count(std::int64_t value) { return static_cast<unsigned>(value); }

// The arguments that all ops on pixels share, as the tests pass them.
struct Grid {
    std::int64_t batch;
    Pixels pixels;

    unsigned maps() const { return count(batch * pixels.channels); }
};

std::vector<std::uint8_t> permutations(const std::int64_t* seeds, std::int64_t batch, std::int64_t channels,
                                       int order) {
    std::vector<std::uint8_t> tables(batch * channels * 256);
    launch(order, {count(batch * channels), 1, 1}, sizeof(ShuffleMemory),
           [&](const auto& block, const auto& at, auto* shared) {
               permutation_block(block, at, seeds, channels, *reinterpret_cast<ShuffleMemory*>(shared), tables.data());
           });
    return tables;
}

template <int D, class T, class Store>
int fractal_simplex(const Grid& grid, const FractalSum& fractal, int order, const Store& store) {
    const Pixels& pixels = grid.pixels;
    const auto tables = permutations(pixels.seeds, grid.batch, D == 4 ? 1 : pixels.channels, order);
    const TilePlan<D, T> plan(fractal);
    launch(order, {grid.maps(), count(tile_rows(pixels.height)), count(tile_columns(pixels.width))}, plan.bytes,
           [&](const auto& block, const auto& at, auto* shared) {
               simplex_block<D, T>(block, at, pixels, fractal, plan, farthest_coordinate(fractal), tables.data(),
                                   shared, store);
           });
    return plan.octaves;
}

// f(T zero) for a precision; f(D, T zero) for a number of dimensions, too.
template <class F>
void with_type(int is_double, const F& f) {
    is_double ? f(double{}) : f(float{});
}
template <class F>
void with_dims(int dims, int is_double, const F& f) {
    with_type(is_double, [&](auto zero) {
        if (dims == 2) f(std::integral_constant<int, 2>{}, zero);
        if (dims == 3) f(std::integral_constant<int, 3>{}, zero);
        if (dims == 4) f(std::integral_constant<int, 4>{}, zero);
    });
}

}  // namespace
}  // namespace diffnoise

using namespace diffnoise;

extern "C" {

int diverged() { return barriers_diverged; }

void permutation(std::int64_t seed, int order, std::uint8_t* traced, std::uint8_t* shuffled) {
    const auto table = permutations(&seed, 1, 1, order);
    std::copy(table.begin(), table.end(), traced);
    make_permutation(seed, shuffled);
}

void gaussian_noise(const Grid* grid, int is_double, int order, double* out, std::int64_t stream) {
    const Pixels& pixels = grid->pixels;
    with_type(is_double, [&](auto zero) {
        launch(order, {grid->maps(), count(gaussian_rows(pixels.height)), count(gaussian_columns(pixels.width))}, 0,
               [&](const auto& block, const auto& at, auto*) {
                   gaussian_block<decltype(zero)>(block, at, pixels, stream, Out{out});
               });
    });
}

void gmm_noise(const Grid* grid, int is_double, int order, double* out, const Mixture* mixture) {
    const Pixels& pixels = grid->pixels;
    std::vector<Moments> moments(grid->maps());
    launch(order, {grid->maps(), 1, 1}, sizeof(MomentsMemory), [&](const auto& block, const auto& at, auto* shared) {
        moments_block(block, at, pixels, *mixture, *reinterpret_cast<MomentsMemory*>(shared), moments.data());
    });
    with_type(is_double, [&](auto zero) {
        using Memory = MixMemory<decltype(zero)>;
        const auto tiles = [](std::int64_t length) { return count((length + kMixTile - 1) / kMixTile); };
        launch(order, {grid->maps(), tiles(pixels.height), tiles(pixels.width)}, sizeof(Memory),
               [&](const auto& block, const auto& at, auto* shared) {
                   gmm_block(block, at, pixels, *mixture, moments.data(), *reinterpret_cast<Memory*>(shared), Out{out});
               });
    });
}

// Returns how many octaves were made tile by tile.
int simplex_noise(const Grid* grid, int is_double, int order, double* out, const FractalSum* fractal, int dims) {
    int octaves = 0;
    with_dims(dims, is_double, [&](auto d, auto zero) {
        const StoreSimplex<decltype(zero), Out> store{Out{out}};
        octaves = fractal_simplex<decltype(d)::value, decltype(zero)>(*grid, *fractal, order, store);
    });
    return octaves;
}

void tsg_noise(const Grid* grid, int is_double, int order, double* out, const FractalSum* fractal, double steps) {
    with_type(is_double, [&](auto zero) {
        const StoreBlend<decltype(zero), Out> store{steps, Out{out}};
        fractal_simplex<4, decltype(zero)>(*grid, *fractal, order, store);
    });
}

void kts_noise(const Grid* grid, int is_double, int order, double* out, const KtsField* field) {
    const Pixels& pixels = grid->pixels;
    const auto tables = permutations(pixels.seeds, grid->batch, 1, order);
    with_type(is_double, [&](auto zero) {
        using Table = LatticeTable<4, decltype(zero)>;
        const auto tiles = [](std::int64_t length) { return count((length + kKtsTile - 1) / kKtsTile); };
        launch(order, {grid->maps(), tiles(pixels.height), tiles(pixels.width)}, sizeof(Table),
               [&](const auto& block, const auto& at, auto* shared) {
                   kts_block(block, at, pixels, *field, tables.data(), *reinterpret_cast<Table*>(shared), Out{out});
               });
    });
}

void simplex_noise_at(const Points* points, std::int64_t batch, int dims, int is_double, int order, double* out,
                      const FractalSum* fractal) {
    const auto tables = permutations(points->seeds, batch, 1, order);
    Points at_points = *points;
    at_points.blocks = count((points->count + kPointsPerBlock - 1) / kPointsPerBlock);
    with_dims(dims, is_double, [&](auto d, auto zero) {
        using Table = LatticeTable<decltype(d)::value, decltype(zero)>;
        launch(order, {count(batch) * at_points.blocks, 1, 1}, sizeof(Table),
               [&](const auto& block, const auto& at, auto* shared) {
                   simplex_points_block(block, at, at_points, *fractal, tables.data(),
                                        *reinterpret_cast<Table*>(shared), Out{out});
               });
    });
}
}
