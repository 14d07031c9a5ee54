// Forward.
#pragma once

#include "rnncc/cuda/segments.h"

namespace rnncc {

// Runs from known initial states, without M: a sweep, or one pass over time from where the
// segments end.
RNNCC_FN void forward(const Args& a) {
  const bool last = kOnePass || a.stage == Stage::kRest;
  const Sweep now = last || whole(a) ? Sweep{} : sweep_of(a, a.round);
  Walk<false> walk;
  Run r;
  if (last) {
    const int64_t solved = whole(a) ? 0 : solved_segments(a);
    report(a, solved);
    r = Run::rest(a, solved * a.segment);
    if (!__any_sync(0xffffffffu, r.active)) return;
    const int64_t first = first_run(a, r.sequence), runs = first_run(a, r.sequence + 1) - first;
    const int64_t before = solved < runs ? solved : runs;
    if (before > 0 && steps_of(a, r.sequence) > 0)
      load_run(a, r, first + before - 1, Cell::kStates, a.ends, walk.h);
    else load_states(a, r, a.h0, walk.h);
  } else {
    if (!now.runs || now.carry) return;
    r = Run::segment(a, Stretch::kSegment);
    if (!takes_part(is_due(a, r, now), r)) return;
    load_run(a, r, r.index, Cell::kStates, a.begins, walk.h);
  }
  walk.run(a, r, last ? a.whole_columns : a.columns, true);
  if (last) {
    store_states(a, r, walk.h, a.h_last);
    clear_outputs(a, r);
  } else {
    store_run(a, r, Cell::kStates, walk.h, a.ends);
    store_run(a, r, Cell::kStates, walk.peak, a.peaks);
  }
}

// The step Jacobians: [steps, batch, groups, kStates, kStates].
RNNCC_FN void jacobians(const Args& a) {
  constexpr int entries = Cell::kStates * Cell::kStates;
  const Run r = Run::rest(a, 0);
  real p[Cell::kParams + 1], h[Cell::kStates];
  real J[entries] = {};  // those that are zero by structure are never written
  real next[Cell::kStates], y[Cell::kOutputs], k[Cell::kStored + 1], x[Cell::kInputs + 1];
  load_params(a, r, p);
  load_states(a, r, a.h0, h);
  for (int step = 0; step < r.count; ++step) {
    read_inputs(a, r, step, x);
    Lane::step<false, true>(x, p, h, next, y, k);
    Lane::jacobian(x, p, h, k, J);
    real* const to =
        a.jacobians + ((int64_t(step) * a.batch + r.sequence) * a.groups + r.group) * entries;
#pragma unroll(kOnePass ? 1 : entries)
    for (int e = 0; e < entries; ++e)
      if (r.active) to[e] = J[e];
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = next[s];
  }
}

}  // namespace rnncc
