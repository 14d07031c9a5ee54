// Lanes: the channels that a C++ kernel computes side by side. Arrays are [scalar][lane];
// the inner loops have a fixed length, so that any compiler vectorises them.
#pragma once

#include "rnncc/common/io.h"

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
constexpr int kTile = 256;            // lanes of the largest tile
constexpr int kRow = kTile + kLanes;  // between rows: the odd part spreads them over the cache

// The sizes of `count` rows so far, each the largest in its lane; NaN has none.
RNNCC_ONCE static void note_sizes(int count, const real* rows, real* sizes) {
  for (int s = 0; s < count; ++s) {
#pragma omp simd
    for (int i = s * kRow; i < (s + 1) * kRow; ++i) {
      const real size = rows[i] < 0 ? -rows[i] : rows[i];
      sizes[i] = size > sizes[i] ? size : sizes[i];
    }
  }
}

static void clear_sizes(int count, real* sizes) {
  for (int i = 0; i < count * kRow; ++i) sizes[i] = 0;
}

// A row of lanes whose blocks of kLanes may lie apart.
struct Row {
  real* at;
  const int64_t* blocks;  // where each begins
  real* block(int first) const { return at + blocks[first / kLanes] - first; }
};

}  // namespace rnncc
