// Kernels that do as CUDA allows; tests/test_emulation.py runs them under several seeds.

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

__device__ __forceinline__ int thread_of_block() {
  return threadIdx.y * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int threads_of_block() { return blockDim.x * blockDim.y; }

__device__ __forceinline__ int64_t thread_of_grid() {
  return int64_t(blockIdx.x) * threads_of_block() + thread_of_block();
}

// Of a warp, in every lane.
template <typename T> __device__ T sum_of_warp(T value) {
#pragma unroll
  for (int apart = 16; apart; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
  return value;
}

// Of a block, in thread 0.
template <typename T> __device__ T sum_of_block(T value) {
  __shared__ T sums[32];
  value = sum_of_warp(value);
  const int warp = thread_of_block() / 32, warps = threads_of_block() / 32;
  __syncthreads();
  if (thread_of_block() % 32 == 0) sums[warp] = value;
  __syncthreads();
  if (warp == 0) value = sum_of_warp(thread_of_block() < warps ? sums[thread_of_block()] : T(0));
  return value;
}

}  // namespace rnncc

using namespace rnncc;

RNNCC_KERNEL(1024) block_sum(rnncc::Args a) {
  const io sum = sum_of_block(a.x[thread_of_grid()]);
  if (thread_of_block() == 0) a.y[blockIdx.x] = sum;
}

// y = x added up within each block, up to and with each thread.
RNNCC_KERNEL(1024) block_scan(rnncc::Args a) {
  io* const row = reinterpret_cast<io*>(rnncc_shared);
  const int thread = thread_of_block();
  io value = a.x[thread_of_grid()];
  for (int apart = 1; apart < threads_of_block(); apart *= 2) {
    row[thread] = value;
    __syncthreads();
    if (thread >= apart) value += row[thread - apart];
    __syncthreads();
  }
  a.y[thread_of_grid()] = value;
}

RNNCC_KERNEL(1024) grid_extremes(rnncc::Args a) {
  const int64_t i = thread_of_grid();
  if (i >= a.count) return;
  atomicMax(a.bits, (unsigned long long)(__double_as_longlong(fabs(double(a.x[i])))));
  atomicMin(a.marks, int(i) - 100);
  atomicAdd(a.marks + 1, 1);
  atomicOr(a.marks + 2, 1 << (i % 31));
}

RNNCC_KERNEL(1024) votes(rnncc::Args a) {
  const int64_t i = thread_of_grid();
  const bool mine = a.x[i] > 0;
  int* const to = a.marks + 6 * i;
  to[0] = int(__ballot_sync(0xffffffffu, mine));
  to[1] = __any_sync(0xffffffffu, mine);
  to[2] = __all_sync(0xffffffffu, mine);
  to[3] = __syncthreads_count(mine);
  to[4] = __syncthreads_or(mine);
  to[5] = __syncthreads_and(mine);
}

// In groups of `count` lanes.
RNNCC_KERNEL(1024) shuffles(rnncc::Args a) {
  const int64_t i = thread_of_grid();
  const int lane = thread_of_block() % 32, width = int(a.count);
  int* const to = a.marks + 5 * i;
  to[0] = __shfl_sync(0xffffffffu, lane, lane * 7 + 3, width);
  to[1] = __shfl_up_sync(0xffffffffu, lane, 3, width);
  to[2] = int(__shfl_down_sync(0xffffffffu, (long long)(lane), 3, width));
  to[3] = int(__shfl_xor_sync(0xffffffffu, double(lane), 5, width));
  to[4] = int(__shfl_sync(0xffffffffu, float(lane), 0));
}

// The halves of a warp go their own ways and meet again.
RNNCC_KERNEL(1024) halves(rnncc::Args a) {
  const int lane = thread_of_block() % 32;
  int sum = lane;
  if (lane < 16) {
    for (int apart = 8; apart; apart /= 2) sum += __shfl_xor_sync(0x0000ffffu, sum, apart);
  } else {
    for (int apart = 1; apart < 16; apart *= 2) sum += __shfl_xor_sync(0xffff0000u, sum, apart);
    sum = __shfl_sync(0xffff0000u, sum, 16);
  }
  a.marks[thread_of_grid()] = __shfl_xor_sync(0xffffffffu, sum, 16);
}

// Lanes exchange through memory, a warp at a time.
RNNCC_KERNEL(1024) neighbours(rnncc::Args a) {
  __shared__ io rows[1024];
  io* const row = rows + thread_of_block() / 32 * 32;
  const int lane = thread_of_block() % 32;
  io value = a.x[thread_of_grid()];
  for (int turn = 0; turn < 3; ++turn) {
    row[lane] = value;
    __syncwarp();
    value = row[(lane + 1) % 32];
    __syncwarp();
  }
  a.y[thread_of_grid()] = value;
}

// Each block writes its sum; the one that ends last adds them up in their order.
RNNCC_KERNEL(1024) grid_sum(rnncc::Args a) {
  __shared__ bool last;
  const io sum = sum_of_block(a.x[thread_of_grid()]);
  if (thread_of_block() == 0) {
    a.y[1 + blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(a.marks, 1) == int(gridDim.x) - 1;
  }
  __syncthreads();
  if (!last || thread_of_block()) return;
  io total = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) total += a.y[1 + i];
  a.y[0] = total;
}

// Every thread of the grid writes the same.
RNNCC_KERNEL(1024) same_value(rnncc::Args a) {
  a.marks[0] = 7;
  a.bits[0] = (unsigned long long)(a.count);
}

// How often the bits of a thread's own copy of its argument are seen to change.
RNNCC_KERNEL(1024) own_arguments(rnncc::Args a) {
  const int64_t before = a.count;
  a.count += thread_of_block();
  __syncthreads();
  a.marks[thread_of_grid()] = a.count != before + thread_of_block();
}

RNNCC_KERNEL(64) at_most_64_threads(rnncc::Args a) {
  if (thread_of_grid() == 0) a.marks[0] = 1;
}

// Functions of CUDA that have no other host form.
RNNCC_KERNEL(32) hardware_functions(rnncc::Args a) {
  const float x = float(a.x[threadIdx.x]);
  if (threadIdx.x == 0) {
    a.y[0] = io(__fdividef(x, 0x1.8p126f));
    a.y[1] = io(__expf(x));
    a.y[2] = io(__frcp_rn(x));
    a.y[3] = io(__fmaf_rn(x, x, 1.0f));
    a.y[4] = io(rsqrtf(x));
    a.y[5] = io(max(x, 2.0f));
    a.y[6] = io(x * 0x1p-140f * 0x1p100f * 0x1p40f);  // 0 where subnormals become 0
    a.y[7] = io(__uint_as_float(__float_as_uint(x)));
  }
}
