// The border between two segments.
#pragma once

#include "rnncc/common/args.h"

namespace rnncc {

RNNCC_FN bool same(real x, real y) { return x == y || (x != x && y != y); }
RNNCC_FN bool finite(real x) { return x - x == 0; }

// The larger of two sizes; NaN counts as infinite.
RNNCC_FN real larger(real so_far, real x) {
  const real size = x < 0 ? -x : x;
  return size <= so_far ? so_far : size == size ? size : Real<real>::infinity;
}

// One lane at a border. A correction may grow over a segment only while it is at most
// max(1, |state|): far from the solution M says little about an expanding cell.
struct Border {
  real delta[Cell::kStates];  // change of the initial state of the segment before
  real worst;                 // mismatch at any border so far

  // From the end e of the segment before and its product M to a new initial state s; true if it
  // changed.
  // With `picard` there is no M, and with `plain` no guard.
  RNNCC_MEMBER bool cross(const real* e, const real* M, real* s, int64_t stride, bool picard,
                          bool plain) {
    real correction[Cell::kStates] = {}, incoming = 0, largest = 0, scale = 1;
    bool usable = true, changed = false;
    for (int k = 0; k < Cell::kStates; ++k) {
      usable = usable && finite(e[k * stride]);
      scale = larger(scale, e[k * stride]);
      incoming = larger(incoming, delta[k]);
    }
    for (int k = 0; k < Cell::kProducts && !picard; ++k) {
      const real d = delta[Cell::product_column[k]], m = M[k * stride];
      correction[Cell::product_row[k]] += d == 0 || m == 0 ? 0 : m * d;
    }
    for (int k = 0; k < Cell::kStates; ++k) largest = larger(largest, correction[k]);
    const bool take =
        plain || (Cell::kAffine ? finite(largest) : largest <= incoming || largest <= scale);
    for (int k = 0; k < Cell::kStates; ++k) {
      const real end = e[k * stride], old = s[k * stride];
      real now = take ? end + correction[k] : end;
      if (!usable && incoming != 0 && !plain) now = old;  // a wild guess is not passed on
      if (Cell::checked[k] && !same(end, old)) worst = larger(worst, (end - old) / larger(1, end));
      delta[k] = same(now, old) ? 0 : now - old;
      changed = changed || delta[k] != 0;
      s[k * stride] = now;
    }
    return changed;
  }
};

}  // namespace rnncc
