// What the backward reads next: blocks of steps, and the saved states before them.
#pragma once

#include "rnncc/cuda/walk.h"

namespace rnncc {

// The blocks that a walk reads next: inputs, gradients of outputs, and the saved state before each.
template <int stages> struct FeedBack {
  static constexpr int kOfState = kWarp * Cell::kStates * int(sizeof(real));  // bytes of a stage
  typedef typename Choose<InputsAndUpstream, stages, kOfState>::Feed Blocks;
  typedef typename Blocks::Values Values;

  Blocks blocks;
  const real* saved;  // before the block to be copied next, or the nearest before that
  const real* from;   // the one before the block that is read from memory
  int64_t saved_on;   // from one to the next

  // From a step of the run on, every `steps_on` steps; `slots_on`: to the next saved state.
  RNNCC_MEMBER void open(const Args& a, const Run& r, int64_t columns, int step, int steps_on,
                         int slots_on) {
    blocks.open(a, r, columns, step, steps_on);
    saved = saved_at(a, r, saved_slot(a, r, r.first + step), 0);
    saved_on = kept(slots_on * Cell::kStateTensors * (a.groups * Cell::kGroup));
  }

  // Copies the next block, with the saved state before it or not.
  RNNCC_MEMBER void fill(const Args& a, bool with_state) {
    constexpr int kReal = int(sizeof(real));
    if (!Blocks::kBytes) {
      from = saved;
      blocks.fill(a);
      return;
    }
    const Place to = blocks.extra_place() + int(threadIdx.x) * kReal;
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) {
      if (with_state) copy_async<kReal>(to + s * kWarp * kReal, saved + place_of_state(a, s));
    }
    blocks.fill(a);
    commit_copies();
  }

  RNNCC_MEMBER void load_state(const Args& a, real* h) const {
    const real* const copied = reinterpret_cast<const real*>(blocks.extra()) + threadIdx.x;
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s)
      h[s] = Blocks::kBytes ? copied[s * kWarp] : from[place_of_state(a, s)];
  }

 private:
  // From the first state's place on, in memory.
  RNNCC_MEMBER static int64_t place_of_state(const Args& a, int s) {
    const Slot &first = Cell::states[0], &slot = Cell::states[s];
    const int64_t row = a.groups * Cell::kGroup;
    return (slot.tensor - first.tensor) * row + slot.offset - first.offset;
  }
};

}  // namespace rnncc
