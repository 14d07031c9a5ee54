// Sums in a fixed order.
#pragma once

#include "rnncc/cuda/back_segments.h"

namespace rnncc {

RNNCC_FN int64_t thread_of_grid() {
  return (int64_t(blockIdx.x) * blockDim.y + threadIdx.y) * kWarp + threadIdx.x;
}

// Of all segments of a sequence.
RNNCC_FN void reduce_starts(const Args& a) {
  if (not_by_segments(a)) return;
  Run r;
  r.place(a, a.batch, a.columns);
  r.sequence = r.index;
  real sum[Cell::kStates] = {}, one[Cell::kStates];
  for (int64_t run = first_run(a, r.sequence); run < first_run(a, r.sequence + 1); ++run) {
    load_run(a, r, run, Cell::kStates, a.initials, one);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) sum[s] += one[s];
  }
  store_states(a, r, sum, a.dh0);
}

// Over all runs, one block for each param and each 32 groups: a warp takes every n-th run of n
// warps, and the warps' sums are added up in their order.
RNNCC_FN void reduce_params(const Args& a) {
  double* const sums = reinterpret_cast<double*>(rnncc_shared);
  const int64_t runs = not_by_segments(a) ? a.batch : first_run(a, a.batch);
  const int64_t across = (a.groups + kWarp - 1) / kWarp;
  const int64_t k = blockIdx.x / across, group = blockIdx.x % across * kWarp + threadIdx.x;
  double sum = 0;
  for (int64_t run = threadIdx.y; group < a.groups && run < runs; run += blockDim.y)
    sum += a.param_sums[(run * Cell::kParams + k) * a.groups + group];
  sums[threadIdx.y * kWarp + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || group >= a.groups) return;
  for (int i = 1; i < int(blockDim.y); ++i) sum += sums[i * kWarp + threadIdx.x];
  const Slot slot = Cell::params[k];
  if (slot.stride) a.dparams[slot.tensor][slot.offset + group * slot.stride] = real(sum);
  else a.param_sums[k * a.groups + group] = sum;  // no other thread reads this place
}

// Over the groups too, for a param that all channels share: one warp each.
RNNCC_FN void reduce_shared_params(const Args& a) {
  const int64_t k = blockIdx.x;
  const Slot slot = Cell::params[k];
  if (slot.stride) return;
  double sum = 0;
  for (int64_t group = threadIdx.x; group < a.groups; group += kWarp)
    sum += a.param_sums[k * a.groups + group];
  for (int apart = kWarp / 2; apart; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (threadIdx.x == 0) a.dparams[slot.tensor][0] = real(sum);
}

// An input that all channels share: over blocks of `columns` groups.
RNNCC_FN void reduce_shared_inputs(const Args& a) {
  const int64_t rows = a.joined ? 1 : a.batch, places = rows * a.extent, place = thread_of_grid();
  const int64_t columns = not_by_segments(a) ? a.whole_columns : a.columns;
  if (place >= places) return;
  const int64_t row = place / a.extent, time = place % a.extent;
  const bool within = a.joined || time < steps_of(a, row);
  int shared = 0;
  for (int i = 0; i < Cell::kInputs; ++i) {
    if (Cell::inputs[i].stride) continue;
    const View& view = a.dx[Cell::inputs[i].tensor];
    real sum = 0;
    for (int64_t block = 0; within && block * columns < a.groups; ++block)
      sum += a.shared_sums[(block * places + place) * Cell::kSharedInputs + shared];
    if (view.data)
      from_real(sum, view.data[row * view.batch + time * (a.reverse ? -view.time : view.time)]);
    ++shared;
  }
}

}  // namespace rnncc
