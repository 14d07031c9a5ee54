// Asynchronous copies: what each thread has issued and not yet waited for, in groups. The copying
// itself is in cuda.h, compiled with the kernels, so that the fault finders see it.
#pragma once

#include "machine.h"

#include <stdlib.h>

namespace emulation {

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
  uint32_t group;
};

struct Copies {
  Copy* all;
  int first, end, room;            // of `all`
  uint32_t group;                  // that is not committed yet
};

static Copies copies[kMostThreads];

static void forget_copies() {
  for (Copies& mine : copies) mine.first = mine.end = 0, mine.group = 0;
}

static void copies_of_the_end(const Thread& thread) {
  const Copies& mine = copies[thread.number];
  if (mine.first != mine.end)
    fail(thread, "ends without waiting for %d of its asynchronous copies.", mine.end - mine.first);
}

void add_copy(void* to, const void* from, unsigned bytes, int line) {
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail(*current, "an asynchronous copy of %u bytes at kernel.cu:%d.\nExpected: 4, 8 or 16", bytes,
         line);
  if ((uintptr_t(to) | uintptr_t(from)) % bytes)
    fail(*current, "an asynchronous copy of %u bytes at kernel.cu:%d, from %p to %p.\n"
         "Expected: addresses that are multiples of that", bytes, line, from, to);
  Copies& mine = copies[current->number];
  if (mine.first == mine.end) mine.first = mine.end = 0;
  if (mine.end == mine.room) {
    mine.room = mine.room ? 2 * mine.room : 64;
    mine.all = static_cast<Copy*>(realloc(mine.all, size_t(mine.room) * sizeof(Copy)));
    if (!mine.all) abort();
  }
  mine.all[mine.end++] = {to, from, bytes, mine.group};
}

void commit_copies() { ++copies[current->number].group; }

// The oldest copy that is not among the `newest` groups, taken from the queue.
bool take_copy(unsigned newest, void** to, const void** from, unsigned* bytes) {
  Copies& mine = copies[current->number];
  if (mine.first == mine.end || mine.all[mine.first].group + newest >= mine.group) return false;
  const Copy& found = mine.all[mine.first++];
  *to = found.to, *from = found.from, *bytes = found.bytes;
  return true;
}

}  // namespace emulation
