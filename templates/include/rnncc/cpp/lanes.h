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

// A row of lanes whose blocks of kLanes may lie apart.
struct Row {
  real* at;
  const int64_t* blocks;  // where each begins
  real* block(int first) const { return at + blocks[first / kLanes] - first; }
};

}  // namespace rnncc
