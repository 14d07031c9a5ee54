// Runs kernels: blocks one after another, the threads of a block as fibers. A thread runs until it has
// to wait for others; the seed decides which one continues.

#define _XOPEN_SOURCE 700          // ucontext on macOS
#define _DARWIN_C_SOURCE

#include "copies.h"
#include "schedule.h"
#include "signals.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {

// ---- barriers of the block ---------------------------------------------------------------------

static const Thread& gone_thread() {
  int i = 0;
  while (threads[i].state != State::gone) ++i;
  return threads[i];
}

constexpr const char* kOneBarrier = "Expected: all threads of a block come to the same barriers";

static void check_barrier(const Thread& self, Kind kind, int line) {
  if (block.gone)
    fail(self, "waits at %s (kernel.cu:%d), but thread %s has exited.\n%s", name_of(kind), line,
         name_of(gone_thread()).text, kOneBarrier);
  const Thread& first = threads[block.first];
  const Meeting& meeting = first.meeting;
  if (block.waiting && (meeting.kind != kind || meeting.line != line))
    fail(self, "waits at %s (kernel.cu:%d), but thread %s waits at %s (kernel.cu:%d).\n%s",
         name_of(kind), line, name_of(first).text, name_of(meeting.kind), meeting.line,
         kOneBarrier);
}

static int result_of(Kind kind) {
  if (kind == Kind::syncthreads_and) return block.votes == block.size;
  return kind == Kind::syncthreads_or ? block.votes > 0 : block.votes;
}

int meet_block(Kind kind, int line, int vote) {
  Thread& self = *current;
  check_barrier(self, kind, line);
  self.meeting = {kind, line, 0, 0, 0};
  self.state = State::at_block;
  if (!block.waiting++) block.first = self.number, block.votes = 0;
  block.votes += vote != 0;
  if (block.waiting == block.size) {
    block.result = result_of(kind);
    block.waiting = 0;
    order_block();
    draw_manner();
    for (int i = 0; i < block.size; ++i) make_ready(threads[i]);
  }
  wait();
  return block.result;
}

// ---- votes and shuffles of a warp --------------------------------------------------------------

static Thread& at_lane(const Thread& self, int lane) {
  return threads[self.warp() * kLanes + lane];
}

[[noreturn]] static void fail_lane(const Thread& self, int lane, const char* what) {
  const Meeting& meeting = self.meeting;
  fail(self, "calls %s (kernel.cu:%d) with mask 0x%08x, %s lane %d%s.\n"
       "Expected: each lane of the mask makes this call, with this mask",
       name_of(meeting.kind), meeting.line, meeting.mask,
       meeting.mask >> lane & 1 ? "which names" : "which leaves out", lane, what);
}

// Where another lane waits instead.
[[noreturn]] static void fail_elsewhere(const Thread& self, const Thread& other) {
  char what[256];
  const Meeting& meeting = other.meeting;
  const int written = snprintf(what, sizeof what, ", but that waits at %s (kernel.cu:%d)",
                               name_of(meeting.kind), meeting.line);
  if (!is_for_block(meeting.kind))
    snprintf(what + written, sizeof what - size_t(written), " with mask 0x%08x", meeting.mask);
  fail_lane(self, other.lane(), what);
}

static void check_meeting(const Thread& self, const Warp& warp) {
  const Meeting& meeting = self.meeting;
  if (!(meeting.mask & self.bit())) fail_lane(self, self.lane(), ", the caller's own");
  if (const unsigned beyond = meeting.mask & ~warp.lanes)
    fail_lane(self, __builtin_ctz(beyond), ", but the block has no thread there");
  if (const unsigned gone = meeting.mask & warp.gone)
    fail_lane(self, __builtin_ctz(gone), ", but that thread has exited");
  const int width = meeting.width;
  if (width < 1 || width > kLanes || width & (width - 1))
    fail(self, "calls %s (kernel.cu:%d) with width %d.\nExpected: 1, 2, 4, 8, 16 or 32",
         name_of(meeting.kind), meeting.line, width);
}

// The lanes that the caller meets; two that wait for each other in different places never will.
static Gathering& join_gathering(Thread& self, Warp& warp) {
  const Meeting& meeting = self.meeting;
  for (int i = 0; i < warp.open; ++i) {
    Gathering& other = warp.gatherings[i];
    if (other.kind == meeting.kind && other.line == meeting.line && other.mask == meeting.mask)
      return other;
    if (const unsigned both = other.mask & self.bit() ? other.arrived & meeting.mask : 0)
      fail_elsewhere(self, at_lane(self, __builtin_ctz(both)));
  }
  return warp.gatherings[warp.open++] = {meeting.kind, meeting.line, meeting.mask, 0};
}

// The lane whose value a shuffle gives.
static int source_of(const Thread& thread) {
  const Meeting& meeting = thread.meeting;
  const int lane = thread.lane(), first = lane & ~(meeting.width - 1);
  const int last = first + meeting.width - 1;
  int source = lane;
  if (meeting.kind == Kind::shuffle) return first | (meeting.offset & (meeting.width - 1));
  if (meeting.kind == Kind::shuffle_xor) source = lane ^ meeting.offset;
  else if (meeting.offset < 0 || meeting.offset >= kLanes) return lane;
  else source += meeting.kind == Kind::shuffle_up ? -meeting.offset : meeting.offset;
  const bool beyond = meeting.kind == Kind::shuffle_up ? source < first : source > last;
  return beyond ? lane : source;
}

static unsigned long long result_of(const Thread& thread, const Gathering& gathering,
                                    unsigned votes) {
  switch (gathering.kind) {
    case Kind::syncwarp: return 0;
    case Kind::ballot: return votes;
    case Kind::any: return votes != 0;
    case Kind::all: return votes == gathering.mask;
    default: break;
  }
  const int source = source_of(thread);
  if (source < 0 || source >= kLanes || !(gathering.mask >> source & 1))
    fail(thread, "reads from lane %d by %s (kernel.cu:%d), whose mask 0x%08x leaves that out.\n"
         "Expected: a lane of the mask", source, name_of(gathering.kind), gathering.line,
         gathering.mask);
  return at_lane(thread, source).value;
}

static void complete(const Thread& self, Warp& warp, Gathering& open) {
  const Gathering gathering = open;
  open = warp.gatherings[--warp.open];
  unsigned votes = 0;
  for (unsigned rest = gathering.mask; rest; rest &= rest - 1)
    votes |= unsigned(at_lane(self, __builtin_ctz(rest)).value & 1) << __builtin_ctz(rest);
  for (unsigned rest = gathering.mask; rest; rest &= rest - 1) {
    Thread& thread = at_lane(self, __builtin_ctz(rest));
    thread.result = result_of(thread, gathering, votes);
    make_ready(thread);
  }
  if (gathering.kind == Kind::syncwarp) order_warp(self.warp(), gathering.mask);
}

unsigned long long meet_warp(const Meeting& meeting, unsigned long long value) {
  Thread& self = *current;
  Warp& warp = warps[self.warp()];
  self.meeting = meeting;
  self.value = value;
  check_meeting(self, warp);
  Gathering& gathering = join_gathering(self, warp);
  gathering.arrived |= self.bit();
  self.state = State::at_warp;
  if (gathering.arrived == gathering.mask) complete(self, warp, gathering);
  wait();
  return self.result;
}

// Deadlock: some lanes wait for others that wait elsewhere.
static void fail_stuck() {
  for (const Warp& warp : warps) {
    if (!warp.lanes || !warp.open) continue;
    const Gathering& gathering = warp.gatherings[0];
    const Thread* const lanes = threads + (&warp - warps) * kLanes;
    fail_elsewhere(lanes[__builtin_ctz(gathering.arrived)],
                   lanes[__builtin_ctz(gathering.mask & ~gathering.arrived)]);
  }
  abort();                         // waiting at a barrier beside threads that are gone fails at once
}

static void end_thread(Thread& self) {
  Warp& warp = warps[self.warp()];
  settle_writes();
  copies_of_the_end(self);
  self.state = State::gone;
  warp.gone |= self.bit();
  ++block.gone;
  if (block.waiting) {
    const Thread& first = threads[block.first];
    fail(self, "has exited, but thread %s waits at %s (kernel.cu:%d).\n%s", name_of(first).text,
         name_of(first.meeting.kind), first.meeting.line, kOneBarrier);
  }
  for (int i = 0; i < warp.open; ++i)
    if (warp.gatherings[i].mask & self.bit())
      fail_lane(at_lane(self, __builtin_ctz(warp.gatherings[i].arrived)), self.lane(),
                ", but that thread has exited");
}

// ---- atomics -----------------------------------------------------------------------------------

void before_atomic(const void* address, int bytes, int line) {
  make_ready(*current);
  wait();
  note_atomic(address, bytes, line);
}

void fence() { note_fence(); }

// ---- launches ----------------------------------------------------------------------------------

// While it lives, operands and results below the smallest normal number become 0, as with -ftz=true;
// those of doubles too, which a GPU keeps.
struct Flush {
  explicit Flush(bool on) {
#if defined(__x86_64__)
    before = __builtin_ia32_stmxcsr();
    if (on) __builtin_ia32_ldmxcsr(before | 0x8040);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(before));
    if (on) asm volatile("msr fpcr, %0" : : "r"(before | 1ull << 24));
#else
    (void)on;
#endif
  }
  ~Flush() {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(before);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(before));
#endif
  }
#if defined(__x86_64__)
  unsigned before;
#else
  unsigned long long before;
#endif
};

static void start_threads() {
  block = {int(blockDim.x * blockDim.y * blockDim.z), 0, 0, 0, 0, 0};
  ready_warps = 0;
  forget_copies();
  for (Warp& warp : warps) warp.lanes = warp.ready = warp.gone = 0, warp.open = 0;
  for (int i = 0; i < block.size; ++i) {
    Thread& thread = threads[i];
    const unsigned row = unsigned(i) / blockDim.x;
    thread.index = {unsigned(i) % blockDim.x, row % blockDim.y, row / blockDim.y};
    thread.number = i;
    thread.fiber = nullptr;
    warps[thread.warp()].lanes |= thread.bit();
    make_ready(thread);
  }
  draw_manner();
}

static void run_block(uint32_t serial) {
  launch.serial = serial;
  blockIdx = {launch.order[serial], 0, 0};
  spoil_shared();
  races_of_block();
  start_threads();
  go_on_with(choose());
}

static uint32_t* shuffled(uint32_t count) {
  uint32_t* order = static_cast<uint32_t*>(malloc(count * sizeof *order));
  if (!order) abort();
  for (uint32_t i = 0; i < count; ++i) order[i] = i;
  for (uint32_t i = count; i > 1; --i) {
    const uint32_t j = draw() % i, kept = order[i - 1];
    order[i - 1] = order[j];
    order[j] = kept;
  }
  return order;
}

static void run_blocks(bool flush) {
  const Flush flushing(flush);
  running = &host;
  for (uint32_t i = 0; i < gridDim.x && !*fault; ++i) run_block(i);
  current = nullptr;
  running = nullptr;
  if (*fault) renew_fibers();
}

// ---- called from Python ------------------------------------------------------------------------

struct Request {
  const void* argument;
  uint64_t seed, shared;
  uint32_t grid, block_x, block_y;
  int32_t kernel, flush, seconds;
};

static Kernel kernels[256];
static int kernel_count;

void add_kernel(const Kernel& kernel) {
  if (kernel_count == int(sizeof kernels / sizeof *kernels)) abort();
  kernels[kernel_count++] = kernel;
}

}  // namespace emulation

#define EMULATION_EXPORT extern "C" __attribute__((visibility("default")))

EMULATION_EXPORT int emulation_kernels() { return emulation::kernel_count; }

EMULATION_EXPORT const char* emulation_name(int kernel) { return emulation::kernels[kernel].name; }

EMULATION_EXPORT int emulation_threads(int kernel) { return emulation::kernels[kernel].threads; }

EMULATION_EXPORT size_t emulation_argument_bytes(int kernel) {
  return emulation::kernels[kernel].argument_bytes;
}

EMULATION_EXPORT void emulation_release() { emulation::release_fibers(); }

EMULATION_EXPORT size_t emulation_static_bytes() { return emulation::static_bytes(); }

// The fault, or null. One launch at a time.
EMULATION_EXPORT const char* emulation_launch(const emulation::Request* request) {
  using namespace emulation;
  const Kernel* const kernel = &kernels[request->kernel];
  void* const argument = malloc(kernel->argument_bytes);
  if (!argument) abort();
  memcpy(argument, request->argument, kernel->argument_bytes);
  seed_chance(request->seed);
  uint32_t* const order = shuffled(request->grid);
  launch = {kernel, argument, request->shared, request->seconds, order, 0};
  gridDim = {request->grid, 1, 1};
  blockDim = {request->block_x, request->block_y, 1};
  *fault = 0;
  get_dynamic();
  races_of_launch();
  watch_signals();
  run_blocks(request->flush);
  unwatch_signals();
  drop_dynamic();
  free(order);
  free(argument);
  return *fault ? fault : nullptr;
}
