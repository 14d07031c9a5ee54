// The interface between a kernel and the machine that runs it: the border between cuda.h,
// compiled with the kernels, and machine.cpp, compiled by itself. No #include, because kernels must not
// see more names than NVRTC gives them.
#pragma once

#pragma GCC visibility push(hidden)

struct uint3 { unsigned x, y, z; };

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulation {

// Where a thread can wait for others. The first four are for the whole block, the rest for a warp.
enum class Kind {
  syncthreads, syncthreads_and, syncthreads_or, syncthreads_count,
  syncwarp, ballot, any, all, shuffle, shuffle_up, shuffle_down, shuffle_xor,
};

struct Meeting {
  Kind kind;
  int line;            // of kernel.cu
  unsigned mask;       // of lanes; unused for a block
  int offset, width;   // of shuffles
};

// Waits for all threads of the block; what the votes of all of them give.
int meet_block(Kind kind, int line, int vote);

// Waits for the lanes of the mask; the vote's result, or the value of the lane that a shuffle reads.
unsigned long long meet_warp(const Meeting& meeting, unsigned long long value);

// Lets other threads come first, then tells the race detector.
void before_atomic(const void* address, int bytes, int line);

void fence();

// Asynchronous copies of the current thread: see copies.h.
void add_copy(void* to, const void* from, unsigned bytes, int line);
void commit_copies();
bool take_copy(unsigned newest, void** to, const void** from, unsigned* bytes);

extern unsigned char* dynamic_shared;

struct Kernel {
  const char* name;
  int threads;                     // its __launch_bounds__
  unsigned long argument_bytes;
  void (*run)(const void* argument);
};

void add_kernel(const Kernel& kernel);

template <auto function> struct Entry;

template <typename Argument, void (*function)(Argument)> struct Entry<function> {
  static void run(const void* argument) { function(*static_cast<const Argument*>(argument)); }
  static constexpr Kernel named(const char* name, int threads) {
    return {name, threads, sizeof(Argument), run};
  }
};

}  // namespace emulation

// Stands before the definition of each kernel that the compiler sees.
#define EMULATION_KERNEL(name, threads)                                                          \
  __attribute__((constructor)) static void add_##name() {                                        \
    emulation::add_kernel(emulation::Entry<name>::named(#name, threads));                        \
  }

#pragma GCC visibility pop
