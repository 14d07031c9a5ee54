// Sequences and results in memory.
#pragma once

#include <sys/mman.h>

#include "rnncc/common/args.h"

namespace rnncc {

static int64_t length_of(const Args& a, int64_t sequence) {
  return a.lengths ? a.lengths[sequence] : a.steps;
}

// Where a step of a sequence lies in its row of memory.
static int64_t time_of(const Args& a, int64_t sequence, int64_t step) {
  const int64_t start = a.joined ? a.starts[sequence] : 0;
  return start + (a.reverse ? length_of(a, sequence) - 1 - step : step);
}

// Bytes of a scalar of the cell in memory: of an input, or of an output.
static int64_t row_bytes(const Args& a) {
  return (a.joined ? 1 : a.batch) * a.extent * a.groups * int64_t(sizeof(io));
}

// Where the states before a step lie in `saved`; no two sequences meet.
static int64_t slot_of(const Args& a, int64_t sequence, int64_t step) {
  const int64_t before = a.joined ? a.starts[sequence] / a.checkpoint + sequence
                                  : sequence * ((a.extent + a.checkpoint - 1) / a.checkpoint);
  return before + step / a.checkpoint;
}

// Fresh memory of a large result comes in pages; the first touch of each costs more than the step
// that writes there, so ask for large ones.
static void ask_for_large_pages(const Args& a, const View& view) {
#ifdef MADV_HUGEPAGE
  const int64_t channels = a.groups * Lanes::kGroup, page = 4096, worth = 4 << 20;
  const int64_t rows = a.joined ? 1 : a.batch;
  const int64_t last = (rows - 1) * view.batch + (a.extent - 1) * view.time;
  const int64_t first = (int64_t(view.data) + page - 1) / page * page;
  const int64_t bytes = int64_t(view.data + last + channels) / page * page - first;
  if (view.data && view.channel == 1 && bytes >= worth)
    madvise(reinterpret_cast<void*>(first), size_t(bytes), MADV_HUGEPAGE);
#endif
}

// Sequences of unequal length end before their row of memory does: the rest is 0.
static void clear_tails(const Args& a, const View& view) {
  if (!view.data || !a.lengths || a.joined) return;
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t time = a.lengths[b]; time < a.extent; ++time)
      for (int64_t c = 0; c < (view.channel ? channels : 1); ++c)
        from_real(real(0), view.data[b * view.batch + time * view.time + c * view.channel]);
}

}  // namespace rnncc
