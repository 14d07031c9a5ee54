// Segments.
//
// Time is cut into segments that run side by side, each from a guess of its initial state; Newton's
// iteration on the initial states brings the guesses into agreement (multiple shooting: Bellen and
// Zennaro 1989; with segments of one step: DEER, arXiv:2309.12252, and ParaRNN, arXiv:2510.21450).
// A sweep runs every segment and carries along the product M of the step Jacobians; the scan after
// it changes each initial state to
//     s[i] = e[i-1] + M[i-1] (new s[i-1] - old s[i-1]),   e[i-1] the end of the segment before.
// After n sweeps the first n segments are exact for any guess; one pass over time solves the
// segments that the sweeps leave.
#pragma once

#include "rnncc/cuda/control.h"
#include "rnncc/cuda/queue.h"
#include "rnncc/cuda/walk.h"

namespace rnncc {

RNNCC_FN double left_of_guess(const Args& a) { return size_of(note_of(a, 0)); }

RNNCC_FN Sweep sweep_of(const Args& a, int64_t number) {
  if (number && note_of(a, number)->bad == kNone) return {};
  return sweep_after(a, left_of_guess(a), number);
}

// The largest change of the scan before a sweep.
RNNCC_FN double change_before(const Args& a, int64_t number) {
  if (number == 0) return kNoScan;
  return kept_change(sweep_of(a, number - 1), size_of(note_of(a, number)));
}

RNNCC_FN const Note* last_note(const Args& a) {
  return note_of(a, most_sweeps(a, left_of_guess(a)));
}

// How many segments of every sequence are solved, at least.
RNNCC_FN int64_t solved_segments(const Args& a) {
  const int64_t segments = segments_of(a), bad = last_note(a)->bad;
  if (is_newton(a)) return segments;
  return gives_up(a, left_of_guess(a)) ? 0 : bad < segments ? bad : segments;
}

// Fills `status`.
RNNCC_FN void report(const Args& a, int64_t solved) {
  if (blockIdx.x || threadIdx.x || threadIdx.y) return;
  const bool one_pass = whole(a);
  int64_t sweeps = one_pass;
  while (!one_pass && sweep_of(a, sweeps).runs) ++sweeps;
  Status& status = *a.status;
  status.sweeps = double(sweeps);
  status.mismatch = one_pass || !sweeps ? 0.0 : size_of(note_of(a, sweeps));
  status.converged = one_pass || !is_newton(a) || last_note(a)->bad == kNone;
  status.sequential_from =
      !one_pass && solved * a.segment < a.steps ? double(solved * a.segment) : kNoStep;
  status.solver = double(a.solver), status.segment = double(a.segment);
}

// Whether a run takes part in a sweep; clears its flag for the next one.
RNNCC_FN bool is_due(const Args& a, const Run& r, const Sweep& now) {
  if (r.active) *moved(a, r.index, a.round + 1) = 0;
  return r.active && (now.all || *moved(a, r.index, a.round));
}

// Whether this warp has work. In one that has, a run that is not due has no steps.
RNNCC_FN bool takes_part(bool due, Run& r) {
  if (!due) r.count = 0, r.active = false;
  return __any_sync(0xffffffffu, due);
}

// Runs that carry M along: a sweep or, before it, the first guess: the cell's init, run through the
// warm-up, the steps before the segment. The product of the Jacobians over these steps is the share
// of a wrong initial state that is left.
RNNCC_FN void sweep(const Args& a) {
  const bool guess = a.stage == Stage::kWarmUp;
  const Sweep now = guess ? Sweep{} : sweep_of(a, a.round);
  if (!guess && !(now.runs && now.carry)) return;
  Run r = Run::segment(a, guess ? Stretch::kWarmUpBefore : Stretch::kSegment);
  if (!takes_part(guess ? r.active : is_due(a, r, now), r)) return;
  Walk<true> walk;
  if (guess) load_states(a, r, a.h0, walk.h);
  else load_run(a, r, r.index, Cell::kStates, a.begins, walk.h);
#pragma unroll
  for (int s = 0; guess && is_newton(a) && s < Cell::kStates; ++s)
    walk.h[s] = r.index > first_run(a, r.sequence) ? real(0) : walk.h[s];
  walk.run(a, r, a.columns, now.write);
  store_run(a, r, Cell::kStates, walk.h, guess ? a.begins : a.ends);
  if (!guess) {
    store_run(a, r, Cell::kProducts, walk.M, a.products);
    store_run(a, r, Cell::kStates, walk.peak, a.peaks);
    return;
  }
  real largest = 0;
#pragma unroll
  for (int k = 0; k < Cell::kProducts; ++k)
    largest = larger(largest, r.count ? walk.M[k] : real(0));
  note_size(note_of(a, 0), largest);
}

// All borders of one sequence and group, in order of time.
RNNCC_FN void scan(const Args& a) {
  const Sweep now = sweep_of(a, a.round);
  if (!now.runs) return;
  Run r;
  r.place(a, a.batch, a.columns);
  r.sequence = r.index;
  const int64_t first = first_run(a, r.sequence);
  const int64_t end = r.active ? first_run(a, r.sequence + 1) : first;
  Border border = {};
  int64_t bad = now.write || end == first ? kNone : 0;
  const double before = change_before(a, a.round);
  constexpr int kStates = Cell::kStates, kProducts = Cell::kProducts;
  real s_before[kStates];
  load_run(a, r, first, kStates, a.begins, s_before);
  Queue<3 * kStates + kProducts> queue;
  queue.open();
  const auto fetch = [&](int64_t run) {
    const int64_t apart = a.groups;
    if (run < end) {
      queue.template copy<kStates>(0, run_at(a, r, run - 1, kStates, a.ends), apart);
      queue.template copy<kStates>(kStates, run_at(a, r, run, kStates, a.begins), apart);
      queue.template copy<kStates>(2 * kStates, run_at(a, r, run - 1, kStates, a.peaks), apart);
      if (!now.picard)
        queue.template copy<kProducts>(3 * kStates, run_at(a, r, run - 1, kProducts, a.products),
                                       apart);
    }
    queue.turn();
  };
#pragma unroll 1
  for (int n = 1; n <= queue.kFilled; ++n) fetch(first + n);
#pragma unroll 1
  for (r.index = first + 1; r.index < end; ++r.index) {
    real e_now[kStates], M_now[kProducts + 1], s_now[kStates], peak[kStates];
    queue.wait();
    fetch(r.index + queue.kFilled);
    queue.template read<kStates>(0, e_now);
    queue.template read<kStates>(kStates, s_now);
    queue.template read<kStates>(2 * kStates, peak);
    queue.template read<kProducts>(3 * kStates, M_now);
    const Side side = {e_now, peak, now.picard ? nullptr : M_now, s_before};
    const bool changed = border.cross(side, s_now, 1, is_newton(a));
#pragma unroll
    for (int s = 0; s < kStates; ++s) s_before[s] = s_now[s];
    if (!agree(a, before, border.worst) && bad == kNone) bad = solved_before(now, r.index - first);
    if (!changed) continue;
    store_run(a, r, Cell::kStates, s_now, a.begins);
    if (r.active) *moved(a, r.index, a.round + 1) = 1;
  }
  if (is_newton(a)) border.worst = border.worst_of_own();
  if (is_newton(a) && !agree(a, before, border.worst)) bad = 0;
  note_size(note_of(a, 1 + a.round), border.worst);
  note_bad(note_of(a, 1 + a.round), bad);
}

}  // namespace rnncc
