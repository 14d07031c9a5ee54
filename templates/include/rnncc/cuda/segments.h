// Segments.
//
// Time is cut into segments that run side by side, each from a guess of its start; Newton's iteration
// on the starts brings the guesses into agreement (multiple shooting: Bellen and Zennaro 1989; with
// segments of one step: DEER, arXiv:2309.12252, and ParaRNN, arXiv:2510.21450). A sweep runs every
// segment and carries along the product M of the step Jacobians; the scan after it moves each start to
//     s[i] = e[i-1] + M[i-1] (new s[i-1] - old s[i-1]),   e[i-1] the end of the segment before.
// After n sweeps the first n segments are exact whatever the guess was; what the sweeps leave is for
// one pass over time.
#pragma once

#include "rnncc/common/border.h"
#include "rnncc/cuda/control.h"
#include "rnncc/cuda/walk.h"

namespace rnncc {

// What a sweep does: `write` its outputs, `carry` M along; with `picard` the scan uses no M. Unless
// `all`, segments whose start has not moved since they last ran need not run again.
struct Sweep { bool runs, write, carry, picard, all; };

// The guess is as good as exact.
RNNCC_FN bool guessed_well(const Args& a) {
  return !is_newton(a) && 4 * size_of(note_of(a, 0)) <= a.guess_tolerance;
}

// What a nonlinear cell forgets slowly is left to one pass.
RNNCC_FN bool gave_up(const Args& a) {
  constexpr double steady = 0.9;
  if (guessed_well(a) || Cell::kAffine || a.patient) return false;
  return !(size_of(note_of(a, 0)) <= steady) || a.sweeps < 2;
}

// How many sweeps there may be: for an affine cell as many as its one scan takes, whatever the limit.
RNNCC_FN int64_t most_sweeps(const Args& a) {
  const int64_t least = Cell::kAffine ? 2 + guessed_well(a) : 0;
  return a.sweeps < least ? least : a.sweeps;
}

RNNCC_FN Sweep sweep_of(const Args& a, int64_t number) {
  const bool well = guessed_well(a);
  if (gave_up(a) || number >= most_sweeps(a)) return {};
  if (number && note_of(a, number)->bad == kNone) return {};
  if (well && number == 0) return {true, true, false, true, true};
  // M of an affine cell is the same from any start: one scan is exact
  const int64_t with_M = number - well;
  if (Cell::kAffine && with_M == 0) return {true, false, true, false, true};
  if (Cell::kAffine) return {true, true, false, false, with_M == 1};
  return {true, true, true, false, with_M == 0};
}

// How many segments of every sequence are solved, at least.
RNNCC_FN int64_t solved_segments(const Args& a) {
  const int64_t segments = (a.steps + a.segment - 1) / a.segment;
  const int64_t bad = note_of(a, most_sweeps(a))->bad;
  if (is_newton(a)) return segments;
  return gave_up(a) ? 0 : bad < segments ? bad : segments;
}

// What `status` says.
RNNCC_FN void report(const Args& a, int64_t solved) {
  if (blockIdx.x || threadIdx.x || threadIdx.y) return;
  const bool one_pass = whole(a);
  int64_t sweeps = one_pass;
  while (!one_pass && sweep_of(a, sweeps).runs) ++sweeps;
  Status& status = *a.status;
  status.sweeps = double(sweeps);
  status.mismatch = one_pass || !sweeps ? 0.0 : size_of(note_of(a, sweeps));
  status.converged = one_pass || !is_newton(a) || note_of(a, most_sweeps(a))->bad == kNone;
  status.sequential_from =
      !one_pass && solved * a.segment < a.steps ? double(solved * a.segment) : kNoStep;
  status.solver = double(a.solver), status.segment = double(a.segment);
}

// Whether a run takes part in a sweep; clears its flag for the next one.
RNNCC_FN bool is_due(const Args& a, const Run& r, const Sweep& now) {
  if (r.active) *moved(a, r.index, a.round + 1) = 0;
  return now.all || *moved(a, r.index, a.round);
}

// Runs that carry M along: a sweep or, before it, the first guess: the cell's start, run through the
// steps before the segment. The product of the Jacobians over these steps says how much of a
// wrong start is left.
RNNCC_FN void sweep(const Args& a) {
  const bool guess = a.stage == Stage::kWarmUp;
  const Sweep now = guess ? Sweep{} : sweep_of(a, a.round);
  if (!guess && !(now.runs && now.carry)) return;
  const Run r = Run::segment(a, guess ? a.warm_up : 0);
  if (!guess && !is_due(a, r, now)) return;
  Walk<true> walk;
  if (guess) load_states(a, r, a.h0, walk.h);
  else load_run(a, r, r.index, Cell::kStates, a.begins, walk.h);
#pragma unroll
  for (int s = 0; guess && is_newton(a) && s < Cell::kStates; ++s)
    walk.h[s] = r.index > first_run(a, r.sequence) ? real(0) : walk.h[s];
  walk.run(a, r, now.write);
  store_run(a, r, Cell::kStates, walk.h, guess ? a.begins : a.ends);
  if (!guess) {
    store_run(a, r, Cell::kProducts, walk.M, a.products);
    return;
  }
  real largest = 0;
#pragma unroll
  for (int k = 0; k < Cell::kProducts; ++k) largest = larger(largest, r.count ? walk.M[k] : real(0));
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
  const double tolerance = now.picard ? a.guess_tolerance : a.tolerance;
  Border border = {};
  real e[Cell::kStates], M[Cell::kProducts + 1], s[Cell::kStates];
  int64_t bad = now.write || end == first ? kNone : 0;
  const auto fetch = [&](int64_t run) {
    if (run >= end) return;
    load_run(a, r, run - 1, Cell::kStates, a.ends, e);
    if (!now.picard) load_run(a, r, run - 1, Cell::kProducts, a.products, M);
    load_run(a, r, run, Cell::kStates, a.begins, s);
  };
  fetch(first + 1);
  for (r.index = first + 1; r.index < end; ++r.index) {
    real e_now[Cell::kStates], M_now[Cell::kProducts + 1], s_now[Cell::kStates];
#pragma unroll
    for (int k = 0; k < Cell::kStates; ++k) e_now[k] = e[k], s_now[k] = s[k];
#pragma unroll
    for (int k = 0; k < Cell::kProducts; ++k) M_now[k] = M[k];
    fetch(r.index + 1);
    const bool changed = border.cross(e_now, M_now, s_now, 1, now.picard, is_newton(a));
    if (!(border.worst <= tolerance) && bad == kNone)
      bad = Cell::kAffine && now.picard ? 0 : r.index - first;
    if (!changed) continue;
    store_run(a, r, Cell::kStates, s_now, a.begins);
    if (r.active) *moved(a, r.index, a.round + 1) = 1;
  }
  note_size(note_of(a, 1 + a.round), border.worst);
  note_bad(note_of(a, 1 + a.round), bad);
}

}  // namespace rnncc
