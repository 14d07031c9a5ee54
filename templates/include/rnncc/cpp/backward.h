// Backward.
//
// The way back is linear: g[t-1] = J[t]^T g[t] + what flows in at t. A run is walked last step first,
// in blocks of at most kBlock steps: forward from a saved state, keeping what the adjoint reads, then
// backward. Jacobians are never stored; what is kept stays in cache.
//
// Several segments need the gradient at their ends first. A walk over a stretch of steps alone, from
// a gradient of 0, gives the one at its start, and for each state that a step reads how a gradient
// passes through the stretch (Q, by the adjoint itself, so that a surrogate's derivative holds here
// too). Where the first few steps after a segment let next to nothing through of what comes out of
// them, that is the gradient at its end; else a walk over all segments and a scan give it.
#pragma once

#include "rnncc/cpp/segments.h"

namespace rnncc {

constexpr int64_t kBlock = 16;
constexpr real kForgotten = sizeof(real) == 4 ? real(1e-7) : real(1e-16);

static_assert(kBlock <= kAhead, "a block's rows are brought in at once");

struct WalkBack {
  const Args& a;
  const Tile& t;
  const int width;
  double* sums;
  real *p, *dp, *g, *g_start, *start, *Q, *held, *zeros, *h, *kept, *inner;
  Stream x[Lanes::kInputs + 1], dx[Lanes::kInputs + 1], dy[Lanes::kOutputs], dz[Lanes::kStates];

  static constexpr int64_t kQ = Lanes::kFed * Lanes::kStates;
  static constexpr int64_t kHeld = Lanes::kParams + Lanes::kStates;

  static int64_t blocks(const Args& a) {
    return ((a.checkpoint < a.steps ? a.checkpoint : a.steps) + kBlock - 1) / kBlock;
  }

  static int64_t space(const Args& a) {
    constexpr int64_t kept = Lanes::kStates + Lanes::kStored;
    constexpr int64_t once = Lanes::kParams * 4 + Lanes::kStates * 3 + kQ + kHeld + 1 +
                             kAhead * (2 * Lanes::kInputs + Lanes::kOutputs + Lanes::kStates);
    return (once + kept * (kBlock + 1) + Lanes::kStates * blocks(a)) * int64_t(kRow);
  }

  RNNCC_ONCE WalkBack(const Args& args, const Tile& tile, real* space)
      : a(args), t(tile), width(t.width()) {
    auto take = [&](int64_t count) { real* rows = space; space += count * kRow; return rows; };
    sums = reinterpret_cast<double*>(take(2 * Lanes::kParams));
    p = take(Lanes::kParams), dp = take(Lanes::kParams);
    g = take(Lanes::kStates), g_start = take(Lanes::kStates), start = take(Lanes::kStates);
    Q = take(kQ), held = take(kHeld), zeros = take(1);
    h = take(Lanes::kStates * (kBlock + 1)), kept = take(Lanes::kStored * kBlock);
    inner = take(Lanes::kStates * blocks(a));
    for (int i = 0; i < Lanes::kInputs; ++i) {
      const Slot& slot = Lanes::inputs[i];
      x[i].open(a, a.x[slot.tensor], slot, t, take(kAhead));
      dx[i].open(a, slot.stride ? a.dx[slot.tensor] : View{}, slot, t, take(kAhead));
    }
    for (int i = 0; i < Lanes::kOutputs; ++i)
      dy[i].open(a, a.dy[Lanes::outputs[i].tensor], Lanes::outputs[i], t, take(kAhead));
    for (int i = 0; i < Lanes::kStates; ++i)
      dz[i].open(a, a.dz[Lanes::states[i].tensor], Lanes::states[i], t, take(kAhead));
    load_params(a, t, p);
    for (int64_t r = 0; r < t.rows; ++r) load_states(a, t, r, a.h0, start);
    for (int64_t i = 0; i < Lanes::kParams * kRow; ++i) sums[i] = 0;
    for (int64_t i = 0; i < Lanes::kStates * kRow; ++i) g_start[i] = 0;
  }

  // Every step of the tile, last first; `alone`: of the gradients only g, and Q.
  RNNCC_ONCE void run(bool alone) {
    constexpr int64_t states = Lanes::kStates * int64_t(kRow);
    for (int64_t first = (t.steps - 1) / a.checkpoint * a.checkpoint; t.steps && first >= 0;
         first -= a.checkpoint) {
      const int64_t end = first + a.checkpoint < t.steps ? first + a.checkpoint : t.steps;
      for (int64_t r = 0; r < t.rows; ++r)
        if (t.runs(r, first)) load_saved(a, t, r, first, inner);
      int64_t block = 0;
      for (; first + (block + 1) * kBlock < end; ++block) {
        again(inner + block * states, first + block * kBlock, kBlock);
        copy(h + kBlock * states, inner + (block + 1) * states);
      }
      for (; block >= 0; --block) {
        const int64_t step = first + block * kBlock;
        const int64_t count = end - step < kBlock ? end - step : kBlock;
        again(inner + block * states, step, count);
        if (alone) back_alone(step, count); else back(step, count);
      }
    }
  }

 private:
  static void copy(const real* from, real* to) {
    for (int64_t i = 0; i < Lanes::kStates * kRow; ++i) to[i] = from[i];
  }

  // Steps once more; all their states and what the adjoint reads stay.
  RNNCC_ONCE void again(const real* from, int64_t first, int64_t count) {
    copy(from, h);
    Row x_rows[Lanes::kInputs + 1];
    for (int i = 0; i < Lanes::kInputs; ++i)
      x[i].load(first, count), x_rows[i] = x[i].row(first, first);
    for (int64_t k = 0; k < count; ++k) {
      real* const before = h + k * Lanes::kStates * kRow;
      for (int64_t r = 0; a.reset && r < t.rows; ++r)
        if (t.resets(a, r, first + k)) copy_row(t, r, Lanes::kStates, start, before);
      Lanes::step_to_store(x_rows, p, before, before + Lanes::kStates * kRow,
                        kept + k * Lanes::kStored * kRow, width);
      shift(x_rows, x, Lanes::kInputs, 1);
    }
  }

  // The adjoint of the steps that were walked again, whose inputs are still at hand, last first.
  RNNCC_ONCE void back(int64_t first, int64_t count) {
    const bool uneven = !t.even, has_dz = load_dz(first, count);
    const int64_t last = first + count - 1;
    Row x_rows[Lanes::kInputs + 1], dx_rows[Lanes::kInputs + 1], dy_rows[Lanes::kOutputs];
    for (int i = 0; i < Lanes::kInputs; ++i)
      x_rows[i] = x[i].row(first, last), dx_rows[i] = dx[i].row(first, last);
    for (int i = 0; i < Lanes::kOutputs; ++i)
      dy[i].load(first, count), dy_rows[i] = dy[i].row(first, last);
    for (int64_t i = 0; i < Lanes::kParams * kRow; ++i) dp[i] = 0;
    for (int64_t k = count - 1; k >= 0; --k) {
      const int64_t step = first + k;
      if (uneven) {
        hold_ended(t, step, Lanes::kStates, g, held);
        hold_ended(t, step, Lanes::kParams, dp, held + Lanes::kStates * kRow);
      }
      if (has_dz) add_dz(first, k);
      Lanes::adjoint<true>(x_rows, p, h + k * Lanes::kStates * kRow, kept + k * Lanes::kStored * kRow,
                           dy_rows, g, dx_rows, dp, width);
      if (uneven) {
        hold_ended(t, step, Lanes::kStates, held, g);
        hold_ended(t, step, Lanes::kParams, held + Lanes::kStates * kRow, dp);
      }
      if (a.reset) reset(step, false);
      for (int i = 0, shared = 0; i < Lanes::kInputs; ++i)
        if (!Lanes::inputs[i].stride) reduce_shared(shared++, step, dx_rows[i].at);
      shift(x_rows, x, Lanes::kInputs, -1), shift(dx_rows, dx, Lanes::kInputs, -1);
      shift(dy_rows, dy, Lanes::kOutputs, -1);
    }
    for (int i = 0; i < Lanes::kInputs; ++i) dx[i].store(first, count);
    for (int i = 0; i < Lanes::kParams; ++i) {
#pragma omp simd
      for (int c = 0; c < width; ++c) sums[i * kRow + c] += dp[i * kRow + c];
    }
  }

  // The same for each column of Q, into which nothing flows, and for g alone.
  RNNCC_ONCE void back_alone(int64_t first, int64_t count) {
    const bool has_dz = load_dz(first, count);
    const int64_t last = first + count - 1;
    Row x_rows[Lanes::kInputs + 1], dy_rows[Lanes::kOutputs], no_dy[Lanes::kOutputs];
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].row(first, last);
    for (int i = 0; i < Lanes::kOutputs; ++i) {
      dy[i].load(first, count), dy_rows[i] = dy[i].row(first, last);
      no_dy[i] = {zeros, t.blocks};
    }
    for (int64_t k = count - 1; k >= 0; --k) {
      for (int q = 0; q <= Lanes::kFed; ++q) {
        const bool own = q == Lanes::kFed;
        real* const column = own ? g : Q + q * Lanes::kStates * kRow;
        if (!t.even) hold_ended(t, first + k, Lanes::kStates, column, held);
        if (own && has_dz) add_dz(first, k);
        Lanes::adjoint<false>(x_rows, p, h + k * Lanes::kStates * kRow,
                              kept + k * Lanes::kStored * kRow, own ? dy_rows : no_dy, column,
                              nullptr, dp, width);
        if (!t.even) hold_ended(t, first + k, Lanes::kStates, held, column);
      }
      if (a.reset) reset(first + k, true);
      shift(x_rows, x, Lanes::kInputs, -1), shift(dy_rows, dy, Lanes::kOutputs, -1);
    }
  }

  // Whether there are gradients of the states after each step at all.
  bool load_dz(int64_t first, int64_t count) const {
    bool any = false;
    for (const Stream& stream : dz) stream.load(first, count), any = any || stream.present;
    return any;
  }

  // To g what flows in at a step; the caller gives runs that have ended theirs back.
  RNNCC_ONCE void add_dz(int64_t first, int64_t k) {
    for (int s = 0; s < Lanes::kStates; ++s) {
      const Row row = dz[s].row(first, first + k);
      for (int lane = 0; dz[s].present && lane < width; lane += kLanes) {
        const real* const from = row.block(lane);
#pragma omp simd
        for (int i = lane; i < lane + kLanes; ++i) g[s * kRow + i] += from[i];
      }
    }
  }

  // Where the state before a step was that of the start: the gradient goes there.
  RNNCC_ONCE void reset(int64_t step, bool alone) {
    for (int64_t row = 0; row < t.rows; ++row) {
      if (!t.resets(a, row, step)) continue;
      for (int s = 0; s < Lanes::kStates; ++s)
        for (int64_t c = row * t.columns; c < (row + 1) * t.columns; ++c)
          g_start[s * kRow + c] += g[s * kRow + c];
      clear_row(t, row, Lanes::kStates, g);
      if (alone) clear_row(t, row, int(kQ), Q);
    }
  }

  RNNCC_ONCE void reduce_shared(int shared, int64_t step, const real* row) {
    const int64_t blocks_before = t.column / kLanes, places = shared_places(a);
    for (int64_t r = 0; r < t.rows; ++r) {
      if (!t.runs(r, step)) continue;
      const int64_t b = t.sequence[r], time = time_of(a, b, t.first[r] + step);
      const int64_t place = (a.joined ? 0 : b * a.extent) + time;
      for (int64_t c = 0; c < t.columns; c += kLanes) {
        real sum = 0;
        const int64_t end = c + kLanes < t.columns ? c + kLanes : t.columns;
        for (int64_t i = c; i < end; ++i) sum += row[r * t.columns + i];
        const int64_t block = blocks_before + c / kLanes;
        a.shared_sums[(block * places + place) * Lanes::kSharedInputs + shared] = sum;
      }
    }
  }

 public:
  static int64_t shared_places(const Args& a) { return (a.joined ? 1 : a.batch) * a.extent; }
};

// Each stretch alone. The warm-up after a run leaves the gradient at its end in `begins`; at the
// end of a sequence that is the one given.
static void alone_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const Tile t(pass, index);
  WalkBack walk(a, t, space);
  for (int64_t r = 0; r < t.rows; ++r) {
    const bool to_end = t.first[r] + t.count[r] >= length_of(a, t.sequence[r]);
    clear_row(t, r, Lanes::kStates, walk.g);
    clear_row(t, r, int(WalkBack::kQ), walk.Q);
    if (pass.cut.warm_up && to_end) {
      if (a.dh_last) load_states(a, t, r, a.dh_last, walk.g);
      continue;
    }
    for (int q = 0; q < Lanes::kFed; ++q)
      for (int64_t c = r * t.columns; c < (r + 1) * t.columns; ++c)
        walk.Q[(q * Lanes::kStates + Lanes::fed[q]) * kRow + c] = 1;
  }
  walk.run(true);
  for (int64_t r = 0; r < t.rows; ++r) {
    store_run(a, t, r, t.run + r, Lanes::kStates, walk.g, pass.cut.warm_up ? a.begins : a.ends);
    store_run(a, t, r, t.run + r, int(WalkBack::kQ), walk.Q, a.products);
  }
}

static void backward_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const bool whole = pass.cut.whole;
  const Tile t(pass, index);
  WalkBack walk(a, t, space);
  for (int64_t r = 0; r < t.rows; ++r) {
    if (!whole) load_run(a, t, r, t.run + r, Lanes::kStates, a.begins, walk.g);
    else if (a.dh_last) load_states(a, t, r, a.dh_last, walk.g);
    else clear_row(t, r, Lanes::kStates, walk.g);
  }
  walk.run(false);
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t run = t.run + r;
    for (int s = 0; s < Lanes::kStates && !t.segment[r]; ++s)
      for (int64_t c = r * t.columns; c < (r + 1) * t.columns; ++c)
        walk.g_start[s * kRow + c] += walk.g[s * kRow + c];
    if (whole) store_states(a, t, r, walk.g_start, a.dh0);
    else store_run(a, t, r, run, Lanes::kStates, walk.g_start, a.ends);
    for (int k = 0; k < Lanes::kParams; ++k)
      for (int64_t c = 0; c < t.columns; ++c)
        a.param_sums[(run * Lanes::kParams + k) * a.groups + t.column + c] =
            walk.sums[k * kRow + r * t.columns + c];
  }
}

// The gradient at the end of each segment of a sequence, last first.
static void scan_back(const Pass& pass, int64_t b, real*) {
  const Args& a = pass.args;
  const int64_t runs = pass.cut.runs_of(a, b), first = pass.cut.first_run(a, b);
  const int64_t channels = a.groups * Lanes::kGroup, size = Lanes::kStates * a.groups;
  for (int64_t c = 0; c < a.groups; ++c) {
    real g[Lanes::kStates] = {};
    for (int s = 0; a.dh_last && s < Lanes::kStates; ++s) {
      const Slot& slot = Lanes::states[s];
      g[s] = a.dh_last[(slot.tensor * a.batch + b) * channels + slot.offset + c * slot.stride];
    }
    for (int64_t run = first + runs - 1; run >= first; --run) {
      for (int s = 0; s < Lanes::kStates; ++s) a.begins[run * size + s * a.groups + c] = g[s];
      real through[Lanes::kStates];
      for (int s = 0; s < Lanes::kStates; ++s) through[s] = a.ends[run * size + s * a.groups + c];
      for (int q = 0; q < Lanes::kFed; ++q)
        for (int s = 0; s < Lanes::kStates; ++s) {
          const real m = a.products[(run * WalkBack::kQ + q * Lanes::kStates + s) * a.groups + c];
          const real up = g[Lanes::fed[q]];
          through[s] += m == 0 || up == 0 ? 0 : m * up;
        }
      for (int s = 0; s < Lanes::kStates; ++s) g[s] = through[s];
    }
  }
}

// ---- sums in a fixed order -------------------------------------------------------------------------

static void reduce_starts(const Pass& pass) {
  const Args& a = pass.args;
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int s = 0; s < Lanes::kStates; ++s) {
      const Slot& slot = Lanes::states[s];
      for (int64_t c = 0; c < a.groups; ++c) {
        real sum = 0;
        for (int64_t run = pass.cut.first_run(a, b); run < pass.cut.first_run(a, b + 1); ++run)
          sum += a.ends[(run * Lanes::kStates + s) * a.groups + c];
        a.dh0[(slot.tensor * a.batch + b) * channels + slot.offset + c * slot.stride] = sum;
      }
    }
}

// Over the runs and, for shared params, over channels.
static void reduce_params(const Pass& pass) {
  const Args& a = pass.args;
  const int64_t runs = pass.cut.first_run(a, a.batch);
  for (int k = 0; k < Lanes::kParams; ++k) {
    const Slot& slot = Lanes::params[k];
    double all = 0;
    for (int64_t c = 0; c < a.groups; ++c) {
      double sum = 0;
      for (int64_t run = 0; run < runs; ++run)
        sum += a.param_sums[(run * Lanes::kParams + k) * a.groups + c];
      all += sum;
      if (slot.stride) a.dparams[slot.tensor][slot.offset + c * slot.stride] = real(sum);
    }
    if (!slot.stride) a.dparams[slot.tensor][0] = real(all);
  }
}

static void reduce_shared_inputs(const Args& a) {
  const int64_t blocks = (a.groups + kLanes - 1) / kLanes, places = WalkBack::shared_places(a);
  for (int i = 0, shared = 0; i < Lanes::kInputs; ++i) {
    if (Lanes::inputs[i].stride) continue;
    const View& view = a.dx[Lanes::inputs[i].tensor];
    for (int64_t b = 0; view.data && b < a.batch; ++b)
      for (int64_t step = 0; step < length_of(a, b); ++step) {
        const int64_t time = time_of(a, b, step), row = a.joined ? 0 : b;
        const real* from =
            a.shared_sums + (row * a.extent + time) * Lanes::kSharedInputs + shared;
        real sum = 0;
        for (int64_t block = 0; block < blocks; ++block)
          sum += from[block * places * Lanes::kSharedInputs];
        from_real(sum, view.data[row * view.batch + time * view.time]);
      }
    ++shared;
  }
}

// Whether the gradients in `begins` of a sequence lack next to nothing: what the steps after a
// segment would let through of the largest gradient is little beside what came out of them.
static void judge_sequence(const Pass& pass, int64_t b, real* most) {
  const Args& a = pass.args;
  const int64_t first = pass.cut.first_run(a, b), end = pass.cut.first_run(a, b + 1);
  const int64_t groups = a.groups;
  bool all_there = true;
  for (int64_t c = 0; c < groups; ++c) most[c] = 0;
  for (int64_t row = first * Lanes::kStates; row < end * Lanes::kStates; ++row)
    for (int64_t c = 0; c < groups; ++c) most[c] = larger(most[c], a.begins[row * groups + c]);
  for (int64_t run = first; run < end; ++run)
    for (int64_t c = 0; c < groups; ++c) {
      real through = 0, there = 0;
      for (int64_t k = run * WalkBack::kQ; k < (run + 1) * WalkBack::kQ; ++k)
        through = larger(through, a.products[k * groups + c]);
      for (int64_t s = run * Lanes::kStates; s < (run + 1) * Lanes::kStates; ++s)
        there = larger(there, a.begins[s * groups + c]);
      // no gradient there at all says nothing of one further on
      const bool little = there > 0 && through * most[c] <= kForgotten * there;
      if (through != 0 && !little) all_there = false;
    }
  a.verdicts[2 * b] = all_there;
}

static bool all_there(const Args& a) {
  bool all = true;
  for (int64_t b = 0; b < a.batch; ++b) all = all && a.verdicts[2 * b] != 0;
  return all;
}

static int run_backward(const Args& a) {
  for (int i = 0; i < Lanes::kInputTensors; ++i) ask_for_large_pages(a, a.dx[i]);
  if (a.segment < a.steps) number_runs(a);
  Pass pass = {a, Cut::into_segments(a)};
  const int64_t tiles = Tile::number(pass), space = WalkBack::space(a);
  if (!pass.cut.whole) {
    Pass warm_up = pass;
    warm_up.cut.warm_up = -(a.warm_up < a.segment ? a.warm_up : a.segment);
    if (in_parallel(warm_up, alone_tile, tiles, space)) return 1;
    if (in_parallel(pass, judge_sequence, a.batch, a.groups + 64)) return 1;
    if (!all_there(a)) {
      const bool twice = a.sweeps >= 2;
      if (twice && in_parallel(pass, alone_tile, tiles, space)) return 1;
      if (twice && finite(largest_product(a, pass.cut.first_run(a, a.batch) * WalkBack::kQ))) {
        if (in_parallel(pass, scan_back, a.batch, 1)) return 1;
      } else {
        pass.cut = Cut::in_one(a, 0);
      }
    }
  }
  if (in_parallel(pass, backward_tile, Tile::number(pass), space)) return 1;
  if (!pass.cut.whole) reduce_starts(pass);
  reduce_params(pass);
  reduce_shared_inputs(a);
  for (int i = 0; i < Lanes::kInputTensors; ++i) clear_tails(a, a.dx[i]);
  return 0;
}

}  // namespace rnncc
