// Lanes: the channels that a C++ kernel computes side by side. Arrays are [scalar][lane];
// the inner loops have a fixed length, so that any compiler vectorises them.
#pragma once

#include "rnncc/cpp/past_cache.h"

#define RNNCC_EXPORT extern "C" __attribute__((visibility("default")))

// Copies and bookkeeping are compiled once: inlined in each caller they take most of the time of a
// build, and a call costs little beside the copy.
#if defined(__GNUC__) && !defined(__clang__)
#define RNNCC_ONCE __attribute__((noinline, noclone))
#else
#define RNNCC_ONCE __attribute__((noinline))
#endif

namespace rnncc {

constexpr int kLanes = 64 / sizeof(real);
constexpr int kTile = 256;            // the most lanes of several runs side by side
constexpr int kWidest = 4096;         // the most of one run
constexpr int kSlice = 16 * kLanes;   // the most that a step takes at once, in the nearest cache
constexpr int kRow = kTile + kLanes;  // between the rows of a Jacobian, and of a large cell
constexpr int kSoon = 8 * kLanes;     // from a block of an input to the one that is fetched with it

// The sizes of `count` lanes so far, each the largest; NaN has none.
RNNCC_ONCE static void note_sizes(int64_t count, const real* lanes, real* sizes) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const real size = lanes[i] < 0 ? -lanes[i] : lanes[i];
    sizes[i] = size > sizes[i] ? size : sizes[i];
  }
}

static void clear_lanes(int64_t count, real* lanes) {
  for (int64_t i = 0; i < count; ++i) lanes[i] = 0;
}

// A row of lanes whose blocks of kLanes may lie apart.
struct Row {
  real* at;
  const int64_t* blocks;  // where each begins
  int64_t apart;          // to the row of the next step
  bool past = false;      // lines of memory that are written past the cache
  real* block(int first) const { return at + blocks[first / kLanes] - first; }
};

// Brings what is read soon into the nearest cache, beside the work on a block. The hardware does so
// too, but not across pages, and not where states and params that are wider than that cache are read
// between two lines of a stream. Inlined, for a call would have no effect that compilers see.
RNNCC_FN void fetch_soon(const Row* rows, int count, int first) {
  for (int i = 0; i < count; ++i) __builtin_prefetch(rows[i].block(first) + first + kSoon, 0, 3);
}

// A block of lanes of a result, from `first` on, which goes to its row at the end; nowhere without one.
struct Result {
  const Row* const row;
  const int first;
  alignas(64) real lanes[kLanes];

  RNNCC_MEMBER Result(const Row* to, int lane) : row(to), first(lane) {}
  RNNCC_MEMBER real& operator[](int lane) { return lanes[lane - first]; }
  RNNCC_MEMBER ~Result() {
    if (!row) return;
    real* const to = row->block(first) + first;
    if (row->past) {
      move_past_cache(lanes, to);
    } else {
#pragma omp simd
      for (int i = 0; i < kLanes; ++i) to[i] = lanes[i];
    }
  }
};

}  // namespace rnncc
