// Segments.
//
// Time is cut into segments that run side by side, each from a guess of its initial state; Newton's
// iteration on the initial states brings the guesses into agreement (multiple shooting: Bellen and
// Zennaro 1989; with segments of one step: DEER, arXiv:2309.12252, and ParaRNN, arXiv:2510.21450).
// A sweep runs every segment and carries along the product M of the step Jacobians; the scan after
// it changes each initial state to
//     s[i] = e[i-1] + M[i-1] (new s[i-1] - old s[i-1]),   e[i-1] the end of the segment before.
// After n sweeps the first n segments are exact for any guess.
#pragma once

#include "rnncc/cpp/forward.h"

namespace rnncc {

// The first guess: the cell's init, run through the warm-up, the steps before the segment. The
// product of the Jacobians over these steps is the share of a wrong initial state that is left.
static void guess_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const Tile t(pass, index);
  Walk walk(a, t, space);
  for (int64_t r = 0; r < t.rows; ++r) {
    if (is_newton(a) && t.segment[r]) clear_row(t, r, Lanes::kStates, walk.h);
    else copy_row(t, r, Lanes::kStates, walk.initial, walk.h);
  }
  walk.run(false, true);
  for (int64_t r = 0; r < t.rows; ++r) {
    if (!t.count[r]) clear_row(t, r, Lanes::kProducts, walk.M);
    store_run(a, t, r, t.run + r, Lanes::kStates, walk.h, a.begins);
    store_run(a, t, r, t.run + r, Lanes::kProducts, walk.M, a.products);
  }
}

// The largest entry of all products.
RNNCC_ONCE static real largest_product(const Args& a, int64_t count) {
  real largest = 0;
  for (int64_t i = 0; i < count * a.groups; ++i) largest = larger(largest, a.products[i]);
  return largest;
}

static double& moved(const Args& a, int64_t run) { return a.verdicts[2 * a.batch + run]; }

// Runs whose initial state has not changed since they last ran need not rerun.
static void sweep_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const Tile t(pass, index);
  bool any = false;
  for (int64_t r = 0; r < t.rows; ++r) any = any || moved(a, t.run + r) != 0;
  if (!any) return;
  Walk walk(a, t, space);
  for (int64_t r = 0; r < t.rows; ++r)
    load_run(a, t, r, t.run + r, Lanes::kStates, a.begins, walk.h);
  walk.run(pass.sweep.write, pass.sweep.carry, !is_newton(a));
  for (int64_t r = 0; r < t.rows; ++r) {
    store_run(a, t, r, t.run + r, Lanes::kStates, walk.h, a.ends);
    store_run(a, t, r, t.run + r, Lanes::kStates, walk.peak, a.peaks);
    if (pass.sweep.carry) store_run(a, t, r, t.run + r, Lanes::kProducts, walk.M, a.products);
  }
}

// The fields of a Border that go on from one to the next, and in Newton's iteration two more.
static int64_t scan_space(const Args& a) {
  return ((is_newton(a) ? 3 : 1) * Lanes::kStates + 1) * a.groups + 64;
}

static void load_border(const Args& a, const real* space, int64_t c, Border* border) {
  const int64_t size = Lanes::kStates * a.groups;
  for (int k = 0; k < Lanes::kStates; ++k) {
    const real* at = space + k * a.groups + c;
    border->delta[k] = at[0];
    if (is_newton(a)) border->off[k] = at[size], border->most[k] = at[2 * size];
  }
}

static void store_border(const Args& a, const Border& border, int64_t c, real* space) {
  const int64_t size = Lanes::kStates * a.groups;
  for (int k = 0; k < Lanes::kStates; ++k) {
    real* at = space + k * a.groups + c;
    at[0] = border.delta[k];
    if (is_newton(a)) at[size] = border.off[k], at[2 * size] = border.most[k];
  }
}

// All borders of one sequence, in order of time; with `picard` the sweep carried no M. Leaves in
// `verdicts` the largest mismatch, and the first segment whose initial state was out of tolerance,
// or kNone.
static void scan_sequence(const Pass& pass, int64_t b, real* space) {
  const Args& a = pass.args;
  const int64_t runs = pass.cut.runs_of(a, b), groups = a.groups;
  const int64_t first = pass.cut.first_run(a, b);
  real worst_of_all = 0;
  int64_t bad = kNone;
  for (int64_t i = 0; i < scan_space(a); ++i) space[i] = 0;
  moved(a, first) = 0;
  for (int64_t i = 1; i < runs; ++i) {
    const int64_t run = first + i, before = (run - 1) * Lanes::kStates * groups;
    const real* M =
        pass.sweep.picard ? nullptr : a.products + (run - 1) * Lanes::kProducts * groups;
    real* s = a.begins + run * Lanes::kStates * groups;
    real worst = 0;
    bool changed = false;
    for (int64_t c = 0; c < groups; ++c) {
      Border border;
      load_border(a, space, c, &border);
      border.worst = worst;
      const Side side = {a.ends + before + c, a.peaks + before + c, M ? M + c : M,
                         a.begins + before + c};
      changed = border.cross(side, s + c, groups, is_newton(a)) || changed;
      worst = border.worst;
      store_border(a, border, c, space);
    }
    moved(a, run) = changed;
    if (!agree(a, pass.before, worst) && bad == kNone) bad = solved_before(pass.sweep, i);
    worst_of_all = larger(worst_of_all, worst);
  }
  for (int64_t c = 0; is_newton(a) && c < groups; ++c) {
    Border border;
    load_border(a, space, c, &border);
    border.worst = worst_of_all;
    worst_of_all = border.worst_of_own();
  }
  if (is_newton(a) && !agree(a, pass.before, worst_of_all)) bad = 0;
  a.verdicts[2 * b] = double(worst_of_all);
  a.verdicts[2 * b + 1] = double(bad);
}

// Every run has to rerun.
static void move_all(const Args& a, int64_t runs) {
  for (int64_t run = 0; run < runs; ++run) moved(a, run) = 1;
}

// Runs all segments and compares them at their borders; false if there was no memory. `solved`: how
// many segments of every sequence are within tolerance. `change`: the largest of the scan before, and
// then of the one after.
static bool sweep_once(const Args& a, const Sweep& sweep, double* change, int64_t* solved) {
  const Pass pass = {a, Cut::into_segments(a), sweep, *change};
  double worst = 0;
  if (in_parallel(pass, sweep_tile, Tile::number(pass), Walk::space(pass.cut))) return false;
  if (in_parallel(pass, scan_sequence, a.batch, {scan_space(a)})) return false;
  *solved = sweep.write ? segments_of(a) : 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    const double bad = a.verdicts[2 * b + 1];
    if (a.verdicts[2 * b] > worst) worst = a.verdicts[2 * b];
    if (bad < double(*solved)) *solved = int64_t(bad);
  }
  a.status->sweeps += 1, a.status->mismatch = worst, *change = kept_change(sweep, worst);
  return true;
}

// Guesses all initial states; false if there was no memory. `left`: the share of a wrong one that is
// left in them.
static bool guess(const Args& a, int64_t runs, double* left) {
  Pass pass = {a, Cut::into_segments(a)};
  pass.cut.stretch = Stretch::kWarmUpBefore;
  if (in_parallel(pass, guess_tile, Tile::number(pass), Walk::space(pass.cut))) return false;
  *left = largest_product(a, runs * Lanes::kProducts);
  return true;
}

// Sweeps until neighbours agree; false if there was no memory. `solved`: as for a sweep, or for
// Newton's iteration all segments.
static bool solve_segments(const Args& a, int64_t* solved) {
  number_runs(a);
  const int64_t segments = segments_of(a), runs = Cut::into_segments(a).first_run(a, a.batch);
  double left = 0, change = kNoScan;
  if (!guess(a, runs, &left)) return false;
  a.status->sweeps = 0, *solved = 0;
  for (int64_t number = 0; *solved < segments; ++number) {
    const Sweep sweep = sweep_after(a, left, number);
    if (!sweep.runs) break;
    if (sweep.all) move_all(a, runs);
    if (!sweep_once(a, sweep, &change, solved)) return false;
  }
  a.status->converged = *solved == segments;
  if (is_newton(a)) *solved = segments;
  return true;
}

static int run_forward(const Args& a) {
  for (int i = 0; i < Lanes::kOutputTensors; ++i) ask_for_large_pages(a, a.y[i]);
  int64_t solved = 0;
  *a.status = {1, 0, 1, kNoStep, double(a.solver), double(a.segment)};  // of one pass over time
  if (!kOnePass && a.segment < a.steps) {
    if (!solve_segments(a, &solved)) return 1;
    if (solved * a.segment < a.steps)
      a.status->converged = 1, a.status->sequential_from = double(solved * a.segment);
  }
  const Pass rest = {a, Cut::in_one(a, solved * a.segment)};
  if (in_parallel(rest, forward_tile, Tile::number(rest), Walk::space(rest.cut))) return 1;
  for (int i = 0; i < Lanes::kOutputTensors; ++i) clear_tails(a, a.y[i]);
  for (int i = 0; i < Lanes::kStateTensors; ++i) clear_tails(a, a.z[i]);
  return 0;
}

}  // namespace rnncc
