// Queue: entries of a few scalars that each lane reads in order, on their way from memory to shared
// memory. A walk over the borders between segments would otherwise wait for memory at each.
#pragma once

#include "rnncc/cuda/ring.h"

namespace rnncc {

template <int scalars> struct Queue {
  static constexpr int kReal = int(sizeof(real));
  static constexpr int kMost = (3 + Cell::kStates) * Cell::kStates;  // scalars of a border
  // As in rnncc/planner/ring.py; one is read, the others are on their way.
  static constexpr int kEntries = kMost * kReal <= 96 ? 8 : 4;
  static constexpr int kFilled = kEntries - 1;
  static constexpr int kEntry = scalars * kWarp;  // reals of a warp

  static_assert(scalars <= kMost);

  real* memory;  // of this lane
  Place to;
  int entry;  // the one to be filled next; after that, the one to be read

  RNNCC_MEMBER void open() {
    memory = reinterpret_cast<real*>(rnncc_shared) + threadIdx.y * kEntries * kEntry + threadIdx.x;
    to = place_in_shared(memory), entry = 0;
  }

  // Scalars of the next entry, from one on; `apart` elements lie between them.
  template <int count> RNNCC_MEMBER void copy(int first, const real* from, int64_t apart) const {
#pragma unroll
    for (int i = 0; i < count; ++i)
      copy_async<kReal>(to + (entry * kEntry + (first + i) * kWarp) * kReal, from + i * apart);
  }

  RNNCC_MEMBER void turn() {
    commit_copies();
    entry = entry + 1 == kEntries ? 0 : entry + 1;
  }

  // Until the next entry to be read is there.
  RNNCC_MEMBER static void wait() { wait_for_copies<kFilled - 1>(); }

  template <int count> RNNCC_MEMBER void read(int first, real* to_registers) const {
#pragma unroll
    for (int i = 0; i < count; ++i) to_registers[i] = memory[entry * kEntry + (first + i) * kWarp];
  }
};

}  // namespace rnncc
