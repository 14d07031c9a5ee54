// Streams: the inputs, outputs and gradients of a tile, row by row of its steps.
#pragma once

#include "rnncc/cpp/tiles.h"

namespace rnncc {

// One scalar of the cell in a tensor [batch, time, channels], as rows of lanes. Where lanes don't
// lie in memory as the kernel needs them, they are copied, many steps at a time (at most kAhead),
// so that neighbours in memory move together.
constexpr int kAhead = 16;
constexpr int kFetched = 4;  // steps from a row to the one that is fetched ahead

struct Stream {
  io* runs[kTile];  // the first step of each run
  real* buffer;     // [kAhead, pitch]
  int64_t time, lane;
  const Tile* tile;
  bool present, direct, gaps;      // direct: no copy; gaps: between the rows of its steps
  bool past;                       // its rows are written past the cache
  int64_t blocks[kTile / kLanes];  // of a direct row of several runs

  RNNCC_ONCE void open(const Args& a, const View& view, const Slot& slot, const Tile& t,
                       real* space) {
    tile = &t, buffer = space, present = view.data, direct = gaps = past = false;
    time = a.reverse ? -view.time : view.time, lane = slot.stride * view.channel;
    if (!present) return;
    for (int64_t r = 0; r < t.rows; ++r) {
      const int64_t b = t.sequence[r], row = a.joined ? 0 : b;
      runs[r] = view.data + row * view.batch + time_of(a, b, t.first[r]) * view.time +
                slot.offset * view.channel + t.column * lane;
    }
    direct = sizeof(io) == sizeof(real) && t.even && lane == 1 && t.span % kLanes == 0;
    for (int64_t at = 0; direct && t.rows > 1 && at < t.lanes(); at += kLanes)
      blocks[at / kLanes] = runs[at / t.span] - runs[0] + t.channel_of(at % t.span);
    gaps = direct && (time < 0 ? -time : time) > t.columns;
    if (!direct && space && (t.lanes() < t.width() || !t.even))
      clear_lanes((t.steps < kAhead ? t.steps : kAhead) * t.pitch, buffer);
  }

  // Has the rows of a result written past the cache, if they are lines of memory.
  RNNCC_ONCE void write_past_cache() {
    past =
        kPastCache && direct && tile->columns % kLanes == 0 && time * int64_t(sizeof(io)) % 64 == 0;
    for (int64_t r = 0; r < tile->rows; ++r) past = past && uintptr_t(runs[r]) % 64 == 0;
  }

  // Brings in the rows of at most kAhead steps, unless they are direct; those of an absent
  // gradient stay as they are.
  RNNCC_ONCE void load(int64_t first, int64_t count) const {
    if (!direct && present) each<get>(first, count, buffer);
  }

  // A slice of the row of a step, where those from `first` on are at hand.
  Row row(int64_t first, int64_t step, const Slice& slice) const {
    if (!direct)
      return {buffer + (step - first) * tile->pitch + slice.first, tile->blocks, tile->pitch};
    real* const at = reinterpret_cast<real*>(runs[0] + step * time);
    if (tile->rows == 1) return {at + slice.first, slice.blocks, time, past};
    return {at, blocks + slice.first / kLanes, time, past};
  }

  // Copies to memory the values that the kernel has written to the rows.
  RNNCC_ONCE void store(int64_t first, int64_t count) const {
    if (!direct && present) each<put>(first, count, buffer);
  }

  // The same for a row of one step that lies elsewhere.
  void store_from(real* lanes, int64_t step) const {
    if (present) each<put>(step, 1, lanes);
  }

 private:
  static void get(io* at, real& lane) { lane = to_real(*at); }
  static void put(io* at, real& lane) { from_real(lane, *at); }

  // `move` for every lane of the runs that take these steps, with its place in memory.
  template <void (*move)(io*, real&)>
  RNNCC_ONCE void each(int64_t first, int64_t steps, real* lanes) const {
    const int64_t pitch = tile->pitch;
    for (int64_t r = 0; r < tile->rows; ++r) {
      const int64_t left = tile->count[r] - first, count = left < steps ? left : steps;
      io* here = runs[r] + first * time;
      real* row = lanes + r * tile->span;
      if (tile->columns == 1) {
        for (int64_t k = 0; k < count; ++k) move(here + k * time, row[k * pitch]);
        continue;
      }
      for (int64_t k = 0; k < count; ++k, here += time, row += pitch) {
        piece<move>(lane, here, row, tile->whole);
        if (tile->span > tile->whole)
          piece<move>(lane, here + (tile->columns - kLanes) * lane, row + tile->whole, kLanes);
      }
    }
  }

  // In vectors, the last of which may overlap the one before.
  template <void (*move)(io*, real&)>
  RNNCC_FN void piece(int64_t lane, io* here, real* row, int64_t columns) {
    if (lane != 1) {
      for (int64_t c = 0; c < columns; ++c) move(here + c * lane, row[c]);
    } else if (columns >= kLanes) {
      for (int64_t c = 0; c + kLanes < columns; c += kLanes) vector<move, kLanes>(here, row, c);
      vector<move, kLanes>(here, row, columns - kLanes);
    } else if (columns >= kLanes / 2) {
      vector<move, kLanes / 2>(here, row, 0);
      vector<move, kLanes / 2>(here, row, columns - kLanes / 2);
    } else if (columns >= kLanes / 4) {
      vector<move, kLanes / 4>(here, row, 0);
      vector<move, kLanes / 4>(here, row, columns - kLanes / 4);
    } else {
      for (int64_t c = 0; c < columns; ++c) move(here + c, row[c]);
    }
  }

  template <void (*move)(io*, real&), int width>
  RNNCC_FN void vector(io* here, real* row, int64_t from) {
#pragma omp simd
    for (int c = 0; c < width; ++c) move(here + from + c, row[from + c]);
  }
};

// Fetches the rows of a later step where they don't follow those of this one in memory: there the
// hardware doesn't. Inlined, for a call of it would have no effect that compilers see.
RNNCC_FN void fetch_ahead(const Row* rows, const Stream* streams, int count, const Slice& slice) {
  for (int i = 0; i < count; ++i) {
    if (!streams[i].gaps) continue;
    const Row& row = rows[i];
    for (int lane = 0; lane < slice.width; lane += kLanes)
      __builtin_prefetch(row.block(lane) + lane + kFetched * row.apart, 0, 2);
  }
}

// Fetches the rows of a step, to be read, or to be written to, unless that goes past the cache.
template <bool write>
RNNCC_FN void fetch(const Stream* streams, int count, int64_t step) {
  for (int i = 0; i < count; ++i) {
    const Stream& from = streams[i];
    const int64_t rows = from.lane == 1 && from.present && !from.past ? from.tile->rows : 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < from.tile->columns; c += 64 / sizeof(io))
        __builtin_prefetch(from.runs[r] + step * from.time + c, write, 2);
  }
}

// From the rows of a step to those of the next, or of the one before.
static void shift(Row* rows, int count, int64_t steps) {
  for (int i = 0; i < count; ++i) rows[i].at += steps * rows[i].apart;
}

}  // namespace rnncc
