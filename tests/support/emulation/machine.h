// The state of the emulated machine: one block at a time, its warps and threads, and how a fault ends
// a launch.
#pragma once

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "calls.h"
#include "fibers.h"

namespace emulation {

constexpr int kMostThreads = 1024, kLanes = 32;

enum class State { ready, at_block, at_warp, gone };

struct Thread {
  uint3 index;
  int number;                      // in the block
  State state;
  Fiber* fiber;                    // null until the thread has started
  Meeting meeting;                 // where it waits, or waited last
  unsigned long long value, result;

  int warp() const { return number / kLanes; }
  int lane() const { return number % kLanes; }
  unsigned bit() const { return 1u << lane(); }
};

// Lanes that wait for each other: same kind, line and mask.
struct Gathering {
  Kind kind;
  int line;
  unsigned mask, arrived;
};

struct Warp {
  unsigned lanes, ready, gone;     // masks
  int open;
  Gathering gatherings[kLanes];
};

struct Block {
  int size, waiting, gone;
  int first;                       // the thread that came to the barrier first
  int votes, result;
};

struct Launch {
  const Kernel* kernel;
  const void* argument;
  size_t shared;
  int seconds;
  const uint32_t* order;           // of the blocks
  uint32_t serial;                 // of the block that runs
};

static Thread threads[kMostThreads];
static Warp warps[kMostThreads / kLanes];
static Block block;
static Launch launch;
static Thread* current;
static Fiber host;                 // what called the launch

// ---- chance ------------------------------------------------------------------------------------

static uint64_t chance;

static uint32_t draw() {           // xorshift64*
  chance ^= chance >> 12;
  chance ^= chance << 25;
  chance ^= chance >> 27;
  return uint32_t((chance * 0x2545f4914f6cdd1dull) >> 32);
}

static void seed_chance(uint64_t seed) {
  chance = (seed + 1) * 0x9e3779b97f4a7c15ull;
  for (int i = 0; i < 4; ++i) draw();
}

// One of the bits that are set.
static int draw_bit(unsigned mask) {
  const unsigned by = draw() % 32;
  const unsigned turned = by ? mask >> by | mask << (32 - by) : mask;
  return int((unsigned(__builtin_ctz(turned)) + by) % 32);
}

// ---- faults ------------------------------------------------------------------------------------

static char fault[4096];           // empty: none

struct Name {
  char text[64];
};

static Name name_of(const uint3& index) {
  Name name;
  snprintf(name.text, sizeof name, "(%u, %u, %u)", index.x, index.y, index.z);
  return name;
}

static Name name_of(const Thread& thread) { return name_of(thread.index); }

static int write_place(char* to, size_t bytes, const Thread& thread) {
  return snprintf(to, bytes, "kernel '%s', block %s, thread %s: ", launch.kernel->name,
                  name_of(blockIdx).text, name_of(thread).text);
}

// Ends the launch; nothing on the fibers' stacks is ever gone back to.
[[noreturn]] __attribute__((format(printf, 2, 3)))
static void fail(const Thread& thread, const char* format, ...) {
  const int written = write_place(fault, sizeof fault, thread);
  va_list values;
  va_start(values, format);
  vsnprintf(fault + written, sizeof fault - size_t(written), format, values);
  va_end(values);
  switch_to(host);
  __builtin_unreachable();
}

static const char* name_of(Kind kind) {
  static const char* const names[] = {
      "__syncthreads", "__syncthreads_and", "__syncthreads_or", "__syncthreads_count",
      "__syncwarp", "__ballot_sync", "__any_sync", "__all_sync",
      "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  return names[int(kind)];
}

static bool is_for_block(Kind kind) { return kind <= Kind::syncthreads_count; }

}  // namespace emulation
