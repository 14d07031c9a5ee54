// Fibers: stacks that the processor runs in turn, each until it hands over to another by itself.
// On x86-64 a switch saves six registers and the stack pointer; elsewhere the system's ucontext does it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__) && !defined(EMULATION_UCONTEXT)
#define EMULATION_SWITCH_BY_HAND
#else
#include <ucontext.h>
#endif

#ifdef EMULATION_SANITIZE
extern "C" void __sanitizer_start_switch_fiber(void**, const void*, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
extern "C" void __asan_unpoison_memory_region(const void volatile*, size_t);
#endif

namespace emulation {

struct Fiber {
  const void* bottom;              // of its stack; known of the first fiber once another has run
  size_t bytes;
#ifdef EMULATION_SWITCH_BY_HAND
  void** saved;                    // stack pointer, with the saved registers above
#else
  ucontext_t saved;
#endif
  void* shadow;                    // AddressSanitizer's own stack of this fiber
};

static Fiber* running;             // null outside of launches

// Runs `next` until something switches back to the fiber that called this.
static void switch_to(Fiber& next);

// Makes the fiber start at `entry`, which never returns, when it is switched to.
static void prepare(Fiber& fiber, void (*entry)());

// The first call of `entry`.
static void arrive();

// ---- how ---------------------------------------------------------------------------------------

static Fiber* left;                // the fiber that ran before

#ifdef EMULATION_SWITCH_BY_HAND

#ifdef __APPLE__
#define EMULATION_SYMBOL "_emulation_switch"
#else
#define EMULATION_SYMBOL "emulation_switch"
#endif
// void emulation_switch(void*** save, void** load): all that a called function must preserve.
asm(".text\n" EMULATION_SYMBOL ":\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");
extern "C" void emulation_switch(void*** save, void** load);

static void change_stack(Fiber& from, Fiber& to) { emulation_switch(&from.saved, to.saved); }

static void prepare(Fiber& fiber, void (*entry)()) {
  void** top = (void**)((char*)fiber.bottom + fiber.bytes);
  *--top = nullptr;                // where entry would return to; aligns the stack as a call does
  *--top = (void*)entry;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.saved = top;
}

#else

static void change_stack(Fiber& from, Fiber& to) { swapcontext(&from.saved, &to.saved); }

static void prepare(Fiber& fiber, void (*entry)()) {
  getcontext(&fiber.saved);
  fiber.saved.uc_stack.ss_sp = const_cast<void*>(fiber.bottom);
  fiber.saved.uc_stack.ss_size = fiber.bytes;
  fiber.saved.uc_link = nullptr;
  makecontext(&fiber.saved, entry, 0);
}

#endif

static void arrive() {
#ifdef EMULATION_SANITIZE
  __sanitizer_finish_switch_fiber(running->shadow, &left->bottom, &left->bytes);
#endif
}

static void switch_to(Fiber& next) {
  Fiber& self = *running;
  left = &self;
  running = &next;
#ifdef EMULATION_SANITIZE
  __sanitizer_start_switch_fiber(&self.shadow, next.bottom, next.bytes);
#endif
  change_stack(self, next);
  arrive();
}

// ---- stacks ------------------------------------------------------------------------------------
// In one stretch of addresses, from its end, each above a page that must not be touched; nor must those
// not in use. Memory is taken as it is used. Their tops are staggered, or all would fall into the
// same few sets of the cache.

constexpr size_t kStackBytes = size_t(256) << 10;
constexpr int kMostStacks = 1024;

static char* stacks;

static size_t page_bytes() {
  static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
  return bytes;
}

static char* reserve(size_t bytes, int access = PROT_READ | PROT_WRITE) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* memory = mmap(nullptr, bytes, access, flags, -1, 0);
  if (memory == MAP_FAILED) abort();
  return static_cast<char*>(memory);
}

static void place_stack(Fiber& fiber, int number) {
  if (!stacks) stacks = reserve(kMostStacks * kStackBytes, PROT_NONE);
  char* const start = stacks + (kMostStacks - 1 - number) * kStackBytes;
  mprotect(start + page_bytes(), kStackBytes - page_bytes(), PROT_READ | PROT_WRITE);
  fiber.bottom = start + page_bytes();
  fiber.bytes = kStackBytes - page_bytes() - size_t(number) * 320 % 16384;
}

static bool is_on_stacks(const void* address) {
  return stacks && size_t((const char*)address - stacks) < kMostStacks * kStackBytes;
}

}  // namespace emulation
