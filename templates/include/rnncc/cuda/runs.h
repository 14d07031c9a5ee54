// Runs.
//
// A run is a stretch of steps of one sequence. A thread takes one group of channels of one run;
// `columns` neighbouring lanes of a warp take neighbouring groups, so that their reads of a step
// are side by side, and a warp takes 32 / columns runs.
#pragma once

#include "rnncc/common/policy.h"

namespace rnncc {

constexpr int kWarp = 32;

// The sequences' lengths are not checked before a kernel runs, so they are limited here.
RNNCC_FN int64_t limited(int64_t value, int64_t most) {
  return value < 0 ? 0 : value < most ? value : most;
}

RNNCC_FN int64_t start_of(const Args& a, int64_t sequence) {
  return a.joined ? limited(a.starts[sequence], a.extent) : 0;
}

RNNCC_FN int64_t steps_of(const Args& a, int64_t sequence) {
  if (!a.lengths) return a.steps;
  return limited(a.lengths[sequence], a.joined ? a.extent - start_of(a, sequence) : a.steps);
}

// How each sequence is cut into segments.
RNNCC_FN bool whole(const Args& a) { return kOnePass || a.segment >= a.steps; }

RNNCC_FN int64_t first_run(const Args& a, int64_t sequence) {
  if (whole(a)) return sequence;
  return a.lengths ? a.run_starts[sequence] : sequence * segments_of(a);
}

RNNCC_FN int64_t sequence_of(const Args& a, int64_t run) {
  if (!a.lengths) return run / segments_of(a);
  int64_t low = 0, high = a.batch;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (a.run_starts[middle] <= run) low = middle;
    else high = middle;
  }
  return low;
}

struct Run {
  int64_t index;  // among the runs of all sequences
  int64_t sequence, group;
  int64_t first;  // step
  int count;      // of its steps
  int64_t time;   // where the first step lies in its row of memory
  bool active;    // else it repeats another thread's work and writes nothing
  int lane;       // of the warp, whose work it is

  // The run and the group of this thread, of `runs` runs.
  RNNCC_MEMBER void place(const Args& a, int64_t runs, int64_t columns) {
    const int64_t warp = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const int64_t across = (a.groups + columns - 1) / columns;
    lane = int(threadIdx.x);
    index = warp / across * (kWarp / columns) + lane / columns;
    group = warp % across * columns + lane % columns;
    active = index < runs && group < a.groups;
    const int64_t beyond = index >= runs ? index - (runs - 1) : 0;
    const int64_t beside = group >= a.groups ? group - (a.groups - 1) : 0;
    index -= beyond, group -= beside, lane -= int(beyond * columns + beside);
  }

  RNNCC_MEMBER void take(const Args& a, int64_t from, int64_t steps) {
    const int64_t length = steps_of(a, sequence);
    first = from, count = int(limited(length - from, steps));
    time = start_of(a, sequence) + (a.reverse ? length - 1 - from : from);
  }

  // A whole sequence, from a step on.
  RNNCC_MEMBER static Run rest(const Args& a, int64_t from) {
    Run r;
    r.place(a, a.batch, a.whole_columns);
    r.sequence = r.index;
    r.take(a, from, a.steps);
    return r;
  }

  // A segment, or the warm-up beside it.
  RNNCC_MEMBER static Run segment(const Args& a, Stretch stretch) {
    Run r;
    r.place(a, first_run(a, a.batch), a.columns);
    r.sequence = sequence_of(a, r.index);
    const int64_t begin = (r.index - first_run(a, r.sequence)) * a.segment;
    if (stretch == Stretch::kWarmUpBefore) {
      const bool warms = begin > 0 && begin < steps_of(a, r.sequence);
      r.take(a, warms ? begin - a.warm_up : begin, warms ? a.warm_up : 0);
    } else if (stretch == Stretch::kWarmUpAfter) {
      r.take(a, begin + a.segment, a.warm_up);
    } else {
      r.take(a, begin, a.segment);
    }
    return r;
  }
};

// One scalar of the cell at a step of a run. View::time is the stride from one step to the next, so
// it is negative where sequences are reversed.
RNNCC_FN io* place_of(const Args& a, const View& view, const Slot& slot, const Run& r, int step) {
  const int64_t forth = a.reverse ? -view.time : view.time;
  return view.data + (a.joined ? 0 : r.sequence) * view.batch + r.time * forth + step * view.time +
         (slot.offset + r.group * slot.stride) * view.channel;
}

RNNCC_FN bool resets(const Args& a, const Run& r, int step) {
  const int64_t time = a.reverse ? r.time - step : r.time + step;
  return a.reset[(a.joined ? 0 : r.sequence) * a.reset_batch + time * a.reset_time];
}

// --- states and params

RNNCC_FN void load_params(const Args& a, const Run& r, real* p) {
#pragma unroll
  for (int k = 0; k < Cell::kParams; ++k) {
    const Slot& slot = Cell::params[k];
    p[k] = a.params[slot.tensor][slot.offset + r.group * slot.stride];
  }
  Lane::prepare(p);
}

// Where a state of a sequence lies in [states, batch, channels].
RNNCC_FN int64_t state_at(const Args& a, const Run& r, int s) {
  const Slot& slot = Cell::states[s];
  return (slot.tensor * a.batch + r.sequence) * (a.groups * Cell::kGroup) + slot.offset +
         r.group * slot.stride;
}

// Null stands for the cell's inits.
RNNCC_FN void load_states(const Args& a, const Run& r, const real* from, real* h) {
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s)
    h[s] = from ? from[state_at(a, r, s)] : Cell::init[Cell::states[s].tensor];
}

RNNCC_FN void store_states(const Args& a, const Run& r, const real* h, real* to) {
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s)
    if (r.active) to[state_at(a, r, s)] = h[s];
}

// Where the states before a step lie among the saved ones; no two sequences meet.
RNNCC_FN int64_t saved_slot(const Args& a, const Run& r, int64_t step) {
  const int64_t before = a.joined ? start_of(a, r.sequence) / a.checkpoint + r.sequence
                                  : r.sequence * ((a.extent + a.checkpoint - 1) / a.checkpoint);
  return before + step / a.checkpoint;
}

RNNCC_FN real* saved_at(const Args& a, const Run& r, int64_t slot, int s) {
  const Slot& state = Cell::states[s];
  return a.saved + (slot * Cell::kStateTensors + state.tensor) * (a.groups * Cell::kGroup) +
         state.offset + r.group * state.stride;
}

// Scalars of a run in [runs, count, groups].
RNNCC_FN const real* run_at(const Args& a, const Run& r, int64_t run, int count, const real* all) {
  return all + run * count * a.groups + r.group;
}

RNNCC_FN void load_run(const Args& a, const Run& r, int64_t run, int count, const real* from,
                       real* to) {
#pragma unroll
  for (int s = 0; s < count; ++s) to[s] = run_at(a, r, run, count, from)[s * a.groups];
}

RNNCC_FN void store_run(const Args& a, const Run& r, int count, const real* from, real* to) {
#pragma unroll
  for (int s = 0; s < count; ++s)
    if (r.active) to[(r.index * count + s) * a.groups + r.group] = from[s];
}

}  // namespace rnncc
