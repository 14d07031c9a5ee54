// Kernels with one fault each; tests/test_emulation.py shows that it is found.

#define RNNCC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

namespace rnncc {

typedef long long int64_t;
typedef RNNCC_IO io;

struct Args {
  const io* x;
  io* y;
  int* marks;
  unsigned long long* bits;
  int64_t count;
};

extern __shared__ __align__(16) unsigned char rnncc_shared[];
__shared__ io kept[64];

constexpr unsigned kAll = 0xffffffffu;

}  // namespace rnncc

using namespace rnncc;

// ---- barriers --------------------------------------------------------------------------------------

RNNCC_KERNEL(256) barrier_in_a_branch(rnncc::Args a) {
  if (threadIdx.x != 7) __syncthreads();
  a.marks[threadIdx.x] = 1;
}

RNNCC_KERNEL(256) exit_before_a_barrier(rnncc::Args a) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  a.marks[threadIdx.x] = 1;
}

RNNCC_KERNEL(256) two_barriers(rnncc::Args a) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads_or(1);
  a.marks[threadIdx.x] = 1;
}

// ---- votes and shuffles ----------------------------------------------------------------------------

RNNCC_KERNEL(256) shuffle_after_an_exit(rnncc::Args a) {
  if (threadIdx.x == 5) return;
  a.marks[threadIdx.x] = __shfl_sync(kAll, threadIdx.x, 0);
}

RNNCC_KERNEL(256) shuffle_against_a_barrier(rnncc::Args a) {
  if (threadIdx.x == 3) __syncthreads();
  a.marks[threadIdx.x] = __shfl_xor_sync(kAll, threadIdx.x, 1);
  if (threadIdx.x != 3) __syncthreads();
}

RNNCC_KERNEL(256) shuffle_against_a_vote(rnncc::Args a) {
  if (threadIdx.x == 3) a.marks[3] = __any_sync(kAll, 1);
  else a.marks[threadIdx.x] = __shfl_down_sync(kAll, threadIdx.x, 1);
}

RNNCC_KERNEL(256) mask_without_the_caller(rnncc::Args a) {
  a.marks[threadIdx.x] = __shfl_sync(0x7fffffffu, threadIdx.x, 0);
}

RNNCC_KERNEL(256) different_masks(rnncc::Args a) {
  const unsigned mask = threadIdx.x < 16 ? kAll : 0xffff0001u;
  a.marks[threadIdx.x] = int(__ballot_sync(mask, 1));
}

RNNCC_KERNEL(256) lane_outside_of_the_mask(rnncc::Args a) {
  if (threadIdx.x < 16) a.marks[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 20);
}

RNNCC_KERNEL(256) lanes_beyond_the_block(rnncc::Args a) {
  a.marks[threadIdx.x] = __shfl_sync(kAll, threadIdx.x, 0);
}

RNNCC_KERNEL(256) odd_width(rnncc::Args a) {
  a.marks[threadIdx.x] = __shfl_sync(kAll, threadIdx.x, 0, 5);
}

// Lane 0 waits for 1, 1 for 2 and 2 for 0.
RNNCC_KERNEL(256) ring(rnncc::Args a) {
  if (threadIdx.x == 0) __syncwarp(0x3u);
  if (threadIdx.x == 1) __syncwarp(0x6u);
  if (threadIdx.x == 2) __syncwarp(0x5u);
  a.marks[threadIdx.x] = 1;
}

// ---- the order of threads --------------------------------------------------------------------------

RNNCC_KERNEL(256) missing_barrier(rnncc::Args a) {
  io* const row = reinterpret_cast<io*>(rnncc_shared);
  row[threadIdx.x] = a.x[threadIdx.x];
  a.y[threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}

// The barrier after the read is missing: the next turn's write may come first.
RNNCC_KERNEL(256) missing_second_barrier(rnncc::Args a) {
  io* const row = reinterpret_cast<io*>(rnncc_shared);
  io value = a.x[threadIdx.x];
  for (int turn = 0; turn < 4; ++turn) {
    row[threadIdx.x] = value;
    __syncthreads();
    value = row[(threadIdx.x + 1) % blockDim.x];
  }
  a.y[threadIdx.x] = value;
}

// Whole under any order of threads that each run to the end: only the race detector sees it.
RNNCC_KERNEL(256) lost_update(rnncc::Args a) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  total += 1;
  __syncthreads();
  if (threadIdx.x == 0) a.marks[0] = total;
}

// A shuffle does not order memory.
RNNCC_KERNEL(256) missing_syncwarp(rnncc::Args a) {
  kept[threadIdx.x] = a.x[threadIdx.x];
  const int other = __shfl_xor_sync(kAll, threadIdx.x, 1);
  a.y[threadIdx.x] = kept[other];
}

RNNCC_KERNEL(256) blocks_add_to_one_place(rnncc::Args a) {
  if (threadIdx.x == 0) a.y[0] += a.x[blockIdx.x];
}

RNNCC_KERNEL(256) different_values(rnncc::Args a) { a.marks[0] = threadIdx.x == 63; }

RNNCC_KERNEL(256) missing_fence(rnncc::Args a) {
  if (threadIdx.x) return;
  a.y[1 + blockIdx.x] = a.x[blockIdx.x];
  if (atomicAdd(a.marks, 1) != int(gridDim.x) - 1) return;
  io total = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) total += a.y[1 + i];
  a.y[0] = total;
}

RNNCC_KERNEL(256) atomic_and_plain(rnncc::Args a) {
  if (threadIdx.x == 0) a.marks[0] = 5;
  else atomicAdd(a.marks, 1);
}

RNNCC_KERNEL(256) sum_in_any_order(rnncc::Args a) {
  atomicAdd(a.y, a.x[blockIdx.x * blockDim.x + threadIdx.x]);
}

RNNCC_KERNEL(256) local_variable_of_another(rnncc::Args a) {
  __shared__ volatile io* place;
  volatile io mine = a.x[threadIdx.x];
  if (threadIdx.x == 0) place = &mine;
  __syncthreads();
  a.y[threadIdx.x] = *place;
  __syncthreads();
}

// ---- memory ----------------------------------------------------------------------------------------

RNNCC_KERNEL(256) shared_never_written(rnncc::Args a) {
  io* const row = reinterpret_cast<io*>(rnncc_shared);
  a.y[threadIdx.x] = threadIdx.x ? row[threadIdx.x] : kept[threadIdx.x];
}

RNNCC_KERNEL(256) left_by_another_block(rnncc::Args a) {
  if (blockIdx.x == 0) kept[threadIdx.x] = 1;
  __syncthreads();
  a.y[blockIdx.x * blockDim.x + threadIdx.x] = kept[threadIdx.x];
}

RNNCC_KERNEL(256) beyond_global(rnncc::Args a) {
  a.y[threadIdx.x] = a.x[a.count + threadIdx.x];
}

RNNCC_KERNEL(256) beyond_dynamic(rnncc::Args a) {
  io* const row = reinterpret_cast<io*>(rnncc_shared);
  row[threadIdx.x + 1] = a.x[threadIdx.x];
  a.y[threadIdx.x] = row[threadIdx.x + 1];
}

RNNCC_KERNEL(256) beyond_static(rnncc::Args a) {
  io* const row = kept + a.count;
  row[threadIdx.x] = a.x[threadIdx.x];
  a.y[threadIdx.x] = row[threadIdx.x];
}

RNNCC_KERNEL(256) unaligned(rnncc::Args a) {
  a.y[threadIdx.x] = reinterpret_cast<const float4*>(a.x + 1)->w;
}

RNNCC_KERNEL(256) no_memory_there(rnncc::Args a) {
  a.y[threadIdx.x] = *reinterpret_cast<const io*>(a.count);
}

RNNCC_KERNEL(256) too_many_locals(rnncc::Args a) {
  volatile io row[100000];
  for (int i = 0; i < 100000; ++i) row[i] = a.x[threadIdx.x];
  a.y[threadIdx.x] = row[a.count];
}

RNNCC_KERNEL(256) division_by_zero(rnncc::Args a) {
  a.marks[threadIdx.x] = int(100 / (a.count - a.count * blockDim.x));
}

// ---- no end ----------------------------------------------------------------------------------------

RNNCC_KERNEL(256) waits_for_a_later_block(rnncc::Args a) {
  if (blockIdx.x == 1) atomicAdd(a.marks, 1);
  while (atomicAdd(a.marks, 0) == 0) {}
}

RNNCC_KERNEL(256) endless(rnncc::Args a) {
  while (*static_cast<volatile int*>(a.marks) == 0) {}
}
