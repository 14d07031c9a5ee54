// A block along time.
//
// The warps of a block are segments of kAhead steps, whose inputs stay in shared memory while those
// of the next tile are on their way. The block walks over tiles of these steps with the state
// carried along. In each tile the segments sweep until neighbours agree; one warp scans the borders
// in shared memory.
// After n sweeps the first n segments are exact, so there are never more sweeps than warps.
#pragma once

#include "rnncc/cuda/segments.h"

namespace rnncc {

// Steps before a segment that its first guess runs through.
constexpr int kWarm = kAhead < 4 ? kAhead : 4;
constexpr int kStagesOfTiles = 2;  // as in rnncc/planner/ring.py

// Scalars of each warp's segment, [warp][scalar][lane].
struct Shelf {
  real* at;
  int count;
  RNNCC_MEMBER real& operator()(int warp, int scalar) const {
    return at[(warp * count + scalar) * kWarp + threadIdx.x];
  }
};

RNNCC_FN Run run_of_block(const Args& a) {
  Run r;
  const int64_t across = (a.groups + kWarp - 1) / kWarp;
  r.index = r.sequence = blockIdx.x / across;
  r.group = blockIdx.x % across * kWarp + threadIdx.x;
  r.active = r.group < a.groups;
  const int64_t beyond = r.active ? 0 : r.group - (a.groups - 1);
  r.group -= beyond, r.lane = int(threadIdx.x - beyond);
  r.take(a, 0, a.steps);
  return r;
}

// The first guess of the initial state of the segment from step `first` on: the one carried into
// the tile, run through the last steps of the segment before, whose inputs the warp before has.
RNNCC_FN void warm_up(const Args& a, const Run& r, const Block<Inputs>& before, int first,
                      const real* p, real* h) {
#pragma unroll 1
  for (int k = kWarm; k > 0; --k) {
    real x[Cell::kInputs + 1], next[Cell::kStates], y[Cell::kOutputs], stored[Cell::kStored + 1];
    if (is_reset(a, r, first - k)) load_states(a, r, a.h0, h);
    before.inputs(kAhead - k, x);
    Lane::step<false, false>(x, p, h, next, y, stored);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = next[s];
  }
}

// All borders of a tile, in order of time. Returns the largest mismatch; leaves the new initial
// states in `begins`, and in `carried` the state after the tile.
RNNCC_FN real cross_borders(const Args& a, int used, const Shelf& ends, const Shelf& products,
                            const Shelf& begins, const Shelf& carried) {
  Border border = {};
  real e[Cell::kStates], M[Cell::kProducts + 1], s[Cell::kStates];
  for (int i = 1; i < used; ++i) {
#pragma unroll
    for (int k = 0; k < Cell::kStates; ++k) e[k] = ends(i - 1, k), s[k] = begins(i, k);
#pragma unroll
    for (int k = 0; k < Cell::kProducts; ++k) M[k] = products(i - 1, k);
    border.cross(e, M, s, 1, false, false);
#pragma unroll
    for (int k = 0; k < Cell::kStates; ++k) begins(i, k) = s[k];
  }
  // the end of the tile is a border too, which no sweep needs to agree with
  const real worst = border.worst;
#pragma unroll
  for (int k = 0; k < Cell::kStates; ++k) s[k] = e[k] = ends(used - 1, k);
#pragma unroll
  for (int k = 0; k < Cell::kProducts; ++k) M[k] = products(used - 1, k);
  border.cross(e, M, s, 1, false, false);
#pragma unroll
  for (int k = 0; k < Cell::kStates; ++k) carried(0, k) = s[k];
  return worst;
}

// The largest of all blocks.
RNNCC_FN void report_tiles(const Args& a, int sweeps, real worst) {
  for (int apart = kWarp / 2; apart; apart /= 2) {
    const real other = __shfl_xor_sync(0xffffffffu, worst, apart);
    worst = other > worst ? other : worst;
  }
  if (threadIdx.x) return;
  unsigned long long* const bits = reinterpret_cast<unsigned long long*>(&a.status->sweeps);
  atomicMax(bits, (unsigned long long)(__double_as_longlong(double(sweeps))));
  atomicMax(reinterpret_cast<unsigned long long*>(&a.status->mismatch),
            (unsigned long long)(__double_as_longlong(double(worst))));
  a.status->converged = 1, a.status->sequential_from = kNoStep;
  a.status->solver = double(a.solver), a.status->segment = double(a.segment);
}

// A sweep of one warp's segment: from `initial` to its end, with M.
RNNCC_FN void sweep_in_block(const Args& a, const Run& r, const Block<Inputs>& block,
                             uint32_t resets_before, const real* initial, Walk<true>& walk,
                             const Shelf& begins, const Shelf& ends, const Shelf& products) {
  const int warp = threadIdx.y;
  walk.aim(a, r, true);
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) begins(warp, s) = walk.h[s] = initial[s];
  if (walk.writes && a.saved && r.first % a.checkpoint == 0)
    walk.save(a, saved_at(a, r, saved_slot(a, r, r.first), 0));
  walk.block(a, r, block, 0, a.z[0].data || resets_before, resets_before);
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) ends(warp, s) = walk.h[s];
#pragma unroll
  for (int k = 0; k < Cell::kProducts; ++k) products(warp, k) = walk.M[k];
}

// Takes the initial state that the scan found; whether it is another for any lane of the warp.
RNNCC_FN bool take_initial(const Shelf& begins, real* initial) {
  bool changed = false;
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) {
    const real now_there = begins(threadIdx.y, s);
    changed = changed || !same(now_there, initial[s]);
    initial[s] = now_there;
  }
  return __any_sync(0xffffffffu, changed);
}

RNNCC_FN void tiles(const Args& a) {
  typedef Ring<Inputs, kStagesOfTiles> Feed;
  const int warp = threadIdx.y, warps = blockDim.y;
  const Shelf ends = {reinterpret_cast<real*>(rnncc_shared + warps * Feed::kBytes), Cell::kStates};
  const Shelf begins = {ends.at + warps * Cell::kStates * kWarp, Cell::kStates};
  const Shelf carried = {begins.at + warps * Cell::kStates * kWarp, Cell::kStates};
  const Shelf products = {carried.at + Cell::kStates * kWarp, Cell::kProducts};
  Run r = run_of_block(a);
  const Run sequence = r;
  const int length = r.count, span = warps * kAhead;
  int most = 0, used = 0;
  real worst = 0, worst_of_all = 0;
  Walk<true> walk;
  Feed feed;
  Resets resets;
  load_params(a, r, walk.p);
  feed.open(a, sequence, kWarp, warp * kAhead, span);
  feed.start(a);
  resets.fetch(a, sequence, warp * kAhead);
  if (warp == 0) load_states(a, r, a.h0, walk.h);
  for (int s = 0; warp == 0 && s < Cell::kStates; ++s) carried(0, s) = walk.h[s];
  for (int begin = 0; begin < length; begin += span) {
    const int first = begin + warp * kAhead;
    const uint32_t resets_before = a.reset ? resets.bits() : 0;
    real initial[Cell::kStates];
    feed.wait();
    __syncthreads();
    feed.fill(a);
    commit_copies();
    if (a.reset) resets.fetch(a, sequence, first + span);
    const Block<Inputs> block = feed.now();
    r.take(a, first, kAhead);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) initial[s] = carried(0, s);
    if (warp > 0 && r.count > 0)
      warm_up(a, sequence, {block.at - Feed::kBytes, block.lane, block.first}, first, walk.p,
              initial);
    used = length - begin < span ? (length - begin + kAhead - 1) / kAhead : warps;
    bool moves = r.count > 0;
    for (int sweep = 1;; ++sweep) {
      if (moves) sweep_in_block(a, r, block, resets_before, initial, walk, begins, ends, products);
      __syncthreads();
      if (warp == 0) worst = cross_borders(a, used, ends, products, begins, carried);
      if (sweep > most) most = sweep;
      if (__syncthreads_and(warp > 0 || worst <= a.guess_tolerance)) break;
      moves = take_initial(begins, initial) && r.count > 0;
    }
    worst_of_all = larger(worst_of_all, worst);
  }
  if (warp == 0) {
    // as the last outputs say, without the correction that the next tile would begin with
    for (int s = 0; s < Cell::kStates; ++s) walk.h[s] = used ? ends(used - 1, s) : carried(0, s);
    store_states(a, r, walk.h, a.h_last);
    clear_outputs(a, r);
    report_tiles(a, most, worst_of_all);
  }
}

}  // namespace rnncc
