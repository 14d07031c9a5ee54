// ---- tiles -----------------------------------------------------------------------------------------
// A run is a stretch of steps of one sequence. A tile holds up to kTile lanes, a lane a channel (or a
// group of channels) of one run; its runs walk through their steps side by side.

namespace rnncc {

// How each sequence is cut into runs.
struct Cut {
  int64_t segments;                // runs of each sequence
  int64_t length;                  // steps of a run
  int64_t from;                    // the step at which the first begins
  int64_t lead;                    // only so many steps that lead up to the run; -1: the run itself

  static Cut whole(const Args& a, int64_t from) { return {1, a.steps, from, -1}; }
  static Cut into_segments(const Args& a) {
    return {(a.steps + a.segment - 1) / a.segment, a.segment, 0, -1};
  }
  // How many runs of a sequence have steps; the first counts without any.
  int64_t runs_of(const Args& a, int64_t sequence) const {
    const int64_t runs = length ? (length_of(a, sequence) + length - 1) / length : 0;
    return runs < 1 ? 1 : runs;
  }
};

struct Pass {
  const Args& args;
  Cut cut;
};

struct Tile {
  int64_t run, rows, column, columns;
  int64_t steps;                   // of the longest run
  bool even;                       // all runs are as long
  int64_t sequence[kTile], segment[kTile], first[kTile], count[kTile];

  Tile(const Pass& pass, int64_t index) {
    const Args& a = pass.args;
    const Cut& cut = pass.cut;
    const int64_t across = (a.groups + a.columns - 1) / a.columns, runs = a.batch * cut.segments;
    run = index / across * a.rows, column = index % across * a.columns;
    rows = runs - run < a.rows ? runs - run : a.rows;
    columns = a.groups - column < a.columns ? a.groups - column : a.columns;
    steps = 0, even = true;
    for (int64_t r = 0; r < rows; ++r) {
      sequence[r] = (run + r) / cut.segments, segment[r] = (run + r) % cut.segments;
      first[r] = cut.from + segment[r] * cut.length;
      const int64_t left = length_of(a, sequence[r]) - first[r];
      count[r] = left < 0 ? 0 : left < cut.length ? left : cut.length;
      if (cut.lead >= 0) {
        count[r] = segment[r] && left > 0 ? cut.lead : 0;
        first[r] -= count[r];
      }
      steps = count[r] > steps ? count[r] : steps;
    }
    for (int64_t r = 0; r < rows; ++r) even = even && count[r] == steps;
  }

  static int64_t number(const Pass& pass) {
    const Args& a = pass.args;
    return (a.batch * pass.cut.segments + a.rows - 1) / a.rows *
           ((a.groups + a.columns - 1) / a.columns);
  }

  int lanes() const { return int(rows * columns); }
  int width() const { return (lanes() + kLanes - 1) / kLanes * kLanes; }
  bool runs(int64_t row, int64_t step) const { return even || step < count[row]; }

  bool resets(const Args& a, int64_t row, int64_t step) const {
    if (!a.reset || step >= count[row]) return false;
    const int64_t b = sequence[row], time = time_of(a, b, first[row] + step);
    return a.reset[(a.joined ? 0 : b) * a.reset_batch + time * a.reset_time];
  }
};

// One row of lanes, in part: what `count` scalars of a run hold.
static void copy_row(const Tile& t, int64_t row, int count, const real* from, real* to) {
  for (int s = 0; s < count; ++s)
    for (int64_t c = row * t.columns; c < (row + 1) * t.columns; ++c)
      to[s * kRow + c] = from[s * kRow + c];
}

static void clear_row(const Tile& t, int64_t row, int count, real* to) {
  for (int s = 0; s < count; ++s)
    for (int64_t c = row * t.columns; c < (row + 1) * t.columns; ++c) to[s * kRow + c] = 0;
}

// Runs that have ended keep what they had.
static void hold_ended(const Tile& t, int64_t step, int count, const real* from, real* to) {
  for (int64_t r = 0; r < t.rows && !t.even; ++r)
    if (step >= t.count[r]) copy_row(t, r, count, from, to);
}

// One scalar of the cell in a tensor [batch, time, channels], as rows of lanes.
struct Stream {
  io* rows[kTile];                 // the first step of each run
  real* buffer;
  int64_t time, lane;
  const Tile* tile;
  bool present, direct;            // direct: lanes lie in memory as the kernel wants them: no copy

  void open(const Args& a, const View& view, const Slot& slot, const Tile& t, real* space) {
    tile = &t, buffer = space, present = view.data;
    time = a.reverse ? -view.time : view.time, lane = slot.stride * view.channel;
    if (!present) { direct = false; return; }
    for (int64_t r = 0; r < t.rows; ++r) {
      const int64_t b = t.sequence[r], row = a.joined ? 0 : b;
      rows[r] = view.data + row * view.batch + time_of(a, b, t.first[r]) * view.time +
                slot.offset * view.channel + t.column * lane;
    }
    direct = sizeof(io) == sizeof(real) && t.rows == 1 && lane == 1 && t.columns % kLanes == 0;
  }

  const real* load(int64_t step, real* space) const {
    if (direct) return reinterpret_cast<const real*>(rows[0] + step * time);
    if (!present) return space;    // an absent gradient: the buffer stays zero
    const int64_t shift = step * time;
    if (tile->columns == 1) {
      for (int64_t r = 0; r < tile->rows; ++r)
        if (tile->runs(r, step)) space[r] = to_real(rows[r][shift]);
      return space;
    }
    for (int64_t r = 0; r < tile->rows; ++r) {
      if (!tile->runs(r, step)) continue;
      const io* from = rows[r] + shift;
      real* to = space + r * tile->columns;
      if (lane == 1) {
#pragma omp simd
        for (int64_t c = 0; c < tile->columns; ++c) to[c] = to_real(from[c]);
      } else {
        for (int64_t c = 0; c < tile->columns; ++c) to[c] = to_real(from[c * lane]);
      }
    }
    return space;
  }

  // Where the kernel may write the row of a step; `store` then brings it to memory.
  real* row(int64_t step) const {
    return direct ? reinterpret_cast<real*>(rows[0] + step * time) : buffer;
  }

  void store(int64_t step) const { if (!direct) store_from(buffer, step); }

  void add_to(real* lanes, int64_t step) const {
    for (int64_t r = 0; present && r < tile->rows; ++r)
      for (int64_t c = 0; c < tile->columns && tile->runs(r, step); ++c)
        lanes[r * tile->columns + c] += to_real(rows[r][step * time + c * lane]);
  }

  void store_from(const real* lanes, int64_t step) const {
    if (!present) return;
    const int64_t shift = step * time;
    if (tile->columns == 1) {
      for (int64_t r = 0; r < tile->rows; ++r)
        if (tile->runs(r, step)) from_real(lanes[r], rows[r][shift]);
      return;
    }
    for (int64_t r = 0; r < tile->rows; ++r) {
      if (!tile->runs(r, step)) continue;
      io* to = rows[r] + shift;
      const real* from = lanes + r * tile->columns;
      if (lane == 1) {
#pragma omp simd
        for (int64_t c = 0; c < tile->columns; ++c) from_real(from[c], to[c]);
      } else {
        for (int64_t c = 0; c < tile->columns; ++c) from_real(from[c], to[c * lane]);
      }
    }
  }
};

// ---- states and params -----------------------------------------------------------------------------

static void load_params(const Args& a, const Tile& t, real* p) {
  for (int k = 0; k < Lanes::kParams; ++k) {
    const Slot& slot = Lanes::params[k];
    for (int64_t r = 0; r < t.rows; ++r)
      for (int64_t c = 0; c < t.columns; ++c)
        p[k * kRow + r * t.columns + c] =
            a.params[slot.tensor][slot.offset + (t.column + c) * slot.stride];
  }
}

// A state per sequence, [states, batch, channels], and lanes; null stands for the cell's own start.
static void load_states(const Args& a, const Tile& t, int64_t row, const real* from, real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    const int64_t at = (slot.tensor * a.batch + t.sequence[row]) * channels + slot.offset;
    for (int64_t c = 0; c < t.columns; ++c)
      h[s * kRow + row * t.columns + c] =
          from ? from[at + (t.column + c) * slot.stride] : Lanes::start[slot.tensor];
  }
}

static void store_states(const Args& a, const Tile& t, int64_t row, const real* h, real* to) {
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    const int64_t at = (slot.tensor * a.batch + t.sequence[row]) * channels + slot.offset;
    for (int64_t c = 0; c < t.columns; ++c)
      to[at + (t.column + c) * slot.stride] = h[s * kRow + row * t.columns + c];
  }
}

// The states before a step, for the way back.
static real* saved_at(const Args& a, int64_t sequence, int64_t step) {
  const int64_t channels = a.groups * Lanes::kGroup;
  return a.saved + slot_of(a, sequence, step) * Lanes::kStateTensors * channels;
}

static void save_row(const Args& a, const Tile& t, int64_t row, int64_t step, const real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  real* to = saved_at(a, t.sequence[row], t.first[row] + step);
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    for (int64_t c = 0; c < t.columns; ++c)
      to[slot.tensor * channels + slot.offset + (t.column + c) * slot.stride] =
          h[s * kRow + row * t.columns + c];
  }
}

static void load_saved(const Args& a, const Tile& t, int64_t row, int64_t step, real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  const real* from = saved_at(a, t.sequence[row], t.first[row] + step);
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    for (int64_t c = 0; c < t.columns; ++c)
      h[s * kRow + row * t.columns + c] =
          from[slot.tensor * channels + slot.offset + (t.column + c) * slot.stride];
  }
}

// Scalars of each run, [runs, count, groups], and lanes.
static void load_run(const Args& a, const Tile& t, int64_t row, int64_t run, int count,
                     const real* from, real* lanes) {
  for (int s = 0; s < count; ++s)
    for (int64_t c = 0; c < t.columns; ++c)
      lanes[s * kRow + row * t.columns + c] = from[(run * count + s) * a.groups + t.column + c];
}

static void store_run(const Args& a, const Tile& t, int64_t row, int64_t run, int count,
                      const real* lanes, real* to) {
  for (int s = 0; s < count; ++s)
    for (int64_t c = 0; c < t.columns; ++c)
      to[(run * count + s) * a.groups + t.column + c] = lanes[s * kRow + row * t.columns + c];
}

}  // namespace rnncc
