// Direct: the blocks of steps that a warp reads, straight from memory, where a ring of them is too
// large for shared memory. It has the functions of a ring.
#pragma once

#include "rnncc/cuda/ring.h"

namespace rnncc {

// A block, as a lane reads it.
template <typename Of> struct BlockInMemory {
  const Args& a;
  const Run& r;
  int first;  // step of the run

  RNNCC_MEMBER real operator()(int step, int i) const {
    const Slot slot = Of::slot(i);
    const View& view = Of::view(a, slot.tensor);
    return view.data ? to_real(*place_of(a, view, slot, r, first + step)) : real(-0.0);
  }

  // The inputs of a step.
  RNNCC_MEMBER void inputs(int step, real* x) const {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) x[i] = (*this)(step, i);
  }
};

template <typename Of> struct Direct {
  typedef BlockInMemory<Of> Values;
  static constexpr int kBytes = 0, kFilled = 0;

  const Args* args;
  const Run* run;
  int step, stride;  // the first step of the block to be read next, and from one to the next

  RNNCC_MEMBER void open(const Args& a, const Run& r, int64_t, int first, int steps_on) {
    args = &a, run = &r, step = first, stride = steps_on;
  }
  RNNCC_MEMBER void start(const Args&) {}
  RNNCC_MEMBER void fill(const Args&) { step += stride; }
  RNNCC_MEMBER void settle() const {}
  RNNCC_MEMBER void wait() const {}
  RNNCC_MEMBER Values now() const { return {*args, *run, step - stride}; }
  RNNCC_MEMBER Place extra_place() const { return Place(); }
  RNNCC_MEMBER unsigned char* extra() const { return nullptr; }
};

// As in rnncc/planner/ring.py: bytes of a warp's ring, at most.
constexpr int kMostOfRing = 64 * 1024;

// A ring, or where it would be too large none.
template <bool fits, typename Of, int stages, int more> struct FeedOf {
  typedef Ring<Of, stages, more> Type;
};
template <typename Of, int stages, int more> struct FeedOf<false, Of, stages, more> {
  typedef Direct<Of> Type;
};
template <typename Of, int stages, int more = 0> struct Choose {
  static constexpr int kRing = stages * (Layout<Of>::kBytes + more);
  static constexpr bool kFits = !kOnePass || (Of::kTensors <= kMostTensors && kRing <= kMostOfRing);
  typedef typename FeedOf<kFits, Of, stages, more>::Type Feed;
};

}  // namespace rnncc
