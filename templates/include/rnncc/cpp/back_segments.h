// Segments of the backward.
//
// Several segments need the gradient at their ends first. A walk over a stretch of steps alone,
// from a gradient of 0, gives the one before its first step, and for each state that a step reads
// how a gradient passes through the stretch (Q, by the adjoint itself, so that a surrogate's
// derivative holds here too). Where the first few steps after a segment let next to nothing of a
// later gradient through, their own is the gradient at its end; otherwise a walk over all segments
// and a scan give it. Then all segments are walked from these gradients, and compared at their
// borders with what the segment after each comes to: another scan says what is still missing there.
#pragma once

#include "rnncc/cpp/segments.h"
#include "rnncc/cpp/backward.h"
#include "rnncc/cpp/sums.h"

namespace rnncc {

// Each stretch alone. The warm-up after a run leaves the gradient at its end in `begins`; at the
// end of a sequence that is the one given.
static void alone_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const bool warm_up = pass.cut.stretch == Stretch::kWarmUpAfter;
  const Tile t(pass, index);
  WalkBack walk(a, t, space);
  for (int64_t r = 0; r < t.rows; ++r) {
    const bool to_end = t.first[r] + t.count[r] >= length_of(a, t.sequence[r]);
    clear_row(t, r, Lanes::kStates, walk.g);
    clear_row(t, r, int(WalkBack::kQ), walk.Q);
    if (warm_up && to_end) {
      if (a.dh_last) load_states(a, t, r, a.dh_last, walk.g);
      continue;
    }
    for (int q = 0; q < Lanes::kFed; ++q)
      for (int64_t c = r * t.span; c < (r + 1) * t.span; ++c)
        walk.Q[(q * Lanes::kStates + Lanes::fed[q]) * t.pitch + c] = 1;
  }
  walk.run(true);
  for (int64_t r = 0; r < t.rows; ++r) {
    store_run(a, t, r, t.run + r, Lanes::kStates, walk.g, warm_up ? a.begins : a.ends);
    store_run(a, t, r, t.run + r, int(WalkBack::kQ), walk.Q, a.products);
  }
}

static void backward_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const bool whole = pass.cut.whole;
  const Tile t(pass, index);
  bool any = whole;
  for (int64_t r = 0; !whole && r < t.rows; ++r) any = any || moved(a, t.run + r) != 0;
  if (!any) return;
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
      for (int64_t c = r * t.span; c < (r + 1) * t.span; ++c)
        walk.g_initial[s * t.pitch + c] += walk.g[s * t.pitch + c];
    if (whole) {
      store_states(a, t, r, walk.g_initial, a.dh0);
    } else {
      store_run(a, t, r, run, Lanes::kStates, walk.g_initial, a.initials);
      store_run(a, t, r, run, Lanes::kStates, walk.g, a.ends);
      store_run(a, t, r, run, Lanes::kStates, walk.peak, a.peaks);
    }
    for (int k = 0; k < Lanes::kParams; ++k)
      for (int64_t c = 0; c < t.columns; ++c)
        a.param_sums[(run * Lanes::kParams + k) * a.groups + t.column + c] =
            walk.sums[k * t.pitch + r * t.span + t.lane_of(c)];
  }
}

// The gradient at the end of each segment of a sequence, last first.
static void scan_back(const Pass& pass, int64_t b, real*) {
  const Args& a = pass.args;
  const int64_t runs = pass.cut.runs_of(a, b), first = pass.cut.first_run(a, b);
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int64_t c = 0; c < a.groups; ++c) {
    real g[Lanes::kStates] = {};
    for (int s = 0; a.dh_last && s < Lanes::kStates; ++s) {
      const Slot& slot = Lanes::states[s];
      g[s] = a.dh_last[(slot.tensor * a.batch + b) * channels + slot.offset + c * slot.stride];
    }
    for (int64_t run = first + runs - 1; run >= first; --run) {
      const int64_t size = Lanes::kStates * a.groups;
      for (int s = 0; s < Lanes::kStates; ++s) a.begins[run * size + s * a.groups + c] = g[s];
      // as pass_through does in CUDA; in one function, multiply-adds would round elsewhere
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

// Whether the gradients in `begins` of a sequence lack next to nothing: the part of the largest
// gradients that the steps after a segment would let through is small beside their own, for each
// state.
static void judge_sequence(const Pass& pass, int64_t b, real* most) {
  const Args& a = pass.args;
  const int64_t first = pass.cut.first_run(a, b), end = pass.cut.first_run(a, b + 1);
  const int64_t groups = a.groups, size = Lanes::kStates * groups;
  bool all_there = true;
  for (int64_t i = 0; i < size; ++i) most[i] = 0;
  for (int64_t run = first; run < end; ++run)
    for (int64_t i = 0; i < size; ++i) most[i] = larger(most[i], a.begins[run * size + i]);
  for (int64_t run = first; run < end; ++run)
    for (int64_t c = 0; c < groups; ++c)
      for (int s = 0; s < Lanes::kStates; ++s) {
        const real* const Q = a.products + run * WalkBack::kQ * groups + c;
        const real there = larger(0, a.begins[run * size + s * groups + c]);
        if (!forgotten(most_through(Q, most + c, s, groups), there)) all_there = false;
      }
  a.verdicts[2 * b] = all_there;
}

static bool all_there(const Args& a) {
  bool all = true;
  for (int64_t b = 0; b < a.batch; ++b) all = all && a.verdicts[2 * b] != 0;
  return all;
}

// All borders of one sequence, last first, after a walk from the gradients in `begins`: adds to them
// what is missing. Leaves in `verdicts` the largest change. Without `carry` Q is not known.
static void compare_back(const Pass& pass, int64_t b, real*) {
  const Args& a = pass.args;
  const int64_t first = pass.cut.first_run(a, b), last = pass.cut.first_run(a, b + 1) - 1;
  const int64_t groups = a.groups, size = Lanes::kStates * groups;
  real worst = 0;
  for (int64_t run = first; run <= last; ++run) moved(a, run) = 0;
  for (int64_t c = 0; c < groups; ++c) {
    BackBorder border = {};
    for (int64_t run = last; run > first; --run) {
      const real* const Q = a.products + run * WalkBack::kQ * groups + c;
      const Side after = {a.ends + run * size + c, a.peaks + run * size + c,
                          pass.sweep.carry ? Q : nullptr, a.begins + run * size + c};
      if (border.cross(after, a.begins + (run - 1) * size + c, groups)) moved(a, run - 1) = 1;
    }
    worst = larger(worst, border.worst);
  }
  a.verdicts[2 * b] = double(worst);
}

// Walks all segments from the gradients in `begins`, at most `walks` times, until neighbours agree;
// `known`: Q is. Leaves in `agreed` whether they do; false if there was no memory.
static bool walk_segments(Pass pass, bool known, int64_t walks, bool* agreed) {
  const Args& a = pass.args;
  double before = kNoScan;
  pass.sweep.carry = known;
  move_all(a, pass.cut.first_run(a, a.batch));
  for (int64_t n = 0; n < walks && !*agreed; ++n) {
    if (in_parallel(pass, backward_tile, Tile::number(pass), WalkBack::space(a, pass.cut)))
      return false;
    if (in_parallel(pass, compare_back, a.batch, {1})) return false;
    double change = 0;
    for (int64_t b = 0; b < a.batch; ++b)
      change = a.verdicts[2 * b] > change ? a.verdicts[2 * b] : change;
    *agreed = agree_back(before, change);
    before = change;
  }
  return true;
}

// The gradients of all segments; false if there was no memory. `solved`: whether they are right.
static bool back_segments(const Pass& pass, bool* solved) {
  const Args& a = pass.args;
  const int64_t tiles = Tile::number(pass);
  const Space space = WalkBack::space(a, pass.cut);
  Pass warm_up = pass;
  warm_up.cut.stretch = Stretch::kWarmUpAfter;
  if (in_parallel(warm_up, alone_tile, tiles, space)) return false;
  if (in_parallel(pass, judge_sequence, a.batch, {Lanes::kStates * a.groups + 64})) return false;
  if (all_there(a) && !walk_segments(pass, false, 1, solved)) return false;
  if (*solved || !walks_twice(a)) return true;
  if (in_parallel(pass, alone_tile, tiles, space)) return false;
  const int64_t values = pass.cut.first_run(a, a.batch) * WalkBack::kQ;
  if (!scans_back(a, largest_product(a, values))) return true;
  if (in_parallel(pass, scan_back, a.batch, {1})) return false;
  return walk_segments(pass, true, most_walks(a), solved);
}

static int run_backward(const Args& a) {
  for (int i = 0; i < Lanes::kInputTensors; ++i) ask_for_large_pages(a, a.dx[i]);
  if (!kOnePass && a.segment < a.steps) number_runs(a);
  Pass pass = {a, Cut::into_segments(a)};
  bool solved = false;
  if (!kOnePass && !pass.cut.whole && !back_segments(pass, &solved)) return 1;
  if (!solved) {
    pass.cut = Cut::in_one(a, 0);
    const Space space = WalkBack::space(a, pass.cut);
    if (in_parallel(pass, backward_tile, Tile::number(pass), space)) return 1;
  }
  if (solved) reduce_starts(pass);
  reduce_params(pass);
  reduce_shared_inputs(a);
  for (int i = 0; i < Lanes::kInputTensors; ++i) clear_tails(a, a.dx[i]);
  return 0;
}

}  // namespace rnncc
