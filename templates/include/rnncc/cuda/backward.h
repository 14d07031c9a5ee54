// Backward.
//
// The backward is linear: g[t-1] = J[t]^T g[t] + the gradient that flows in at t. A run is walked
// last step first, in blocks of at most kAhead steps: forward from a saved state, with all states
// in registers, then backward. Jacobians are never stored.
#pragma once

#include "rnncc/cuda/walk.h"

namespace rnncc {

// Where a block lies in the tensors that the backward reads and writes.
struct Places {
  Inputs x;
  const io* dy[Cell::kOutputs];
  io* dx[Cell::kInputs + 1];

  RNNCC_MEMBER void aim(const Args& a, const Run& r, int step) {
    x.aim(a, r, step);
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i)
      dy[i] = place_of(a, a.dy[Cell::outputs[i].tensor], Cell::outputs[i], r, step);
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i)
      dx[i] = place_of(a, a.dx[Cell::inputs[i].tensor], Cell::inputs[i], r, step);
  }

  // The block before, in the tensors that are read.
  RNNCC_MEMBER void read_on(const Args& a) {
    x.turn(a, -1);
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i) dy[i] -= kAhead * a.dy[Cell::outputs[i].tensor].time;
  }

  RNNCC_MEMBER void write_on(const Args& a) {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) dx[i] -= kAhead * a.dx[Cell::inputs[i].tensor].time;
  }
};

// The values that a block of steps reads: inputs, gradients of outputs, and the state before it if
// that is saved.
struct Block {
  Ahead inputs;
  io dy[kAhead][Cell::kOutputs];
  real h[Cell::kStates];

  RNNCC_MEMBER void fetch(const Args& a, const Run& r, const Places& from, int step, int count,
                          int64_t slot) {
    inputs.fetch(a, r, from.x, step, count == kAhead);
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i) {
      const View& view = a.dy[Cell::outputs[i].tensor];
      const io* at = from.dy[i];
#pragma unroll
      for (int k = 0; k < kAhead; ++k, at += view.time)
        dy[k][i] = view.data && inputs.fetched ? *at : io();
    }
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = count > 0 ? *saved_at(a, r, slot, s) : real(0);
  }
};

// Where a block lies: its first step, and the saved state before it.
struct Spot {
  int saved, step, count;
  int64_t slot;

  RNNCC_MEMBER static Spot last(const Args& a, const Run& r) {
    const int checkpoint = int(a.checkpoint), end = r.count > 0 ? r.count - 1 : 0;
    const int saved = end / checkpoint * checkpoint, step = saved + (end - saved) / kAhead * kAhead;
    return {saved, step, r.count - step, saved_slot(a, r, r.first + saved)};
  }

  // The block before this one; its count is 0 if there is none.
  RNNCC_MEMBER Spot before(const Args& a) const {
    if (step > saved) return {saved, step - kAhead, kAhead, slot};
    return {saved - int(a.checkpoint), step - kAhead, saved > 0 ? kAhead : 0, slot - 1};
  }

  RNNCC_MEMBER bool is_saved() const { return step == saved; }
};

struct WalkBack {
  static constexpr int kQ = Cell::kFed * Cell::kStates;
  real p[Cell::kParams + 1], g[Cell::kStates], g_initial[Cell::kStates], Q[kQ + 1];
  real h[kAhead + 1][Cell::kStates], dp[Cell::kParams + 1];
  double sums[Cell::kParams + 1];
  int columns;  // lanes of a warp that share a run

  RNNCC_MEMBER void open(const Args& a, const Run& r, int64_t lanes) {
    load_params(a, r, p);
    columns = int(lanes);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) g_initial[s] = 0;
#pragma unroll
    for (int k = 0; k < Cell::kParams; ++k) sums[k] = 0;
    begin_alone();
  }

  // From a gradient of 0.
  RNNCC_MEMBER void begin_alone() {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) g[s] = 0;
#pragma unroll
    for (int q = 0; q < Cell::kFed; ++q)
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) Q[q * Cell::kStates + s] = s == Cell::fed[q];
  }

  // The states before each step of a block that is in registers.
  RNNCC_MEMBER void recompute(const Block& block) {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[0][s] = block.h[s];
#pragma unroll
    for (int k = 0; k + 1 < kAhead; ++k) {
      real x[Cell::kInputs + 1], y[Cell::kOutputs], stored[Cell::kStored + 1];
      block.inputs.read(k, x);
      Lane::step<false, false>(x, p, h[k], h[k + 1], y, stored);
    }
  }

  // The gradients of such a block, last step first; `alone`: of them only g, and Q.
  template <bool alone>
  RNNCC_MEMBER void back(const Args& a, const Run& r, const Places& at, const Block& block,
                         int step) {
#pragma unroll
    for (int i = 0; i < Cell::kParams; ++i) dp[i] = 0;
#pragma unroll
    for (int k = kAhead - 1; k >= 0; --k) {
      real x[Cell::kInputs + 1], dx[Cell::kInputs + 1], dy[Cell::kOutputs];
      block.inputs.read(k, x);
#pragma unroll
      for (int i = 0; i < Cell::kOutputs; ++i) dy[i] = to_real(block.dy[k][i]);
      back_step<alone>(a, r, step + k, x, h[k], dy, dx);
#pragma unroll
      for (int i = 0; !alone && i < Cell::kInputs; ++i)
        if (r.active && Cell::inputs[i].stride && a.dx[Cell::inputs[i].tensor].data)
          from_real(dx[i], at.dx[i][k * a.dx[Cell::inputs[i].tensor].time]);
      if (!alone && Cell::kSharedInputs) add_shared(a, r, step + k, dx);
    }
#pragma unroll
    for (int i = 0; !alone && i < Cell::kParams; ++i) sums[i] += dp[i];
  }

  // The same of one that is not in registers, step by step.
  template <bool alone>
  RNNCC_MEMBER void back_slowly(const Args& a, const Run& r, const Block& block, int first,
                                int count) {
#pragma unroll
    for (int i = 0; i < Cell::kParams; ++i) dp[i] = 0;
#pragma unroll 1
    for (int k = count - 1; k >= 0; --k) {
      real x[Cell::kInputs + 1], dx[Cell::kInputs + 1], dy[Cell::kOutputs], now[Cell::kStates];
      real next[Cell::kStates], y[Cell::kOutputs], stored[Cell::kStored + 1];
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) now[s] = block.h[s];
#pragma unroll 1
      for (int j = 0; j < k; ++j) {
        if (is_reset(a, r, first + j)) load_states(a, r, a.h0, now);
        read_inputs(a, r, first + j, x);
        Lane::step<false, false>(x, p, now, next, y, stored);
#pragma unroll
        for (int s = 0; s < Cell::kStates; ++s) now[s] = next[s];
      }
      const bool reset_here = is_reset(a, r, first + k);
      if (reset_here) load_states(a, r, a.h0, now);
      read_inputs(a, r, first + k, x);
#pragma unroll
      for (int i = 0; i < Cell::kOutputs; ++i) {
        const View& view = a.dy[Cell::outputs[i].tensor];
        dy[i] = view.data ? to_real(*place_of(a, view, Cell::outputs[i], r, first + k)) : real(0);
      }
      back_step<alone>(a, r, first + k, x, now, dy, dx);
      if (reset_here) reset<alone>();
#pragma unroll
      for (int i = 0; !alone && i < Cell::kInputs; ++i) {
        const Slot& slot = Cell::inputs[i];
        const View& view = a.dx[slot.tensor];
        if (r.active && slot.stride && view.data)
          from_real(dx[i], *place_of(a, view, slot, r, first + k));
      }
      if (!alone && Cell::kSharedInputs) add_shared(a, r, first + k, dx);
    }
#pragma unroll
    for (int i = 0; !alone && i < Cell::kParams; ++i) sums[i] += dp[i];
  }

  // Every step of a run, last first.
  template <bool alone>
  RNNCC_MEMBER void run(const Args& a, const Run& r) {
    Block ahead = {};
    Spot spot = {-1, -1, 0, 0}, next = Spot::last(a, r);
    Places at;
    at.aim(a, r, next.step);
    while (spot.count > 0 || next.count > 0) {
      Block now = ahead;
      ahead.fetch(a, r, at, next.step, next.count, next.slot);
      at.read_on(a);
      if (spot.count > 0) {
        if (!spot.is_saved()) load_inner(a, r, spot, now.h);
        if (now.inputs.fetched) {
          recompute(now);
          back<alone>(a, r, at, now, spot.step);
        } else {
          back_slowly<alone>(a, r, now, spot.step, spot.count);
        }
        at.write_on(a);
      }
      if (next.count > 0 && next.saved != spot.saved && !next.is_saved()) fill_inner(a, r, next);
      spot = next;
      next = next.count > 0 ? next.before(a) : next;
    }
  }

 private:
  // The gradient g of the states after a step becomes that of the states before it.
  template <bool alone>
  RNNCC_MEMBER void back_step(const Args& a, const Run& r, int step, const real* x,
                              const real* before, const real* dy, real* dx) {
    real next[Cell::kStates], y[Cell::kOutputs], stored[Cell::kStored + 1], none[Cell::kOutputs];
    Lane::step<false, true>(x, p, before, next, y, stored);
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i) none[i] = 0;
#pragma unroll
    for (int q = 0; alone && q < Cell::kFed; ++q)
      Lane::adjoint<false>(x, p, before, stored, none, Q + q * Cell::kStates, dx, dp);
    if (a.dz_given) add_along(a, r, step);
    Lane::adjoint<!alone>(x, p, before, stored, dy, g, dx, dp);
  }

  // The gradients that flow into the states after a step.
  RNNCC_MEMBER void add_along(const Args& a, const Run& r, int step) {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) {
      const View& view = a.dz[Cell::states[s].tensor];
      if (view.data) g[s] += to_real(*place_of(a, view, Cell::states[s], r, step));
    }
  }

  // The state before this step was the initial state: the gradient goes there.
  template <bool alone>
  RNNCC_MEMBER void reset() {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) {
      if (!alone) g_initial[s] += g[s];
      g[s] = 0;
    }
#pragma unroll
    for (int q = 0; q < kQ; ++q) Q[q] = 0;
  }

  RNNCC_MEMBER void add_shared(const Args& a, const Run& r, int step, const real* dx) const {
    int shared = 0;
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i)
      if (!Cell::inputs[i].stride) add_over_channels(a, r, step, shared++, dx[i]);
  }

  // An input that all channels share: one sum for each `columns` groups, in a fixed order.
  RNNCC_MEMBER void add_over_channels(const Args& a, const Run& r, int step, int shared,
                                      real value) const {
    const unsigned first = threadIdx.x / columns * columns;
    const unsigned mask = columns == kWarp ? 0xffffffffu : ((1u << columns) - 1) << first;
    real sum = r.active ? value : real(0);
    for (int apart = columns / 2; apart; apart /= 2) sum += __shfl_xor_sync(mask, sum, apart);
    if (threadIdx.x != first || !r.active) return;
    const int64_t time = a.reverse ? r.time - step : r.time + step;
    const int64_t place = (a.joined ? 0 : r.sequence * a.extent) + time;
    const int64_t places = (a.joined ? 1 : a.batch) * a.extent;
    a.shared_sums[(r.group / columns * places + place) * Cell::kSharedInputs + shared] = sum;
  }

  // --- states between two saved ones

  RNNCC_MEMBER static real* inner_at(const Args& a, const Run& r, int64_t block, int s) {
    const int64_t checkpoint = a.checkpoint < a.steps ? a.checkpoint : a.steps;
    const int64_t blocks = (checkpoint + kAhead - 1) / kAhead;
    return a.inner + ((r.index * blocks + block) * Cell::kStates + s) * a.groups + r.group;
  }

  // The states before each block from a saved one up to a spot.
  RNNCC_MEMBER void fill_inner(const Args& a, const Run& r, const Spot& spot) const {
    real now[Cell::kStates], next[Cell::kStates], x[Cell::kInputs + 1];
    real y[Cell::kOutputs], stored[Cell::kStored + 1];
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) now[s] = *saved_at(a, r, spot.slot, s);
    for (int step = spot.saved; step < spot.step; ++step) {
      read_inputs(a, r, step, x);
      if (is_reset(a, r, step)) load_states(a, r, a.h0, now);
      Lane::step<false, false>(x, p, now, next, y, stored);
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) now[s] = next[s];
      const int done = step + 1 - spot.saved;
      if (done % kAhead == 0 && r.active)
        for (int s = 0; s < Cell::kStates; ++s) *inner_at(a, r, done / kAhead, s) = now[s];
    }
  }

  RNNCC_MEMBER static void load_inner(const Args& a, const Run& r, const Spot& spot, real* to) {
#pragma unroll
    for (int s = 0; r.active && s < Cell::kStates; ++s)  // else another thread may be writing it
      to[s] = *inner_at(a, r, (spot.step - spot.saved) / kAhead, s);
  }
};

RNNCC_FN void clear_inputs(const Args& a, const Run& r) {
#pragma unroll 1
  for (int i = 0; i < Cell::kInputs; ++i)
    if (Cell::inputs[i].stride) clear_after(a, r, a.dx[Cell::inputs[i].tensor], Cell::inputs[i]);
}

}  // namespace rnncc
