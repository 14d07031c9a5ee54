// Backward.
//
// The backward is linear: g[t-1] = J[t]^T g[t] + the gradient that flows in at t. A run is walked
// last step first, in blocks of at most kAhead steps: forward from a saved state, with all states
// in registers, then backward. Jacobians are never stored.
#pragma once

#include "rnncc/cuda/feed_back.h"

namespace rnncc {

// Where a block lies: its first step, and how many blocks there are to it from a saved state.
struct Spot {
  int step, above;

  RNNCC_MEMBER static Spot last(const Args& a, const Run& r) {
    const int end = r.count > 0 ? r.count - 1 : 0;
    return {end / kAhead * kAhead, end % int(a.checkpoint) / kAhead};
  }

  // To the block before this one.
  RNNCC_MEMBER void move(int from_saved_to_saved) {
    step -= kAhead;
    above = above ? above - 1 : from_saved_to_saved - 1;
  }
};

// Sums over time for each param, in double precision: in registers, or if there are many in shared
// memory behind all rings, unless there is no room for them.
struct ParamSums {
  static constexpr bool kShared =
      Cell::kParams > 16 && Cell::kParams <= 64;  // as in rnncc/planner/ring.py
  static constexpr int kBytes = kShared ? kWarp * Cell::kParams * int(sizeof(double)) : 0;
  double own[kShared ? 1 : Cell::kParams + 1];
  double* shared;

  RNNCC_MEMBER void open(int bytes_before) {
    shared =
        reinterpret_cast<double*>(rnncc_shared + bytes_before + threadIdx.y * kBytes) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < Cell::kParams; ++k) (*this)[k] = 0;
  }

  RNNCC_MEMBER double& operator[](int k) { return kShared ? shared[k * kWarp] : own[k]; }
};

// The gradients of inputs that all channels share: those of a block of steps lie in shared memory,
// behind all other, until they are summed over the lanes of the run, each lane some of them.
struct SharedSums {
  static constexpr bool kAny = Cell::kSharedInputs > 0;
  static constexpr int kEach = kAny ? Cell::kSharedInputs : 1;  // of a step
  static constexpr int kRow = kWarp + 1;  // lanes that sum read different banks
  static constexpr int kBytes = Cell::kSharedInputs * kAhead * kRow * int(sizeof(real));

  real* shelf;      // of this warp, [step of the block][input][lane]
  real* to;         // of the first step of the run
  int64_t on;       // to its next step
  int lanes, turn;  // that share this lane's run, and its number among them
  unsigned mask;    // of them
  bool writes;

  RNNCC_MEMBER void open(const Args& a, const Run& r, int64_t columns, int bytes_before) {
    if (!kAny) return;
    const int64_t place = (a.joined ? 0 : r.sequence * a.extent) + r.time;
    const int64_t places = (a.joined ? 1 : a.batch) * a.extent;
    shelf = reinterpret_cast<real*>(rnncc_shared + bytes_before + threadIdx.y * kBytes);
    to = a.shared_sums + (r.group / columns * places + place) * kEach;
    on = a.reverse ? -kEach : kEach;
    lanes = int(columns), turn = int(threadIdx.x) & (lanes - 1);
    mask = (lanes == kWarp ? 0xffffffffu : (1u << lanes) - 1) << (threadIdx.x - turn);
    writes = __shfl_sync(0xffffffffu, r.active, threadIdx.x - turn);
  }

  RNNCC_MEMBER void put(const Run& r, int step_of_block, const real* dx) const {
    int n = step_of_block * kEach;
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i)
      if (!Cell::inputs[i].stride) shelf[n++ * kRow + threadIdx.x] = r.active ? dx[i] : real(0);
  }

  // Of a block of `count` steps.
  RNNCC_MEMBER void sum(int first_step, int count) const {
    if (!kAny) return;
    __syncwarp(mask);
#pragma unroll 1
    for (int n = turn; n < count * kEach; n += lanes) {
      const int step = n / kEach;
      const real found = over_lanes(shelf + n * kRow + (threadIdx.x - turn));
      if (writes) to[(first_step + step) * on + (n - step * kEach)] = found;
    }
    __syncwarp(mask);
  }

 private:
  // In a fixed order.
  RNNCC_MEMBER real over_lanes(const real* values) const {
    constexpr int kChains = 4;
    real some[kChains] = {};
    if (lanes == kWarp) {
#pragma unroll
      for (int i = 0; i < kWarp; ++i) some[i % kChains] += values[i];
    } else {
#pragma unroll 1
      for (int i = 0; i < lanes; ++i) some[0] += values[i];
    }
    return (some[0] + some[1]) + (some[2] + some[3]);
  }
};

struct WalkBack {
  static constexpr int kQ = kOnePass ? 0 : Cell::kFed * Cell::kStates;
  // What the adjoint reads of each step stays in registers, if these are few.
  static constexpr bool kKeeps = kAhead * Cell::kStored <= 64;
  typedef FeedBack<stages_of(Layout<InputsAndUpstream>::kBytes / kWarp)> Feed;
  typedef Feed::Values Values;

  real p[Cell::kParams + 1], g[Cell::kStates], g_initial[Cell::kStates], Q[kQ + 1];
  real h[kAhead + 1][Cell::kStates], lets[kKeeps ? kAhead : 1][Cell::kStored + 1];
  real dp[Cell::kParams + 1], g_reset[Cell::kStates];  // of one block
  real peak[Cell::kStates];  // sizes of gradients before the last blocks that were walked
  ParamSums sums;
  SharedSums shared;
  Writer<InputGradients> gradients;
  int columns;  // lanes of a warp that share a run

  RNNCC_MEMBER void open(const Args& a, const Run& r, int64_t lanes) {
    load_params(a, r, p);
    columns = int(lanes);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) g_initial[s] = peak[s] = 0;
    begin_alone();
  }

  // A walk that isn't alone opens the sums too, in the shared memory behind so many bytes.
  RNNCC_MEMBER void open_sums(const Args& a, const Run& r, int bytes_before) {
    sums.open(bytes_before);
    shared.open(a, r, columns, bytes_before + int(blockDim.y) * ParamSums::kBytes);
  }

  // From a gradient of 0.
  RNNCC_MEMBER void begin_alone() {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) g[s] = 0;
#pragma unroll
    for (int q = 0; !kOnePass && q < Cell::kFed; ++q)
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) Q[q * Cell::kStates + s] = s == Cell::fed[q];
  }

  // The states before each step of a whole block, from h[0].
  RNNCC_MEMBER void recompute(const Values& block) {
#pragma unroll
    for (int k = 0; k < kAhead - !kKeeps; ++k) {
      real x[Cell::kInputs + 1], y[Cell::kOutputs];
      block.inputs(k, x);
      Lane::step<false, kKeeps>(x, p, h[k], h[k + 1], y, lets[kKeeps ? k : 0]);
    }
  }

  // The gradients of such a block, last step first; `alone`: of them only g, and Q. Their sums are
  // not part of those of all blocks until they are added.
  template <bool alone>
  RNNCC_MEMBER void back(const Args& a, const Run& r, const Values& block, int first) {
    begin_block();
#pragma unroll
    for (int k = kAhead - 1; k >= 0; --k) {
      real x[Cell::kInputs + 1], next[Cell::kStates], y[Cell::kOutputs];
      block.inputs(k, x);
      if (!kKeeps) Lane::step<false, true>(x, p, h[k], next, y, lets[0]);
      back_step<alone>(a, r, block, k, first + k, x, h[k], lets[kKeeps ? k : 0], false);
    }
  }

  // The same of one with resets or fewer steps, step by step.
  template <bool alone>
  RNNCC_MEMBER void back_slowly(const Args& a, const Run& r, const Values& block, int first,
                                int count, uint32_t resets_before) {
    begin_block();
#pragma unroll 1
    for (int k = count - 1; k >= 0; --k) {
      real x[Cell::kInputs + 1], now[Cell::kStates], next[Cell::kStates];
      real y[Cell::kOutputs], stored[Cell::kStored + 1];
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) next[s] = h[0][s];
#pragma unroll 1
      for (int j = 0; j <= k; ++j) {
#pragma unroll
        for (int s = 0; s < Cell::kStates; ++s) now[s] = next[s];
        if (resets_before >> j & 1) load_states(a, r, a.h0, now);
        block.inputs(j, x);
        Lane::step<false, true>(x, p, now, next, y, stored);
      }
      back_step<alone>(a, r, block, k, first + k, x, now, stored, a.dz_given);
      if (resets_before >> k & 1) reset<alone>();
    }
  }

  // A block of `count` steps from the state h[0]. With `careful` the states may be reset before some
  // of them, which `resets_before` has a bit for each of, or have gradients of their own.
  template <bool alone>
  RNNCC_MEMBER void walk(const Args& a, const Run& r, const Values& block, int first, int count,
                         bool careful, uint32_t resets_before) {
    if (count == kAhead && !careful) {
      recompute(block);
      back<alone>(a, r, block, first);
    } else {
      back_slowly<alone>(a, r, block, first, count, resets_before);
    }
  }

  // The same of one that was just walked alone.
  RNNCC_MEMBER void walk_again(const Args& a, const Run& r, const Values& block, int first,
                               int count, bool careful, uint32_t resets_before) {
    if (count == kAhead && !careful) back<false>(a, r, block, first);
    else back_slowly<false>(a, r, block, first, count, resets_before);
  }

  // Adds the sums of the block that was walked last, of `count` steps from `first` on.
  RNNCC_MEMBER void add_block(int first, int count) {
#pragma unroll
    for (int i = 0; i < Cell::kParams; ++i) sums[i] += dp[i];
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) g_initial[s] += g_reset[s];
    shared.sum(first, count);
  }

  // Every step of a run, last first. All lanes of the warp take part.
  template <bool alone>
  RNNCC_MEMBER void run(const Args& a, const Run& r) {
    Feed feed;
    Resets resets;
    const int apart = int(a.checkpoint / kAhead);  // blocks from one saved state to the next
    const uint32_t care = kept(uint32_t((a.reset ? 1 : 0) | (a.dz_given ? 2 : 0)));
    Spot spot = Spot::last(a, r), next = spot;
    bool inner_is_filled = false;
    feed.open(a, r, columns, spot.step, -kAhead, -1);
    const auto fill = [&] {
      const bool is_saved = next.above == 0;
      feed.fill(a, is_saved && uint32_t(next.step) < uint32_t(r.count));
      if (is_saved) feed.saved += feed.saved_on;
      next.move(apart);
    };
#pragma unroll 1
    for (int n = 0; n < Feed::Blocks::kFilled; ++n) fill(), feed.blocks.settle();
    resets.fetch(a, r, spot.step);
    gradients.aim(a, r, r.count - 1, -1, r.active);
    const int most = most_of_warp(r.count > 0 ? spot.step + kAhead : 0);
#pragma unroll 1
    for (int to_come = most; to_come > 0; to_come -= kAhead, spot.move(apart)) {
      feed.blocks.wait();
      __syncwarp();
      fill();
      if (uint32_t(spot.step) >= uint32_t(r.count)) continue;
      uint32_t resets_before = 0;
      if (care & 1) {
        resets_before = resets.bits();
        resets.fetch(a, r, spot.step - kAhead);
      }
      if (spot.above == 0) {
        feed.load_state(a, h[0]);
        inner_is_filled = false;
      } else {
        if (!inner_is_filled) fill_inner(a, r, spot);
        inner_is_filled = true;
        load_inner(a, r, spot, h[0]);
      }
      const int count = steps_left(r, spot.step);
      walk<alone>(a, r, feed.blocks.now(), spot.step, count, care & 2 || resets_before,
                  resets_before);
      if (!alone) add_block(spot.step, count), note_sizes(g, peak, kFades);
    }
  }

 private:
  RNNCC_MEMBER void begin_block() {
#pragma unroll
    for (int i = 0; i < Cell::kParams; ++i) dp[i] = 0;
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) g_reset[s] = 0;
  }

  // The gradient g of the states after a step becomes that of the states before it.
  template <bool alone>
  RNNCC_MEMBER void back_step(const Args& a, const Run& r, const Values& block, int k, int step,
                              const real* x, const real* before, const real* stored, bool along) {
    real dx[Cell::kInputs + 1], dy[Cell::kOutputs], none[Cell::kOutputs];
#pragma unroll
    for (int i = 0; i < Cell::kOutputs; ++i)
      dy[i] = block(k, Cell::kInputs + i), none[i] = real(-0.0);
#pragma unroll
    for (int q = 0; alone && !kOnePass && q < Cell::kFed; ++q)
      Lane::adjoint<false>(x, p, before, stored, none, Q + q * Cell::kStates, dx, dp);
    if (along) add_along(a, r, step);
    Lane::adjoint<!alone>(x, p, before, stored, dy, g, dx, dp);
    if (!alone) gradients.write(a, dx), shared.put(r, k, dx);
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
      if (!alone) g_reset[s] += g[s];
      g[s] = 0;
    }
#pragma unroll
    for (int q = 0; q < kQ; ++q) Q[q] = 0;
  }

  // --- states between two saved ones

  RNNCC_MEMBER static real* inner_at(const Args& a, const Run& r, int64_t block, int s) {
    const int64_t checkpoint = a.checkpoint < a.steps ? a.checkpoint : a.steps;
    const int64_t blocks = (checkpoint + kAhead - 1) / kAhead;
    return a.inner + ((r.index * blocks + block) * Cell::kStates + s) * a.groups + r.group;
  }

  // The states before each block from a saved one up to a spot.
  RNNCC_MEMBER void fill_inner(const Args& a, const Run& r, const Spot& spot) const {
    const int saved = spot.step - spot.above * kAhead;
    real now[Cell::kStates], next[Cell::kStates], x[Cell::kInputs + 1];
    real y[Cell::kOutputs], stored[Cell::kStored + 1];
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s)
      now[s] = *saved_at(a, r, saved_slot(a, r, r.first + saved), s);
#pragma unroll 1
    for (int step = saved; step < spot.step; ++step) {
      read_inputs(a, r, step, x);
      if (is_reset(a, r, step)) load_states(a, r, a.h0, now);
      Lane::step<false, false>(x, p, now, next, y, stored);
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) now[s] = next[s];
      const int done = step + 1 - saved;
      if (done % kAhead == 0 && r.active)
        for (int s = 0; s < Cell::kStates; ++s) *inner_at(a, r, done / kAhead, s) = now[s];
    }
  }

  RNNCC_MEMBER static void load_inner(const Args& a, const Run& r, const Spot& spot, real* to) {
#pragma unroll
    for (int s = 0; r.active && s < Cell::kStates; ++s)  // else another thread may be writing it
      to[s] = *inner_at(a, r, spot.above, s);
  }
};

RNNCC_FN void clear_inputs(const Args& a, const Run& r) {
#pragma unroll 1
  for (int i = 0; i < Cell::kInputs; ++i)
    if (Cell::inputs[i].stride) clear_after(a, r, a.dx[Cell::inputs[i].tensor], Cell::inputs[i]);
}

}  // namespace rnncc
