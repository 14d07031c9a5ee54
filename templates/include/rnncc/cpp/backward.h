// Backward.
//
// The backward is linear: g[t-1] = J[t]^T g[t] + the gradient that flows in at t. A run is walked
// last step first, in blocks of at most kBlock steps: forward from a saved state, storing the lets
// that the adjoint reads, then backward. Jacobians are never stored; the stored lets stay in cache.
// Memory is read block by block from its end, which the hardware doesn't foresee: each step of a walk
// fetches what the walk after it reads or writes.
#pragma once

#include "rnncc/cpp/threads.h"

namespace rnncc {

constexpr int64_t kBlock = 16;
constexpr int64_t kFar = 1 << 20;  // bytes of inputs, and of gradients, that near caches don't keep
constexpr int64_t kNear = 512 << 10;  // bytes that they keep of a block and of the inputs before it

static_assert(kBlock <= kAhead, "a block's rows are brought in at once");

struct WalkBack {
  const Args& a;
  const Tile& t;
  const int width;
  const bool far, ahead;  // ahead: the inputs of the block before are fetched
  bool writes = false;    // gradients of the inputs, which are far
  double* sums;
  real *p, *dp, *g, *g_initial, *initial, *peak, *Q, *held, *absent_row, *h, *stored, *inner;
  Stream x[Lanes::kInputs + 1], dx[Lanes::kInputs + 1], dy[Lanes::kOutputs], dz[Lanes::kStates];

  static constexpr int64_t kQ = kOnePass ? 0 : Lanes::kFed * Lanes::kStates;
  static constexpr int64_t kHeld = Lanes::kParams + Lanes::kStates;

  static int64_t blocks(const Args& a) {
    return ((a.checkpoint < a.steps ? a.checkpoint : a.steps) + kBlock - 1) / kBlock;
  }

  static Space space(const Args& a, const Cut& cut) {
    constexpr int64_t once = Lanes::kParams * 4 + Lanes::kStates * 4 + kQ + kHeld + 1;
    constexpr int64_t stored = Lanes::kStates * (kBlock + 1) + Lanes::kStored * kBlock;
    constexpr int64_t buffers = kAhead * (2 * Lanes::kInputs + Lanes::kOutputs + Lanes::kStates);
    const int64_t cleared = once + Lanes::kStates * blocks(a);
    return {cleared * cut.pitch(), (stored + buffers) * cut.pitch()};
  }

  // Of the rows of a block, and of the inputs of the block before.
  static int64_t block_bytes(const Tile& t) {
    constexpr int64_t kept = Lanes::kStored + Lanes::kStates + Lanes::kOutputs;
    return kBlock * (kept + 2 * Lanes::kInputs) * t.pitch * int64_t(sizeof(real));
  }

  RNNCC_ONCE WalkBack(const Args& args, const Tile& tile, real* space)
      : a(args),
        t(tile),
        width(t.width()),
        far(Lanes::kInputs * row_bytes(a) >= kFar),
        ahead(far && block_bytes(t) <= kNear) {
    auto take = [&](int64_t count) {
      real* rows = space;
      space += count * t.pitch;
      return rows;
    };
    sums = reinterpret_cast<double*>(take(2 * Lanes::kParams));
    p = take(Lanes::kParams), dp = take(Lanes::kParams);
    g = take(Lanes::kStates), g_initial = take(Lanes::kStates), initial = take(Lanes::kStates);
    peak = take(Lanes::kStates), Q = take(kQ), held = take(kHeld), absent_row = take(1);
    inner = take(Lanes::kStates * blocks(a));
    h = take(Lanes::kStates * (kBlock + 1)), stored = take(Lanes::kStored * kBlock);
    for (int i = 0; i < Lanes::kInputs; ++i) {
      const Slot& slot = Lanes::inputs[i];
      x[i].open(a, a.x[slot.tensor], slot, t, take(kAhead));
      dx[i].open(a, slot.stride ? a.dx[slot.tensor] : View{}, slot, t, take(kAhead));
      if (far) dx[i].write_past_cache();
    }
    for (int i = 0; i < Lanes::kOutputs; ++i) {
      dy[i].open(a, a.dy[Lanes::outputs[i].tensor], Lanes::outputs[i], t, take(kAhead));
      if (!dy[i].present) fill_absent(dy[i].buffer, kAhead);
    }
    for (int i = 0; i < Lanes::kStates; ++i)
      dz[i].open(a, a.dz[Lanes::states[i].tensor], Lanes::states[i], t, take(kAhead));
    load_params(a, t, p);
    for (int64_t r = 0; r < t.rows; ++r) load_states(a, t, r, a.h0, initial);
    fill_absent(absent_row, 1);
    for (int64_t i = 0; i < Lanes::kParams * t.pitch; ++i) sums[i] = 0;
    for (int64_t i = 0; i < Lanes::kStates * t.pitch; ++i) g_initial[i] = 0;
  }

  // Every step of the tile, last first; `alone`: of the gradients only g, and Q. Else the largest
  // gradients of its first steps are in `peak`.
  RNNCC_ONCE void run(bool alone) {
    writes = far && !alone;
    clear_lanes(Lanes::kStates * t.pitch, peak);
    const int64_t states = Lanes::kStates * t.pitch;
    for (int64_t first = (t.steps - 1) / a.checkpoint * a.checkpoint; t.steps && first >= 0;
         first -= a.checkpoint) {
      const int64_t end = first + a.checkpoint < t.steps ? first + a.checkpoint : t.steps;
      for (int64_t r = 0; r < t.rows; ++r)
        if (t.runs(r, first)) load_saved(a, t, r, first, inner);
      int64_t block = 0;
      for (; first + (block + 1) * kBlock < end; ++block) {
        recompute(inner + block * states, first + block * kBlock, kBlock);
        copy(h + kBlock * states, inner + (block + 1) * states);
      }
      for (; block >= 0; --block) {
        const int64_t step = first + block * kBlock;
        const int64_t count = end - step < kBlock ? end - step : kBlock;
        recompute(inner + block * states, step, count);
        if (alone && !kOnePass) back_alone(step, count);
        else back(step, count);
      }
    }
    wait_for_stores();
  }

 private:
  // A slice of the rows of a step.
  struct Rows {
    Row x[Lanes::kInputs + 1], dx[Lanes::kInputs + 1], dy[Lanes::kOutputs];
  };

  void open(Row* rows, const Stream* streams, int count, int64_t first, int64_t step,
            int slice) const {
    for (int i = 0; i < count; ++i) rows[i] = streams[i].row(first, step, t.slice[slice]);
  }

  void fill_absent(real* rows, int64_t count) const {
    for (int64_t i = 0; i < count * t.pitch; ++i) rows[i] = real(-0.0);
  }

  void copy(const real* from, real* to) const {
    for (int64_t i = 0; i < Lanes::kStates * t.pitch; ++i) to[i] = from[i];
  }

  // Recomputes steps; stores all their states and the lets that the adjoint reads.
  RNNCC_ONCE void recompute(const real* from, int64_t first, int64_t count) {
    copy(from, h);
    Rows rows[kMostSlices];
    for (int i = 0; i < Lanes::kInputs; ++i) x[i].load(first, count);
    for (int i = 0; i < t.slices; ++i) open(rows[i].x, x, Lanes::kInputs, first, first, i);
    for (int64_t k = 0; k < count; ++k) {
      real* const before = h + k * Lanes::kStates * t.pitch;
      if (far) fetch<false>(dy, Lanes::kOutputs, first + k);
      if (writes) fetch<true>(dx, Lanes::kInputs, first + k);
      for (int64_t r = 0; a.reset && r < t.rows; ++r)
        if (t.resets(a, r, first + k)) copy_row(t, r, Lanes::kStates, initial, before);
      for (int i = 0; i < t.slices; ++i) {
        const int64_t at = t.slice[i].first;
        if (!ahead) fetch_ahead(rows[i].x, x, Lanes::kInputs, t.slice[i]);
        Lanes::step_to_store(rows[i].x, p + at, before + at, before + Lanes::kStates * t.pitch + at,
                             stored + k * Lanes::kStored * t.pitch + at, t.slice[i].width, t.pitch);
        shift(rows[i].x, Lanes::kInputs, 1);
      }
    }
  }

  // The adjoint of the steps that were recomputed, whose inputs are still at hand, last first.
  RNNCC_ONCE void back(int64_t first, int64_t count) {
    const bool uneven = !t.even, has_dz = load_dz(first, count);
    const int64_t last = first + count - 1;
    Rows rows[kMostSlices];
    for (int i = 0; i < Lanes::kOutputs; ++i) dy[i].load(first, count);
    for (int i = 0; i < t.slices; ++i) {
      open(rows[i].x, x, Lanes::kInputs, first, last, i);
      open(rows[i].dx, dx, Lanes::kInputs, first, last, i);
      open(rows[i].dy, dy, Lanes::kOutputs, first, last, i);
    }
    for (int64_t i = 0; i < Lanes::kParams * t.pitch; ++i) dp[i] = 0;
    for (int64_t k = count - 1; k >= 0; --k) {
      const int64_t step = first + k;
      if (ahead && first) fetch<false>(x, Lanes::kInputs, step - kBlock);
      if (uneven) {
        hold_ended(t, step, Lanes::kStates, g, held);
        hold_ended(t, step, Lanes::kParams, dp, held + Lanes::kStates * t.pitch);
      }
      if (has_dz) add_dz(first, k);
      for (int i = 0; i < t.slices; ++i) {
        const int64_t at = t.slice[i].first;
        Lanes::adjoint<true>(rows[i].x, p + at, h + k * Lanes::kStates * t.pitch + at,
                             stored + k * Lanes::kStored * t.pitch + at, rows[i].dy, g + at,
                             rows[i].dx, dp + at, t.slice[i].width, t.pitch);
        shift(rows[i].x, Lanes::kInputs, -1), shift(rows[i].dx, Lanes::kInputs, -1);
        shift(rows[i].dy, Lanes::kOutputs, -1);
      }
      if (uneven) {
        hold_ended(t, step, Lanes::kStates, held, g);
        hold_ended(t, step, Lanes::kParams, held + Lanes::kStates * t.pitch, dp);
      }
      if (a.reset) reset(step, false);
      if (step < kTail) note_sizes(Lanes::kStates * t.pitch, g, peak);
      for (int i = 0, shared = 0; i < Lanes::kInputs; ++i)
        if (!Lanes::inputs[i].stride)
          reduce_shared(shared++, step, dx[i].row(first, step, t.slice[0]).at);
    }
    for (int i = 0; i < Lanes::kInputs; ++i) dx[i].store(first, count);
    for (int i = 0; i < Lanes::kParams; ++i) {
#pragma omp simd
      for (int c = 0; c < width; ++c) sums[i * t.pitch + c] += dp[i * t.pitch + c];
    }
  }

  // The same for each column of Q, into which nothing flows, and for g alone.
  RNNCC_ONCE void back_alone(int64_t first, int64_t count) {
    const bool has_dz = load_dz(first, count);
    const int64_t last = first + count - 1;
    Row no_dy[Lanes::kOutputs];
    Rows rows[kMostSlices];
    for (int i = 0; i < Lanes::kOutputs; ++i) {
      dy[i].load(first, count);
      no_dy[i] = {absent_row, t.blocks, 0};
    }
    for (int i = 0; i < t.slices; ++i) {
      open(rows[i].x, x, Lanes::kInputs, first, last, i);
      open(rows[i].dy, dy, Lanes::kOutputs, first, last, i);
    }
    for (int64_t k = count - 1; k >= 0; --k) {
      if (ahead && first) fetch<false>(x, Lanes::kInputs, first + k - kBlock);
      for (int q = 0; q <= Lanes::kFed; ++q) {
        const bool own = q == Lanes::kFed;
        real* const column = own ? g : Q + q * Lanes::kStates * t.pitch;
        if (!t.even) hold_ended(t, first + k, Lanes::kStates, column, held);
        if (own && has_dz) add_dz(first, k);
        for (int i = 0; i < t.slices; ++i) {
          const int64_t at = t.slice[i].first;
          Lanes::adjoint<false>(rows[i].x, p + at, h + k * Lanes::kStates * t.pitch + at,
                                stored + k * Lanes::kStored * t.pitch + at,
                                own ? rows[i].dy : no_dy, column + at, nullptr, dp + at,
                                t.slice[i].width, t.pitch);
        }
        if (!t.even) hold_ended(t, first + k, Lanes::kStates, held, column);
      }
      if (a.reset) reset(first + k, true);
      for (int i = 0; i < t.slices; ++i)
        shift(rows[i].x, Lanes::kInputs, -1), shift(rows[i].dy, Lanes::kOutputs, -1);
    }
  }

  // Whether there are gradients of the states after each step at all.
  bool load_dz(int64_t first, int64_t count) const {
    bool any = false;
    for (const Stream& stream : dz) stream.load(first, count), any = any || stream.present;
    return any;
  }

  // Adds to g the gradient that flows in at a step; the caller restores g of runs that have ended.
  RNNCC_ONCE void add_dz(int64_t first, int64_t k) {
    for (int s = 0; s < Lanes::kStates; ++s) {
      for (int i = 0; dz[s].present && i < t.slices; ++i) {
        const Row row = dz[s].row(first, first + k, t.slice[i]);
        real* const to = g + s * t.pitch + t.slice[i].first;
        for (int lane = 0; lane < t.slice[i].width; lane += kLanes) {
          const real* const from = row.block(lane);
#pragma omp simd
          for (int c = lane; c < lane + kLanes; ++c) to[c] += from[c];
        }
      }
    }
  }

  // Where the state before a step was the initial state: the gradient goes there.
  RNNCC_ONCE void reset(int64_t step, bool alone) {
    for (int64_t row = 0; row < t.rows; ++row) {
      if (!t.resets(a, row, step)) continue;
      for (int s = 0; s < Lanes::kStates; ++s)
        for (int64_t c = row * t.span; c < (row + 1) * t.span; ++c)
          g_initial[s * t.pitch + c] += g[s * t.pitch + c];
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
        for (int64_t i = c; i < end; ++i) sum += row[r * t.span + t.lane_of(i)];
        const int64_t block = blocks_before + c / kLanes;
        a.shared_sums[(block * places + place) * Lanes::kSharedInputs + shared] = sum;
      }
    }
  }

 public:
  static int64_t shared_places(const Args& a) { return (a.joined ? 1 : a.batch) * a.extent; }
};

}  // namespace rnncc
