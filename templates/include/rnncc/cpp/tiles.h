// Tiles.
//
// A run is a stretch of steps of one sequence. A tile holds a lane for each channel (or group of
// channels) of its runs: many of one run, so that it reads whole rows of memory, or up to kTile of
// several. Its runs walk through their steps side by side; a step takes slice after slice of lanes.
#pragma once

#include "rnncc/common/policy.h"
#include "rnncc/cpp/results.h"

namespace rnncc {

// The lanes of a run. Where rows can be used as they lie in memory, these are whole vectors: the
// last begins before the end of the one before it, and computes some channels a second time.
static int64_t span_of(int64_t columns) {
  const bool in_place = sizeof(io) == sizeof(real) && Lanes::kGroup == 1 && columns > kLanes;
  return in_place ? (columns + kLanes - 1) / kLanes * kLanes : columns;
}

// How each sequence is cut into runs.
struct Cut {
  bool whole;             // one run a sequence
  int64_t length;         // steps of a run
  int64_t from;           // the step at which the first begins
  int64_t rows, columns;  // of a tile
  Stretch stretch = Stretch::kSegment;

  static Cut in_one(const Args& a, int64_t from) {
    return {true, a.steps, from, a.whole_rows, a.whole_columns};
  }
  static Cut into_segments(const Args& a) {
    return {kOnePass || a.segment >= a.steps, a.segment, 0, a.rows, a.columns};
  }

  // Between rows of lanes: an odd number of lines, which spreads them over the cache.
  // Between those of a large cell it is always the same: so many addresses, each of its own, would
  // keep a compiler busy for minutes.
  int64_t pitch() const {
    if (Lanes::kLarge) return kRow;
    return ((rows * span_of(columns) + kLanes - 1) / kLanes | 1) * kLanes;
  }

  // The first run of a sequence; that of `batch` is how many there are.
  int64_t first_run(const Args& a, int64_t sequence) const {
    return whole ? sequence : a.run_starts[sequence];
  }
  int64_t runs_of(const Args& a, int64_t sequence) const {
    return first_run(a, sequence + 1) - first_run(a, sequence);
  }
  int64_t sequence_of(const Args& a, int64_t run) const {
    if (whole) return run;
    int64_t low = 0, high = a.batch;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (a.run_starts[middle] <= run) low = middle;
      else high = middle;
    }
    return low;
  }
};

// Numbers the segments of all sequences; one without steps has one.
static void number_runs(const Args& a) {
  a.run_starts[0] = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t count = (length_of(a, b) + a.segment - 1) / a.segment;
    a.run_starts[b + 1] = a.run_starts[b] + (count < 1 ? 1 : count);
  }
}

struct Pass {
  const Args& args;
  Cut cut;
  Sweep sweep = {};
  double before = kNoScan;  // the largest change of the scan before
};

constexpr int kMostSlices = kWidest / kSlice;

// Lanes that a step takes at once.
struct Slice {
  int64_t first;
  int width;
  const int64_t* blocks;  // of a row of one run
};

struct Tile {
  int64_t run, rows, column, columns;
  int64_t pitch, span;  // between rows of lanes; of a run in them
  int64_t whole;        // the lanes of a run that hold its first channels, in their order
  int64_t steps;        // of the longest run
  bool even;            // all runs are as long
  int64_t sequence[kTile], segment[kTile], first[kTile], count[kTile];
  int64_t blocks[kTile / kLanes];  // of a row of lanes in one piece
  int64_t last[kTile / kLanes];    // of the last slice of a row in memory
  int slices;
  Slice slice[kMostSlices];

  RNNCC_ONCE Tile(const Pass& pass, int64_t index) {
    const Args& a = pass.args;
    const Cut& cut = pass.cut;
    const int64_t across = (a.groups + cut.columns - 1) / cut.columns;
    const int64_t runs = cut.first_run(a, a.batch);
    run = index / across * cut.rows, column = index % across * cut.columns;
    rows = runs - run < cut.rows ? runs - run : cut.rows;
    columns = a.groups - column < cut.columns ? a.groups - column : cut.columns;
    steps = 0, even = true;
    int64_t b = cut.sequence_of(a, run);
    for (int64_t r = 0; r < rows; ++r) {
      while (cut.first_run(a, b + 1) <= run + r) ++b;
      sequence[r] = b, segment[r] = run + r - cut.first_run(a, b);
      first[r] = cut.from + segment[r] * cut.length;
      const int64_t left = length_of(a, sequence[r]) - first[r];
      count[r] = left < 0 ? 0 : left < cut.length ? left : cut.length;
      if (cut.stretch == Stretch::kWarmUpBefore) {
        count[r] = segment[r] && left > 0 ? a.warm_up : 0;
        first[r] -= count[r];
      } else if (cut.stretch == Stretch::kWarmUpAfter) {
        first[r] += cut.length;
        const int64_t after = left - cut.length;
        count[r] = after < 0 ? 0 : after < a.warm_up ? after : a.warm_up;
      }
      steps = count[r] > steps ? count[r] : steps;
    }
    for (int64_t r = 0; r < rows; ++r) even = even && count[r] == steps;
    for (int64_t b = 0; b < kTile / kLanes; ++b) blocks[b] = b * kLanes;
    pitch = cut.pitch(), span = span_of(columns);
    whole = span == columns ? columns : span - kLanes;
    cut_into_slices();
  }

  static int64_t number(const Pass& pass) {
    const Args& a = pass.args;
    const Cut& cut = pass.cut;
    return (cut.first_run(a, a.batch) + cut.rows - 1) / cut.rows *
           ((a.groups + cut.columns - 1) / cut.columns);
  }

  int lanes() const { return int(rows * span); }
  int width() const { return (lanes() + kLanes - 1) / kLanes * kLanes; }
  // Of the channels of a run, and back.
  int64_t lane_of(int64_t c) const { return c < whole ? c : c + span - columns; }
  int64_t channel_of(int64_t lane) const { return lane < whole ? lane : lane - span + columns; }
  bool runs(int64_t row, int64_t step) const { return even || step < count[row]; }

  bool resets(const Args& a, int64_t row, int64_t step) const {
    if (!a.reset || step >= count[row]) return false;
    const int64_t b = sequence[row], time = time_of(a, b, first[row] + step);
    return a.reset[(a.joined ? 0 : b) * a.reset_batch + time * a.reset_time];
  }

 private:
  // Of nearly equal widths.
  void cut_into_slices() {
    const int64_t vectors = width() / kLanes, most = kSlice / kLanes;
    const int64_t number = (vectors + most - 1) / most, each = (vectors + number - 1) / number;
    slices = 0;
    for (int64_t at = 0; at < vectors; at += each) {
      const int64_t count = vectors - at < each ? vectors - at : each;
      slice[slices++] = {at * kLanes, int(count * kLanes), blocks};
    }
    if (rows > 1 || span == columns) return;
    Slice& end = slice[slices - 1];
    end.blocks = last;
    for (int64_t b = 0; b < kTile / kLanes; ++b) last[b] = blocks[b];
    last[end.width / kLanes - 1] = columns - kLanes - end.first;
  }
};

// `count` numbers, a stride apart where they are and where they go.
RNNCC_ONCE static void copy_many(const real* from, int64_t from_stride, real* to, int64_t to_stride,
                                 int64_t count) {
  if (from_stride == 1 && to_stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = from[i * from_stride];
  }
}

// The same without the call for a single number: a tile of many short rows copies nothing else.
static void copy_some(const real* from, int64_t from_stride, real* to, int64_t to_stride,
                      int64_t count) {
  if (count == 1) *to = *from;
  else copy_many(from, from_stride, to, to_stride, count);
}

// The channels of a run, a stride apart, into their lanes.
static void to_lanes(const Tile& t, const real* from, int64_t stride, real* lanes) {
  copy_some(from, stride, lanes, 1, t.whole);
  if (t.span > t.whole)
    copy_many(from + (t.columns - kLanes) * stride, stride, lanes + t.whole, 1, kLanes);
}

// And back.
static void from_lanes(const Tile& t, const real* lanes, real* to, int64_t stride) {
  copy_some(lanes, 1, to, stride, t.whole);
  if (t.span > t.whole)
    copy_many(lanes + t.whole, 1, to + (t.columns - kLanes) * stride, stride, kLanes);
}

// One row of lanes, in part: what `count` scalars of a run hold.
RNNCC_FN void copy_lanes(const Tile& t, int64_t row, int count, const real* from, real* to) {
  from += row * t.span, to += row * t.span;
  for (int s = 0; s < count; ++s, from += t.pitch, to += t.pitch) {
    if (t.span == 1) {
      *to = *from;
      continue;
    }
#pragma omp simd
    for (int64_t c = 0; c < t.span; ++c) to[c] = from[c];
  }
}

RNNCC_ONCE static void copy_row(const Tile& t, int64_t row, int count, const real* from, real* to) {
  copy_lanes(t, row, count, from, to);
}

RNNCC_ONCE static void clear_row(const Tile& t, int64_t row, int count, real* to) {
  for (int s = 0; s < count; ++s)
    for (int64_t c = row * t.span; c < (row + 1) * t.span; ++c) to[s * t.pitch + c] = 0;
}

// Runs that have ended hold their values.
RNNCC_ONCE static void hold_ended(const Tile& t, int64_t step, int count, const real* from,
                                  real* to) {
  for (int64_t r = 0; r < t.rows; ++r)
    if (step >= t.count[r]) copy_lanes(t, r, count, from, to);
}

// --- states and params

static void load_params(const Args& a, const Tile& t, real* p) {
  for (int k = 0; k < Lanes::kParams; ++k) {
    const Slot& slot = Lanes::params[k];
    const real* from = a.params[slot.tensor] + slot.offset + t.column * slot.stride;
    for (int64_t r = 0; r < t.rows; ++r)
      to_lanes(t, from, slot.stride, p + k * t.pitch + r * t.span);
  }
}

// A state per sequence, [states, batch, channels], and lanes; null stands for the cell's inits.
RNNCC_ONCE static void load_states(const Args& a, const Tile& t, int64_t row, const real* from,
                                   real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    const int64_t at = (slot.tensor * a.batch + t.sequence[row]) * channels + slot.offset;
    const real* here = from ? from + at + t.column * slot.stride : Lanes::init + slot.tensor;
    to_lanes(t, here, from ? slot.stride : 0, h + s * t.pitch + row * t.span);
  }
}

RNNCC_ONCE static void store_states(const Args& a, const Tile& t, int64_t row, const real* h,
                                    real* to) {
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    const int64_t at = (slot.tensor * a.batch + t.sequence[row]) * channels + slot.offset;
    real* there = to + at + t.column * slot.stride;
    from_lanes(t, h + s * t.pitch + row * t.span, there, slot.stride);
  }
}

// The states before a step, for the backward.
static real* saved_at(const Args& a, int64_t sequence, int64_t step) {
  const int64_t channels = a.groups * Lanes::kGroup;
  return a.saved + slot_of(a, sequence, step) * Lanes::kStateTensors * channels;
}

static void save_row(const Args& a, const Tile& t, int64_t row, int64_t step, const real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  real* to = saved_at(a, t.sequence[row], t.first[row] + step);
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    const int64_t at = slot.tensor * channels + slot.offset + t.column * slot.stride;
    from_lanes(t, h + s * t.pitch + row * t.span, to + at, slot.stride);
  }
}

static void load_saved(const Args& a, const Tile& t, int64_t row, int64_t step, real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  const real* from = saved_at(a, t.sequence[row], t.first[row] + step);
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    const int64_t at = slot.tensor * channels + slot.offset + t.column * slot.stride;
    to_lanes(t, from + at, slot.stride, h + s * t.pitch + row * t.span);
  }
}

// Scalars of each run, [runs, count, groups], and lanes.
RNNCC_ONCE static void load_run(const Args& a, const Tile& t, int64_t row, int64_t run, int count,
                                const real* from, real* lanes) {
  from += run * count * a.groups + t.column, lanes += row * t.span;
  for (int s = 0; s < count; ++s) to_lanes(t, from + s * a.groups, 1, lanes + s * t.pitch);
}

RNNCC_ONCE static void store_run(const Args& a, const Tile& t, int64_t row, int64_t run, int count,
                                 const real* lanes, real* to) {
  lanes += row * t.span, to += run * count * a.groups + t.column;
  for (int s = 0; s < count; ++s) from_lanes(t, lanes + s * t.pitch, to + s * a.groups, 1);
}

}  // namespace rnncc
