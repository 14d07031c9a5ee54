// The border between two segments.
#pragma once

#include "rnncc/common/args.h"

namespace rnncc {

// A group of channels of more values has no products of Jacobians, and is never cut into segments: as
// LARGEST_PRODUCT of rnncc/ir/program.py.
constexpr int kLargestProduct = 8;
constexpr bool kOnePass = Cell::kStates > kLargestProduct;

// The last steps of a run before a border; over them a state or gradient shows its size.
constexpr int kTail = 4;

// Sizes below it have lost digits.
constexpr real kSmallest = sizeof(real) == 4 ? real(1.1754944e-38) : real(2.2250738585072014e-308);

RNNCC_FN bool same(real x, real y) { return x == y || (x != x && y != y); }
RNNCC_FN bool finite(real x) { return x - x == 0; }

// The larger of two sizes; NaN counts as infinite.
RNNCC_FN real larger(real so_far, real x) {
  const real size = x < 0 ? -x : x;
  return size <= so_far ? so_far : size == size ? size : Real<real>::infinity;
}

// The same of what has digits to round: NaN and infinity don't count.
RNNCC_FN real larger_finite(real so_far, real x) {
  const real size = x < 0 ? -x : x;
  return size > so_far && finite(size) ? size : so_far;
}

// A product of which one factor may be infinite.
RNNCC_FN real product(real m, real d) { return m == 0 || d == 0 ? 0 : m * d; }

// What a run leaves at a border, or finds there; its scalars lie `stride` apart.
struct Side {
  const real* end;    // what it comes to there
  const real* peak;   // its sizes over the last steps before; null: not known
  const real* M;      // how what it began with reaches its end; null: not known
  const real* begin;  // what it began with
};

// One lane at a border, forward. A correction may grow over a segment only while it is at most
// max(1, |state|): far from the solution M says little about an expanding cell.
struct Border {
  real delta[Cell::kStates];  // change of the initial state of the segment before
  real worst;                 // of all borders so far, beside the size of the state
  real off[Cell::kStates];    // with `plain`, of each state: the most that didn't agree,
  real most[Cell::kStates];   // and its own size, the largest so far

  // From the segment before to a new initial state s; true if it changed. With `plain` there is no
  // guard, and only what doesn't agree counts, beside max(1, |state|), and then beside the state's
  // own size over the sequence (`worst_of_own`). Else all of the change does:
  // what doesn't agree here, and what comes here from the borders before.
  RNNCC_MEMBER bool cross(const Side& before, real* s, int64_t stride, bool plain) {
    real correction[Cell::kStates] = {}, through[Cell::kStates] = {};
    real incoming = 0, largest = 0, scale = 1;
    bool usable = true, changed = false;
    for (int k = 0; k < Cell::kStates; ++k) {
      usable = usable && finite(before.end[k * stride]);
      scale = larger(scale, before.end[k * stride]);
      incoming = larger(incoming, delta[k]);
    }
    for (int k = 0; k < Cell::kProducts && before.M; ++k) {
      const int row = Cell::product_row[k], column = Cell::product_column[k];
      const real m = before.M[k * stride];
      correction[row] += product(m, delta[column]);
      // only where M is the same from any state does it say how large the terms of the end are
      if (Cell::kAffine && before.begin)
        through[row] = larger_finite(through[row], m * before.begin[column * stride]);
    }
    for (int k = 0; k < Cell::kStates; ++k) largest = larger(largest, correction[k]);
    const bool take =
        plain || (Cell::kAffine ? finite(largest) : largest <= incoming || largest <= scale);
    for (int k = 0; k < Cell::kStates; ++k) {
      const real end = before.end[k * stride], old = s[k * stride];
      real now = take ? end + correction[k] : end;
      if (!usable && incoming != 0 && !plain) now = old;  // a wild guess is not passed on
      delta[k] = same(now, old) ? 0 : now - old;
      changed = changed || delta[k] != 0;
      s[k * stride] = now;
      if (!Cell::checked[k]) continue;
      if (plain) {
        most[k] = larger_finite(most[k], end);
        if (same(end, old)) continue;
        worst = larger(worst, (end - old) / larger(1, end));
        off[k] = larger(off[k], end - old);
        continue;
      }
      real own = larger_finite(larger_finite(larger(kSmallest, through[k]), end), old);
      if (before.peak) own = larger_finite(own, before.peak[k * stride]);
      if (!same(end, old)) worst = larger(worst, (end - old) / own);
      if (delta[k] != 0) worst = larger(worst, delta[k] / own);
    }
    return changed;
  }

  // After all borders with `plain`: the most that didn't agree, in the state's own units too.
  RNNCC_MEMBER real worst_of_own() const {
    real all = worst;
    for (int k = 0; k < Cell::kStates; ++k)
      if (off[k] != 0) all = larger(all, off[k] / larger(kSmallest, most[k]));
    return all;
  }
};

// The same of gradients, last border first: `after` is the segment after the border, whose first
// step is its end, and g the gradient at the end of the one before.
struct BackBorder {
  real delta[Cell::kStates];
  real worst;

  RNNCC_MEMBER bool cross(const Side& after, real* g, int64_t stride) {
    real correction[Cell::kStates] = {}, own[Cell::kStates];
    bool changed = false;
    for (int s = 0; s < Cell::kStates; ++s)
      own[s] = larger_finite(kSmallest, after.peak[s * stride]);
    for (int q = 0; q < Cell::kFed && after.M; ++q)
      for (int s = 0; s < Cell::kStates; ++s) {
        const real m = after.M[(q * Cell::kStates + s) * stride];
        correction[s] += product(m, delta[Cell::fed[q]]);
        own[s] = larger_finite(own[s], m * after.begin[Cell::fed[q] * stride]);
      }
    for (int s = 0; s < Cell::kStates; ++s) {
      const real end = after.end[s * stride], old = g[s * stride];
      const bool take = finite(correction[s]);
      const real now = take ? end + correction[s] : end;
      own[s] = larger_finite(larger_finite(own[s], end), old);
      delta[s] = same(now, old) ? 0 : now - old;
      if (delta[s] != 0) worst = larger(worst, delta[s] / own[s]);
      if (!take) worst = Real<real>::infinity;
      changed = changed || delta[s] != 0;
      g[s * stride] = now;
    }
    return changed;
  }
};

}  // namespace rnncc
