// The scheduler: picks the next thread of the block; threads are fibers.
#pragma once

#include "races.h"

namespace emulation {

// ---- the next thread ---------------------------------------------------------------------------

static unsigned ready_warps;
static int favourite;              // a warp
static bool stays;                 // with its favourite, until that has to wait

static void make_ready(Thread& thread) {
  thread.state = State::ready;
  warps[thread.warp()].ready |= thread.bit();
  ready_warps |= 1u << thread.warp();
}

[[noreturn]] static void fail_stuck();

// The thread that continues, now the current one.
static Thread& choose() {
  if (!ready_warps) fail_stuck();
  if (!stays || !(ready_warps >> favourite & 1)) favourite = draw_bit(ready_warps);
  Warp& warp = warps[favourite];
  const int lane = draw_bit(warp.ready);
  warp.ready &= ~(1u << lane);
  if (!warp.ready) ready_warps &= ~(1u << favourite);
  current = &threads[favourite * kLanes + lane];
  threadIdx = current->index;
  return *current;
}

// After each barrier: warps one by one, or all mixed.
static void draw_manner() { stays = draw() % 4 != 0; }

// ---- fibers that run threads -------------------------------------------------------------------
// One that has ended a thread starts the next by itself, so a kernel whose threads never wait takes
// one fiber and no switch.

static Fiber fibers[kMostStacks];
static Fiber* idle[kMostStacks];
static int fibers_made, idle_count;

static void work();

static Fiber* idle_fiber() {
  if (idle_count) return idle[--idle_count];
  Fiber& fiber = fibers[fibers_made];
  place_stack(fiber, fibers_made++);
  prepare(fiber, work);
  return &fiber;
}

static void go_on_with(Thread& thread) {
  if (!thread.fiber) thread.fiber = idle_fiber();
  switch_to(*thread.fiber);
}

// The current thread's state says what it waits for.
static void wait() {
  Thread& self = *current;
  settle_writes();
  Thread& next = choose();
  if (&next != &self) go_on_with(next);
}

static void end_thread(Thread& self);

static void work() {
  arrive();
  for (;;) {
    launch.kernel->run(launch.argument);
    end_thread(*current);
    Fiber* const self = running;
    Thread* const next = block.gone < block.size ? &choose() : nullptr;
    if (next && !next->fiber) {
      next->fiber = self;
      continue;
    }
    idle[idle_count++] = self;
    switch_to(next ? *next->fiber : host);
  }
}

// After a fault: their stacks are discarded.
static void renew_fibers() {
  for (int i = 0; i < fibers_made; ++i) {
#ifdef EMULATION_SANITIZE
    __asan_unpoison_memory_region(fibers[i].bottom, fibers[i].bytes);
    fibers[i].shadow = nullptr;
#endif
    prepare(fibers[i], work);
    idle[i] = &fibers[i];
  }
  idle_count = fibers_made;
}

// Between launches. Each guarded stack takes two of the mappings that a process may have.
static void release_fibers() {
#ifndef EMULATION_SANITIZE
  if (stacks) munmap(stacks, kMostStacks * kStackBytes);
  stacks = nullptr;
  fibers_made = idle_count = 0;
#endif
}

}  // namespace emulation
