// Policy: the decisions that all targets share. Which sweeps run, how well neighbouring segments
// must agree, when one pass over time replaces segments, and which gradients count as forgotten.
#pragma once

#include "rnncc/common/border.h"

namespace rnncc {

// A nonlinear cell that forgets no faster than this, over the warm-up, is left to one pass.
constexpr double kSteady = 0.9;

// This part of a gradient may be missing.
constexpr real kForgotten = sizeof(real) == 4 ? real(1e-7) : real(1e-16);

// How well gradients must agree at a border, beside their own size, and the largest correction after
// which they do: as of an affine cell in rnncc/planner/plan.py.
constexpr double kAgreed = sizeof(real) == 4 ? 5e-7 : 1e-15;
constexpr double kSettled = sizeof(real) == 4 ? 1e-3 : 1.5e-8;

// In place of the largest correction of the scan before: there was none.
constexpr double kNoScan = 1e300;

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
  return !is_newton(a) && left <= a.tolerance;
}

// A nonlinear cell that forgets slowly is left to one pass, and any for which sweeps take longer.
RNNCC_FN bool gives_up(const Args& a, double left) {
  if (guessed_well(a, left) || a.patient) return false;
  return a.sweeps < 2 || (!Cell::kAffine && !(left <= kSteady));
}

// How many sweeps there may be: for an affine cell as many as its first scan takes, for any
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
  // M of an affine cell is the same from any initial state
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

// Whether neighbours agree after a sweep, with `change` the largest of the scan after it, and
// `before` of the scan before it. The error of Newton's iteration is quadratic in the change before,
// and that of rounding M proportional to it: after a small one, what is left is the rounding of the
// steps themselves, which may well add up to more than the tolerance.
RNNCC_FN bool settled(double before, double change, double limit) {
  return before <= limit && change <= limit;
}

RNNCC_FN bool agree(const Args& a, double before, double change) {
  return change <= a.tolerance || settled(before, change, a.settled);
}

// Of a scan, for the one after it. Without M it doesn't see what borders before pass on.
RNNCC_FN double kept_change(const Sweep& sweep, double change) {
  return sweep.picard || !sweep.runs ? kNoScan : change;
}

// --- backward

// Whether a gradient that reached the end of a warm-up lacks next to nothing of the gradient from
// later steps, of which `missing` is the most that may come through the warm-up.
RNNCC_FN bool forgotten(real missing, real there) {
  // no gradient there at all says nothing about one from later steps
  return missing == 0 || (there > 0 && finite(missing) && missing <= kForgotten * there);
}

// The most that comes through Q to state s, of gradients that are at most `most`.
RNNCC_FN real most_through(const real* Q, const real* most, int s, int64_t stride) {
  real through = 0;
  for (int q = 0; q < Cell::kFed; ++q)
    through += product(larger(0, Q[(q * Cell::kStates + s) * stride]), most[Cell::fed[q] * stride]);
  return through;
}

// Whether each segment may be walked twice: alone, and then from the gradient at its end.
RNNCC_FN bool walks_twice(const Args& a) { return a.sweeps >= 2; }

// How many walks from gradients at the ends of segments there may be after a scan.
RNNCC_FN int64_t most_walks(const Args& a) { return a.sweeps - 1; }

// Whether a scan gives the gradients that are missing at the ends of segments, with `largest` the
// largest entry of all Q; otherwise one pass over time does.
RNNCC_FN bool scans_back(const Args& a, double largest) {
  return walks_twice(a) && largest - largest == 0;
}

// As `agree`, of gradients.
RNNCC_FN bool agree_back(double before, double change) {
  return change <= kAgreed || settled(before, change, kSettled);
}

}  // namespace rnncc
