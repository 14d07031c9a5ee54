// Policy: the decisions that all targets share. Which sweeps run, how well neighbouring segments
// must agree, when one pass over time replaces segments, and which gradients count as forgotten.
#pragma once

#include "rnncc/common/border.h"

namespace rnncc {

// A nonlinear cell that forgets no faster than this, over the warm-up, is left to one pass.
constexpr double kSteady = 0.9;

// This part of a gradient may be missing.
constexpr real kForgotten = sizeof(real) == 4 ? real(1e-7) : real(1e-16);

// In place of a segment: there is none.
constexpr int64_t kNone = int64_t(1) << 62;

// Which steps a run takes: those of its segment, or the warm-up beside it.
enum class Stretch { kSegment, kWarmUpBefore, kWarmUpAfter };

RNNCC_FN bool is_newton(const Args& a) { return a.solver == Solver::kNewton; }

RNNCC_FN int64_t segments_of(const Args& a) { return (a.steps + a.segment - 1) / a.segment; }

// --- forward
// `left` is the largest entry of all products of Jacobians over the warm-ups: the share of a wrong
// initial state that is left in the guesses.

// A sweep: `write` its outputs, `carry` M along; with `picard` the scan uses no M. Unless `all`,
// segments whose initial state has not changed since they last ran need not rerun.
struct Sweep {
  bool runs, write, carry, picard, all;
};

// The guess is as good as exact.
RNNCC_FN bool guessed_well(const Args& a, double left) {
  return !is_newton(a) && 4 * left <= a.guess_tolerance;
}

// A nonlinear cell that forgets slowly is left to one pass.
RNNCC_FN bool gives_up(const Args& a, double left) {
  if (guessed_well(a, left) || Cell::kAffine || a.patient) return false;
  return !(left <= kSteady) || a.sweeps < 2;
}

// How many sweeps there may be: for an affine cell as many as its one scan takes, for any
// limit.
RNNCC_FN int64_t most_sweeps(const Args& a, double left) {
  const int64_t least = Cell::kAffine ? 2 + guessed_well(a, left) : 0;
  return a.sweeps < least ? least : a.sweeps;
}

// The sweep after `others` sweeps whose segments did not agree; `runs` is false if there is none.
RNNCC_FN Sweep sweep_after(const Args& a, double left, int64_t others) {
  const bool well = guessed_well(a, left);
  if (gives_up(a, left) || others >= most_sweeps(a, left)) return {};
  if (well && others == 0) return {true, true, false, true, true};
  // M of an affine cell is the same from any initial state: one scan is exact
  const int64_t with_M = others - well;
  if (Cell::kAffine && with_M == 0) return {true, false, true, false, true};
  if (Cell::kAffine) return {true, true, false, false, with_M == 1};
  return {true, true, true, false, with_M == 0};
}

// How many segments of a sequence are solved by a sweep after which neighbours first disagree at
// the border before this one.
RNNCC_FN int64_t solved_before(const Sweep& sweep, int64_t segment) {
  return Cell::kAffine && sweep.picard ? 0 : segment;
}

// Whether neighbours agree after a sweep. Without M no scan has rounded anything yet.
RNNCC_FN bool agree(const Args& a, const Sweep& sweep, real mismatch) {
  return mismatch <= (sweep.picard ? a.guess_tolerance : a.tolerance);
}

// --- backward

// Whether a gradient that reached the end of a warm-up lacks next to nothing of the gradient from
// later steps: the warm-up lets the share `through` of that pass, and it is at most `most`.
RNNCC_FN bool forgotten(real through, real most, real there) {
  // no gradient there at all says nothing about one from later steps
  const bool little = there > 0 && through * most <= kForgotten * there;
  return through == 0 || little;
}

// Whether each segment may be walked twice: alone, and then from the gradient at its end.
RNNCC_FN bool walks_twice(const Args& a) { return a.sweeps >= 2; }

// Whether a scan gives the gradients that are missing at the ends of segments, with `largest` the
// largest entry of all Q; otherwise one pass over time does.
RNNCC_FN bool scans_back(const Args& a, double largest) {
  return walks_twice(a) && largest - largest == 0;
}

}  // namespace rnncc
