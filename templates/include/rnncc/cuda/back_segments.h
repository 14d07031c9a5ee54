// Segments of the backward.
//
// Several segments need the gradient at their ends first. A walk over a stretch of steps alone,
// from a gradient of 0, gives the one before its first step, and for each state that a step reads
// how a gradient passes through the stretch (Q, by the adjoint itself, so that a surrogate's
// derivative holds here too). Where the first few steps after a segment let next to nothing of a
// later gradient through, their own is the gradient at its end; otherwise a walk over all segments
// and a scan give it.
#pragma once

#include "rnncc/cuda/backward.h"
#include "rnncc/cuda/segments.h"

namespace rnncc {

// Note 0 says whether gradients at the ends of segments are missing yet, note 1 how large Q is.
RNNCC_FN bool missing(const Args& a) { return note_of(a, 0)->bad != kNone; }

// One pass over time is left.
RNNCC_FN bool not_by_segments(const Args& a) {
  return whole(a) || (missing(a) && !scans_back(a, size_of(note_of(a, 1))));
}

// Each stretch alone: the steps after each segment (warm-up), or the segments themselves (sweep).
RNNCC_FN void alone(const Args& a) {
  const bool warm_up = a.stage == Stage::kWarmUp;
  if (!warm_up && !missing(a)) return;
  const Run r = Run::segment(a, warm_up ? Stretch::kWarmUpAfter : Stretch::kSegment);
  if (!__any_sync(0xffffffffu, r.active)) return;
  WalkBack walk;
  walk.open(a, r, a.columns);
  if (warm_up && r.first + r.count >= steps_of(a, r.sequence)) {
    if (a.dh_last) load_states(a, r, a.dh_last, walk.g);
#pragma unroll
    for (int q = 0; q < WalkBack::kQ; ++q) walk.Q[q] = 0;
  }
  walk.run<true>(a, r);
  store_run(a, r, Cell::kStates, walk.g, warm_up ? a.begins : a.ends);
  store_run(a, r, WalkBack::kQ, walk.Q, a.products);
  real largest = 0;
#pragma unroll
  for (int q = 0; r.active && q < WalkBack::kQ; ++q) largest = larger(largest, walk.Q[q]);
  if (!warm_up) note_size(note_of(a, 1), largest);
}

// Whether the gradients in `begins` of a sequence lack next to nothing: the part of the largest
// gradient that the steps after a segment would let through is small beside their own.
RNNCC_FN void judge(const Args& a) {
  constexpr int kQ = WalkBack::kQ;
  Run r;
  r.place(a, a.batch, a.columns);
  r.sequence = r.index;
  const int64_t first = first_run(a, r.sequence), end = first_run(a, r.sequence + 1);
  real most = 0, g[Cell::kStates], Q[kQ + 1];
  bool all_there = true;
  for (int64_t run = first; run < end; ++run) {
    load_run(a, r, run, Cell::kStates, a.begins, g);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) most = larger(most, g[s]);
  }
  for (int64_t run = first; run < end; ++run) {
    real through = 0, there = 0;
    load_run(a, r, run, Cell::kStates, a.begins, g);
    load_run(a, r, run, kQ, a.products, Q);
#pragma unroll
    for (int q = 0; q < kQ; ++q) through = larger(through, Q[q]);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) there = larger(there, g[s]);
    if (!forgotten(through, most, there)) all_there = false;
  }
  note_bad(note_of(a, 0), all_there ? kNone : 0);
}

// g before the first step of a stretch, from g at its end.
RNNCC_FN void pass_through(const real* e, const real* Q, real* g) {
  real through[Cell::kStates];
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) through[s] = e[s];
#pragma unroll
  for (int q = 0; q < Cell::kFed; ++q)
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) {
      const real m = Q[q * Cell::kStates + s], up = g[Cell::fed[q]];
      through[s] += m == 0 || up == 0 ? 0 : m * up;
    }
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) g[s] = through[s];
}

// The gradient at the end of each segment of a sequence, last first.
RNNCC_FN void scan_back(const Args& a) {
  constexpr int kQ = WalkBack::kQ;
  if (!missing(a) || not_by_segments(a)) return;
  Run r;
  r.place(a, a.batch, a.columns);
  r.sequence = r.index;
  const int64_t first = first_run(a, r.sequence), end = first_run(a, r.sequence + 1);
  real g[Cell::kStates] = {};
  if (a.dh_last) load_states(a, r, a.dh_last, g);
  Queue<Cell::kStates + kQ> queue;
  queue.open();
  const auto fetch = [&](int64_t run) {
    if (run >= first) {
      queue.template copy<Cell::kStates>(0, run_at(a, r, run, Cell::kStates, a.ends), a.groups);
      queue.template copy<kQ>(Cell::kStates, run_at(a, r, run, kQ, a.products), a.groups);
    }
    queue.turn();
  };
#pragma unroll 1
  for (int n = 1; n <= queue.kFilled; ++n) fetch(end - n);
#pragma unroll 1
  for (r.index = end - 1; r.index >= first; --r.index) {
    real e[Cell::kStates], Q[kQ + 1];
    queue.wait();
    fetch(r.index - queue.kFilled);
    store_run(a, r, Cell::kStates, g, a.begins);
    queue.template read<Cell::kStates>(0, e);
    queue.template read<kQ>(Cell::kStates, Q);
    pass_through(e, Q, g);
  }
}

// The walk that writes gradients: over whole sequences, or over segments whose ends are known.
RNNCC_FN void backward(const Args& a) {
  const bool sequences = a.stage == Stage::kRest;
  if (sequences != not_by_segments(a)) return;
  const Run r = sequences ? Run::rest(a, 0) : Run::segment(a, Stretch::kSegment);
  if (!__any_sync(0xffffffffu, r.active)) return;
  WalkBack walk;
  walk.open(a, r, sequences ? a.whole_columns : a.columns);
  walk.open_sums(a, r, blockDim.y * WalkBack::Feed::Blocks::kBytes);
  if (!sequences) load_run(a, r, r.index, Cell::kStates, a.begins, walk.g);
  else if (a.dh_last) load_states(a, r, a.dh_last, walk.g);
  walk.run<false>(a, r);
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s)
    if (r.first == 0) walk.g_initial[s] += walk.g[s];
  if (sequences) store_states(a, r, walk.g_initial, a.dh0);
  else store_run(a, r, Cell::kStates, walk.g_initial, a.ends);
#pragma unroll
  for (int k = 0; k < Cell::kParams; ++k)
    if (r.active) a.param_sums[(r.index * Cell::kParams + k) * a.groups + r.group] = walk.sums[k];
  if (r.first == 0) clear_inputs(a, r);
}

}  // namespace rnncc
