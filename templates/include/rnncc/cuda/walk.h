// Steps of a run.
#pragma once

#include "rnncc/cuda/direct.h"
#include "rnncc/cuda/writer.h"

namespace rnncc {

RNNCC_FN int steps_left(const Run& r, int step) {
  return r.count - step < kAhead ? r.count - step : kAhead;
}

RNNCC_FN bool is_reset(const Args& a, const Run& r, int step) {
  return a.reset && resets(a, r, step);
}

// Whether the state is reset before the steps of the next block, on its way from memory.
struct Resets {
  uint8_t before[kAhead];

  RNNCC_MEMBER void fetch(const Args& a, const Run& r, int first) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      before[k] = a.reset && uint32_t(first + k) < uint32_t(r.count) && resets(a, r, first + k);
  }

  // A bit for each step.
  RNNCC_MEMBER uint32_t bits() const {
    uint32_t found = 0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) found |= uint32_t(before[k]) << k;
    return found;
  }
};

// The sizes of states, or gradients, each counted for `less` times as much as those after it.
RNNCC_FN void note_sizes(const real* now, real* sizes, int less) {
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) sizes[s] = larger_finite(sizes[s] / less, now[s]);
}

constexpr int kFades = 4;  // from one block of steps to the next

// The inputs of one step, straight from memory.
RNNCC_FN void read_inputs(const Args& a, const Run& r, int step, real* x) {
#pragma unroll
  for (int i = 0; i < Cell::kInputs; ++i) {
    const Slot& slot = Cell::inputs[i];
    x[i] = to_real(*place_of(a, a.x[slot.tensor], slot, r, step));
  }
}

// The walk of a thread through a run; with `carry`, M is the product of the step Jacobians.
template <bool carry>
struct Walk {
  typedef Choose<Inputs, stages_of(Layout<Inputs>::kBytes / kWarp)>::Feed Feed;
  typedef Feed::Values Values;

  real p[Cell::kParams + 1], h[Cell::kStates], M[Cell::kProducts + 1];
  real peak[Cell::kStates];  // the largest states after the last steps of a careful block
  Writer<Outputs> outputs;
  bool writes;

  // Before the first step of a run.
  RNNCC_MEMBER void aim(const Args& a, const Run& r, bool write) {
    writes = write && r.active;
    outputs.aim(a, r, 0, 1, writes);
  }

  // One step; `along` writes the states after it too.
  RNNCC_MEMBER void step(const Args& a, const Run& r, int number, const real* x, bool along) {
    real next[Cell::kStates], y[Cell::kOutputs], stored[Cell::kStored + 1];
    Lane::step<true, carry>(x, p, h, next, y, stored);
    if (carry) {
      real N[Cell::kProducts + 1];
      Lane::carry(x, p, h, stored, M, N, number == 0);
#pragma unroll
      for (int i = 0; i < Cell::kProducts; ++i) M[i] = N[i];
    }
    outputs.write(a, y);
#pragma unroll
    for (int s = 0; along && s < Cell::kStates; ++s) {
      const Slot& slot = Cell::states[s];
      if (writes) from_real(next[s], *place_of(a, a.z[slot.tensor], slot, r, number));
    }
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = next[s];
  }

  // The steps of a block. With `careful` the states may be reset before some of them, which
  // `resets_before` has a bit for each of, or are written along; their sizes are in `peak`.
  RNNCC_MEMBER void block(const Args& a, const Run& r, const Values& block, int first, bool careful,
                          uint32_t resets_before) {
    const int left = steps_left(r, first);
    if (left == kAhead && !careful) {
      real x[kAhead][Cell::kInputs + 1];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) block.inputs(k, x[k]);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) step(a, r, first + k, x[k], false);
      return;
    }
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) peak[s] = 0;
#pragma unroll 1
    for (int k = 0; k < left; ++k) {
      real x[Cell::kInputs + 1];
      const bool reset_here = resets_before >> k & 1;
      if (reset_here) load_states(a, r, a.h0, h);
      block.inputs(k, x);
      step(a, r, first + k, x, a.z[0].data);
#pragma unroll
      for (int i = 0; carry && i < Cell::kProducts; ++i) M[i] = reset_here ? real(0) : M[i];
      if (k >= left - kTail) note_sizes(h, peak, 1);
    }
  }

  // Every step of the run. All lanes of the warp take part; `columns` of them share a run.
  RNNCC_MEMBER void run(const Args& a, const Run& r, int64_t columns, bool write) {
    Feed feed;
    Resets resets;
    int unsaved = int((a.checkpoint - r.first % a.checkpoint) % a.checkpoint / kAhead);  // blocks
    real* saved = saved_at(a, r, saved_slot(a, r, r.first) + (unsaved > 0), 0);
    aim(a, r, write);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) peak[s] = 0;
    load_params(a, r, p);
    feed.open(a, r, columns, 0, kAhead);
    feed.start(a);
    resets.fetch(a, r, 0);
    if (!(writes && a.saved && r.first % kAhead == 0)) unsaved = -1;  // never
    const int most = most_of_warp(r.count);
    const uint32_t care = kept(uint32_t((a.reset ? 1 : 0) | (a.z[0].data ? 2 : 0)));
    const bool is_segment = !whole(a);
#pragma unroll 1
    for (int first = 0; first < most; first += kAhead) {
      feed.wait();
      __syncwarp();
      feed.fill(a);
      commit_copies();
      if (first >= r.count) continue;
      uint32_t resets_before = 0;
      if (care & 1) {
        resets_before = resets.bits();
        resets.fetch(a, r, first + kAhead);
      }
      if (unsaved-- == 0) {
        save(a, saved);
        saved += Cell::kStateTensors * (a.groups * Cell::kGroup);
        unsaved = int(a.checkpoint / kAhead) - 1;
      }
      const bool last = is_segment && first + kAhead >= r.count;
      block(a, r, feed.now(), first, last || care & 2 || resets_before, resets_before);
    }
  }

  // Saves a checkpoint for the backward; `a.checkpoint` is a multiple of kAhead.
  RNNCC_MEMBER void save(const Args& a, real* to) const {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) {
      const Slot& slot = Cell::states[s];
      to[slot.tensor * (a.groups * Cell::kGroup) + slot.offset] = h[s];
    }
  }
};

// The rest of a sequence's row of memory is 0.
RNNCC_FN void clear_after(const Args& a, const Run& r, const View& view, const Slot& slot) {
  if (!view.data || !a.lengths || a.joined || !r.active) return;
  const int64_t forth = a.reverse ? -view.time : view.time;
  for (int64_t time = steps_of(a, r.sequence); time < a.extent; ++time)
    from_real(real(0), view.data[r.sequence * view.batch + time * forth +
                                 (slot.offset + r.group * slot.stride) * view.channel]);
}

RNNCC_FN void clear_outputs(const Args& a, const Run& r) {
#pragma unroll 1
  for (int i = 0; i < Cell::kOutputs; ++i)
    clear_after(a, r, a.y[Cell::outputs[i].tensor], Cell::outputs[i]);
#pragma unroll 1
  for (int s = 0; s < Cell::kStates; ++s)
    clear_after(a, r, a.z[Cell::states[s].tensor], Cell::states[s]);
}

}  // namespace rnncc
