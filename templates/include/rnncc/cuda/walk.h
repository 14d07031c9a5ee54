// Steps of a run.
#pragma once

#include "rnncc/cuda/runs.h"

namespace rnncc {

RNNCC_FN int steps_left(const Run& r, int step) {
  return r.count - step < kAhead ? r.count - step : kAhead;
}

RNNCC_FN bool is_reset(const Args& a, const Run& r, int step) {
  return a.reset && resets(a, r, step);
}

// The inputs of one step.
RNNCC_FN void read_inputs(const Args& a, const Run& r, int step, real* x) {
#pragma unroll
  for (int i = 0; i < Cell::kInputs; ++i) {
    const Slot& slot = Cell::inputs[i];
    x[i] = to_real(*place_of(a, a.x[slot.tensor], slot, r, step));
  }
}

// Where the inputs of a block of kAhead steps lie.
struct Inputs {
  const io* at[Cell::kInputs + 1];

  RNNCC_MEMBER void aim(const Args& a, const Run& r, int step) {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i)
      at[i] = place_of(a, a.x[Cell::inputs[i].tensor], Cell::inputs[i], r, step);
  }

  // The next block, or with -1 the one before.
  RNNCC_MEMBER void turn(const Args& a, int way) {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i)
      at[i] += way * kAhead * a.x[Cell::inputs[i].tensor].time;
  }
};

// The inputs of a block, fetched from memory while another block is computed. Only whole blocks
// without a reset are fetched; others are walked step by step.
struct Ahead {
  io x[kAhead][Cell::kInputs + 1];
  bool fetched;

  RNNCC_MEMBER void fetch(const Args& a, const Run& r, const Inputs& from, int step, bool whole) {
    fetched = whole;
    for (int k = 0; a.reset && fetched && k < kAhead; ++k) fetched = !resets(a, r, step + k);
    if (!fetched) return;
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) {
      const io* at = from.at[i];
#pragma unroll
      for (int k = 0; k < kAhead; ++k, at += a.x[Cell::inputs[i].tensor].time) x[k][i] = *at;
    }
  }

  RNNCC_MEMBER void read(int k, real* row) const {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) row[i] = to_real(x[k][i]);
  }
};

// The walk of a thread through a run; with `carry`, M is the product of the step Jacobians.
template <bool carry>
struct Walk {
  real p[Cell::kParams + 1], h[Cell::kStates], M[Cell::kProducts + 1];
  io* y_at[Cell::kOutputs];  // of the next step
  bool writes;

  // Before the first step of a run. A walk without M writes always: only active threads take it.
  RNNCC_MEMBER void aim(const Args& a, const Run& r, bool write) {
    writes = !carry || (write && r.active);
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i)
      y_at[i] = place_of(a, a.y[Cell::outputs[i].tensor], Cell::outputs[i], r, 0);
  }

  // One step; `along` writes the states after it too.
  template <bool along>
  RNNCC_MEMBER void step(const Args& a, const Run& r, int number, const real* x) {
    real next[Cell::kStates], y[Cell::kOutputs], stored[Cell::kStored + 1];
    Lane::step<true, carry>(x, p, h, next, y, stored);
    if (carry) {
      real N[Cell::kProducts + 1];
      Lane::carry(x, p, h, stored, M, N, number == 0);
#pragma unroll
      for (int i = 0; i < Cell::kProducts; ++i) M[i] = N[i];
    }
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i) {
      if (writes) from_real(y[i], *y_at[i]);
      y_at[i] += a.y[Cell::outputs[i].tensor].time;
    }
#pragma unroll
    for (int s = 0; along && s < Cell::kStates; ++s) {
      const Slot& slot = Cell::states[s];
      if (writes) from_real(next[s], *place_of(a, a.z[slot.tensor], slot, r, number));
    }
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = next[s];
  }

  // The steps of a block that is in registers.
  template <bool along>
  RNNCC_MEMBER void quickly(const Args& a, const Run& r, const Ahead& now, int first) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      real x[Cell::kInputs + 1];
      now.read(k, x);
      step<along>(a, r, first + k, x);
    }
  }

  // The steps of a block.
  RNNCC_MEMBER void block(const Args& a, const Run& r, const Ahead& now, int first) {
    if (now.fetched && !a.z[0].data) return quickly<false>(a, r, now, first);
    if (now.fetched && !carry) return quickly<true>(a, r, now, first);
#pragma unroll 1
    for (int k = 0; k < steps_left(r, first); ++k) {
      real x[Cell::kInputs + 1];
      const bool reset_here = is_reset(a, r, first + k);
      if (reset_here) load_states(a, r, a.h0, h);
      read_inputs(a, r, first + k, x);
      if (a.z[0].data) step<true>(a, r, first + k, x);
      else step<false>(a, r, first + k, x);
#pragma unroll
      for (int i = 0; carry && i < Cell::kProducts; ++i) M[i] = reset_here ? real(0) : M[i];
    }
  }

  // Every step of the run.
  RNNCC_MEMBER void run(const Args& a, const Run& r, bool write) {
    Ahead ahead;
    Inputs inputs;
    int unsaved = int((a.checkpoint - r.first % a.checkpoint) % a.checkpoint / kAhead);  // blocks
    real* saved = saved_at(a, r, saved_slot(a, r, r.first) + (unsaved > 0), 0);
    aim(a, r, write);
    load_params(a, r, p);
    inputs.aim(a, r, 0);
    if (!(writes && a.saved && r.first % kAhead == 0)) unsaved = -1;  // never
    ahead.fetch(a, r, inputs, 0, r.count >= kAhead);
#pragma unroll 1
    for (int first = 0; first < r.count; first += kAhead) {
      const Ahead now = ahead;
      inputs.turn(a, 1);
      ahead.fetch(a, r, inputs, first + kAhead, first + 2 * kAhead <= r.count);
      if (unsaved-- == 0) {
        save(a, saved);
        saved += Cell::kStateTensors * (a.groups * Cell::kGroup);
        unsaved = int(a.checkpoint / kAhead) - 1;
      }
      block(a, r, now, first);
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
