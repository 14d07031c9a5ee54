// Policy: what every target decides alike. Which sweeps there are, how well neighbouring segments
// must agree, when segments are given up for one pass over time, and what counts as forgotten.
#pragma once

#include "rnncc/common/border.h"

namespace rnncc {

// What a nonlinear cell forgets no faster than this, over the warm-up, is left to one pass.
constexpr double kSteady = 0.9;

// This part of a gradient may be missing.
constexpr real kForgotten = sizeof(real) == 4 ? real(1e-7) : real(1e-16);

RNNCC_FN bool is_newton(const Args& a) { return a.solver == Solver::kNewton; }

RNNCC_FN int64_t segments_of(const Args& a) { return (a.steps + a.segment - 1) / a.segment; }

// --- forward
// `left` is the largest entry of all products of Jacobians over the warm-ups: how much of a wrong
// start is left in the guesses.

// What a sweep does: `write` its outputs, `carry` M along; with `picard` the scan uses no M. Unless
// `all`, segments whose start has not moved since they last ran need not run again.
struct Sweep {
  bool runs, write, carry, picard, all;
};

// The guess is as good as exact.
RNNCC_FN bool guessed_well(const Args& a, double left) {
  return !is_newton(a) && 4 * left <= a.guess_tolerance;
}

// What a nonlinear cell forgets slowly is left to one pass.
RNNCC_FN bool gives_up(const Args& a, double left) {
  if (guessed_well(a, left) || Cell::kAffine || a.patient) return false;
  return !(left <= kSteady) || a.sweeps < 2;
}

// How many sweeps there may be: for an affine cell as many as its one scan takes, whatever the
// limit.
RNNCC_FN int64_t most_sweeps(const Args& a, double left) {
  const int64_t least = Cell::kAffine ? 2 + guessed_well(a, left) : 0;
  return a.sweeps < least ? least : a.sweeps;
}

// The sweep after so many others whose segments did not agree; it does not run if there is none.
RNNCC_FN Sweep sweep_after(const Args& a, double left, int64_t others) {
  const bool well = guessed_well(a, left);
  if (gives_up(a, left) || others >= most_sweeps(a, left)) return {};
  if (well && others == 0) return {true, true, false, true, true};
  // M of an affine cell is the same from any start: one scan is exact
  const int64_t with_M = others - well;
  if (Cell::kAffine && with_M == 0) return {true, false, true, false, true};
  if (Cell::kAffine) return {true, true, false, false, with_M == 1};
  return {true, true, true, false, with_M == 0};
}

// How many segments of a sequence are solved by a sweep after which neighbours disagree first at
// the start of this one.
RNNCC_FN int64_t solved_before(const Sweep& sweep, int64_t segment) {
  return Cell::kAffine && sweep.picard ? 0 : segment;
}

// Whether neighbours agree after a sweep. Without M no scan has rounded anything yet.
RNNCC_FN bool agree(const Args& a, const Sweep& sweep, real mismatch) {
  return mismatch <= (sweep.picard ? a.guess_tolerance : a.tolerance);
}

// --- backward

// Whether a gradient that reached the end of a warm-up lacks next to nothing of what comes from
// further on: the warm-up lets through so much of it, and it is nowhere larger than `most`.
RNNCC_FN bool forgotten(real through, real most, real there) {
  // no gradient there at all says nothing of one further on
  const bool little = there > 0 && through * most <= kForgotten * there;
  return through == 0 || little;
}

// Whether each segment may be walked twice: alone, and then from the gradient at its end.
RNNCC_FN bool walks_twice(const Args& a) { return a.sweeps >= 2; }

}  // namespace rnncc
