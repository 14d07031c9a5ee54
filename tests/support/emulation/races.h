// The race detector. Compiled for it, a kernel calls the functions below at every access to memory, as
// it would call ThreadSanitizer's, which is not linked. Each byte remembers who wrote it last and two who
// have read it since. Two accesses, one of them a write and not both atomic, are a race unless something
// orders them: a barrier of the block; a __syncwarp of both lanes; between blocks a __threadfence after
// the first and an atomic on the same address in both. Votes and shuffles order nothing. Two writes of
// the same value are not a race. None of this depends on the order in which threads happened to run.
#pragma once

#include "shared.h"

#ifndef EMULATION_RACES

namespace emulation {
static void races_of_launch() {}
static void races_of_block() {}
static void order_block() {}
static void order_warp(int, unsigned) {}
static void note_atomic(const void*, int, int) {}
static void settle_writes() {}
static void note_fence() {}
}  // namespace emulation

#else

#include <dlfcn.h>

#include <unordered_map>

namespace emulation {

struct Access {
  uint32_t serial, interval;       // of the block, counted from 1; of its barrier
  uint32_t clock;                  // of the lane
  uint32_t code;                   // where: an offset in the library, or kLine and a line
  uint16_t thread;
  bool atomic;
};

struct Byte {
  Access write, read, other;       // `other` is of another thread than `read`, and warp if any was
};

constexpr uintptr_t kPageBytes = 4096, kPages = 1 << 16;
constexpr uint32_t kLine = 1u << 31;

struct Page {
  uintptr_t number;                // 0: none
  Byte* bytes;
};

static Page pages[kPages];         // open addressing
static uintptr_t pages_used;
static uint32_t interval;
static uint32_t clocks[kMostThreads][kLanes];  // [thread][lane]: what it knows of its warp
static uintptr_t library;

// Up to which interval each earlier block has made its writes known: on an address, and to this block.
using Known = std::unordered_map<uint32_t, uint32_t>;
static std::unordered_map<uintptr_t, Known> released;
static Known acquired;
static uint32_t fenced;

// A write over another's that nothing orders, and what was there. Kernels tell of a write before they
// do it, so whether it was of the same value is seen when they next call anything.
struct Write {
  Access before, now;
  uintptr_t address;
  unsigned char value;
};

static Write unsettled[64];
static int unsettled_count;

static void races_of_launch() {
  for (Page& page : pages)
    if (page.bytes) munmap(page.bytes, kPageBytes * sizeof(Byte));
  memset(pages, 0, sizeof pages);
  pages_used = 0;
  unsettled_count = 0;
  released.clear();
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&races_of_launch), &info)) library = uintptr_t(info.dli_fbase);
}

static void races_of_block() {
  acquired.clear();
  interval = 1;
  fenced = 0;
  memset(clocks, 0, sizeof clocks);
  for (int i = 0; i < kMostThreads; ++i) clocks[i][i % kLanes] = 1;
}

static void order_block() { ++interval; }

static void order_warp(int warp, unsigned mask) {
  uint32_t joined[kLanes] = {};
  uint32_t (*const lanes)[kLanes] = clocks + warp * kLanes;
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; mask >> lane & 1 && i < kLanes; ++i)
      if (lanes[lane][i] > joined[i]) joined[i] = lanes[lane][i];
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    memcpy(lanes[lane], joined, sizeof joined);
    ++lanes[lane][lane];
  }
}

static void note_fence() { fenced = interval; }

static bool is_on(const Fiber& fiber, const void* address) {
  return size_t((const char*)address - (const char*)fiber.bottom) < fiber.bytes;
}

static Byte* page_of(uintptr_t address) {
  const uintptr_t number = address / kPageBytes;
  uintptr_t at = number * 0x9e3779b97f4a7c15ull >> 48;
  while (pages[at].bytes && pages[at].number != number) at = (at + 1) % kPages;
  if (!pages[at].bytes) {
    if (++pages_used > kPages / 2)
      fail(*current, "the race detector can watch %d MiB at most.\nFix: smaller shapes",
           int(kPages / 2 * kPageBytes >> 20));
    pages[at] = {number, reinterpret_cast<Byte*>(reserve(kPageBytes * sizeof(Byte)))};
  }
  return pages[at].bytes;
}

// Whether a barrier or a fence lies between.
static bool is_ordered(const Access& before, const Access& now, bool shared) {
  if (before.serial == now.serial) {
    if (before.thread == now.thread || before.interval != now.interval) return true;
    return before.thread / kLanes == now.thread / kLanes &&
           clocks[now.thread][before.thread % kLanes] >= before.clock;
  }
  if (shared) return true;         // the same place, but each block has its own
  const auto known = acquired.find(before.serial);
  return known != acquired.end() && known->second >= before.interval;
}

static Name name_of_code(uint32_t code) {
  Name name;
  snprintf(name.text, sizeof name, code & kLine ? "kernel.cu:%u" : "<code %x>", code & ~kLine);
  return name;
}

static bool is_static_shared(uintptr_t address) {
  return address - uintptr_t(static_shared()) < static_bytes();
}

static Name name_of_memory(uintptr_t address) {
  Name name;
  const uintptr_t dynamic = address - uintptr_t(dynamic_shared);
  if (dynamic < launch.shared)
    snprintf(name.text, sizeof name, "byte %zu of dynamic shared memory", size_t(dynamic));
  else if (is_static_shared(address))
    snprintf(name.text, sizeof name, "static shared memory");
  else
    snprintf(name.text, sizeof name, "global memory");
  return name;
}

[[noreturn]] static void fail_race(const Access& before, bool was_write, const Access& now,
                                   bool is_write, uintptr_t address) {
  const uint3 there = {launch.order[before.serial - 1], 0, 0};
  fail(*current,
       "a race on %s: it is %s%s (%s), and thread %s of block %s has %s%s it (%s) with nothing "
       "between that orders the two.\nExpected: a barrier between them, or atomics in both",
       name_of_memory(address).text, now.atomic ? "atomically " : "", is_write ? "written" : "read",
       name_of_code(now.code).text, name_of(threads[before.thread]).text, name_of(there).text,
       before.atomic ? "atomically " : "", was_write ? "written" : "read",
       name_of_code(before.code).text);
}

static bool is_race(const Access& before, const Access& now, bool shared) {
  return before.serial && !(before.atomic && now.atomic) && !is_ordered(before, now, shared);
}

static void settle_writes() {
  while (unsettled_count > 0) {
    const Write& write = unsettled[--unsettled_count];
    if (*reinterpret_cast<const unsigned char*>(write.address) != write.value)
      fail_race(write.before, true, write.now, true, write.address);
  }
}

static void note_write(Byte& byte, const Access& now, uintptr_t address, bool shared) {
  for (const Access& read : {byte.read, byte.other})
    if (is_race(read, now, shared)) fail_race(read, false, now, true, address);
  if (is_race(byte.write, now, shared)) {
    if (now.atomic || unsettled_count == int(sizeof unsettled / sizeof *unsettled))
      fail_race(byte.write, true, now, true, address);
    const unsigned char value = *reinterpret_cast<const unsigned char*>(address);
    unsettled[unsettled_count++] = {byte.write, now, address, value};
  }
  byte = {now, {}, {}};
}

static void note_read(Byte& byte, const Access& now, uintptr_t address, bool shared) {
  if (is_race(byte.write, now, shared)) fail_race(byte.write, true, now, false, address);
  const auto may_go = [&](const Access& read) {
    return !read.serial || (read.serial == now.serial && read.thread == now.thread) ||
           is_ordered(read, now, shared);
  };
  const auto same_warp = [](const Access& a, const Access& b) {
    return a.serial == b.serial && a.thread / kLanes == b.thread / kLanes;
  };
  if (may_go(byte.read)) byte.read = now;
  else if (may_go(byte.other) || same_warp(byte.other, byte.read) || !same_warp(now, byte.read))
    byte.other = now;
}

static void note_access(uintptr_t address, size_t bytes, bool is_write, bool atomic,
                        uint32_t code) {
  if (!current) return;
  settle_writes();
  const void* const pointer = reinterpret_cast<const void*>(address);
  if (is_on_stacks(pointer)) {
    if (!is_on(*running, pointer))
      fail(*current, "uses a local variable of another thread (%s).\nExpected: shared memory",
           name_of_code(code).text);
    return;
  }
  const bool shared = address - uintptr_t(dynamic_shared) < launch.shared ||
                      is_static_shared(address);
  const Access now = {launch.serial + 1, interval, clocks[current->number][current->lane()],
                      code, uint16_t(current->number), atomic};
  Byte* page = page_of(address);
  for (size_t i = 0; i < bytes; ++i, ++address) {
    if (i && address % kPageBytes == 0) page = page_of(address);
    Byte& byte = page[address % kPageBytes];
    if (is_write) note_write(byte, now, address, shared);
    else note_read(byte, now, address, shared);
  }
}

static void note_atomic(const void* pointer, int bytes, int line) {
  const uintptr_t address = uintptr_t(pointer);
  Known& known = released[address];
  for (const auto& [serial, until] : known)
    if (serial != launch.serial + 1 && until > acquired[serial]) acquired[serial] = until;
  if (fenced) known[launch.serial + 1] = fenced;
  note_access(address, size_t(bytes), true, true, kLine | uint32_t(line));
}

}  // namespace emulation

// ---- called from instrumented code -------------------------------------------------------------

#define EMULATION_CODE \
  uint32_t(uintptr_t(__builtin_return_address(0)) - 1 - emulation::library)
#define EMULATION_ACCESS(name, bytes, is_write)                                                  \
  extern "C" void name(void* address) {                                                          \
    emulation::note_access(uintptr_t(address), bytes, is_write, false, EMULATION_CODE);          \
  }
#define EMULATION_ACCESSES(bytes)                                                                \
  EMULATION_ACCESS(__tsan_read##bytes, bytes, false)                                             \
  EMULATION_ACCESS(__tsan_write##bytes, bytes, true)                                             \
  EMULATION_ACCESS(__tsan_unaligned_read##bytes, bytes, false)                                   \
  EMULATION_ACCESS(__tsan_unaligned_write##bytes, bytes, true)
EMULATION_ACCESSES(1)
EMULATION_ACCESSES(2)
EMULATION_ACCESSES(4)
EMULATION_ACCESSES(8)
EMULATION_ACCESSES(16)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void __tsan_read_range(void* address, size_t bytes) {
  emulation::note_access(uintptr_t(address), bytes, false, false, EMULATION_CODE);
}

void __tsan_write_range(void* address, size_t bytes) {
  emulation::note_access(uintptr_t(address), bytes, true, false, EMULATION_CODE);
}

void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  emulation::note_access(uintptr_t(from), bytes, false, false, EMULATION_CODE);
  emulation::note_access(uintptr_t(to), bytes, true, false, EMULATION_CODE);
  return memcpy(to, from, bytes);
}

void* __tsan_memset(void* to, int value, size_t bytes) {
  emulation::note_access(uintptr_t(to), bytes, true, false, EMULATION_CODE);
  return memset(to, value, bytes);
}
}

#endif
