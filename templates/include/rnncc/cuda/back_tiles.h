// The backward of a block along time: its warps are segments of kAhead steps, and tiles are walked
// last first. Each segment alone, then from the gradient at its end.
#pragma once

#include "rnncc/cuda/back_segments.h"
#include "rnncc/cuda/tiles.h"

namespace rnncc {

// One warp's segment alone.
RNNCC_FN void alone_in_block(const Args& a, const Run& r, const WalkBack::Values& block, int first,
                             int count, bool careful, uint32_t resets_before, WalkBack& walk,
                             const Shelf& ends, const Shelf& through) {
  const int warp = threadIdx.y;
  walk.begin_alone();
  walk.walk<true>(a, r, block, first, count, careful, resets_before);
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) ends(warp, s) = walk.g[s];
#pragma unroll
  for (int q = 0; q < WalkBack::kQ; ++q) through(warp, q) = walk.Q[q];
}

// The gradient at the end of each segment of a tile, last first; g is the one after the tile, and
// becomes the one before it. Returns whether so much comes through the segments that what rounding
// made of Q may add up.
RNNCC_FN bool pass_borders(int used, const Shelf& ends, const Shelf& through, const Shelf& given,
                           real* g) {
  constexpr int kQ = WalkBack::kQ;
  real peak[Cell::kStates] = {};
  bool adds_up = false;
  for (int i = used - 1; i >= 0; --i) {
    real e[Cell::kStates], Q[kQ + 1], after[Cell::kStates];
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) given(i, s) = after[s] = g[s], e[s] = ends(i, s);
#pragma unroll
    for (int q = 0; q < kQ; ++q) Q[q] = through(i, q);
    pass_through(e, Q, g);
    note_sizes(g, peak, 1);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s)
      adds_up = adds_up || 2 * most_through(Q, after, s, 1) > peak[s];
  }
  return adds_up;
}

// After a walk from these gradients, what is still missing: `g` becomes the one before the tile.
// Returns the largest change.
RNNCC_FN real compare_borders(int used, const Shelf& ends, const Shelf& through, const Shelf& given,
                              real* g) {
  constexpr int kQ = WalkBack::kQ;
  BackBorder border = {};
  real e[Cell::kStates], Q[kQ + 1], after[Cell::kStates], peak[Cell::kStates] = {};
  const Side side = {e, peak, Q, after};
#pragma unroll
  for (int s = 0; s < Cell::kStates; ++s) after[s] = given(used - 1, s);
  for (int i = used - 1; i >= 0; --i) {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) e[s] = ends(i, s), g[s] = i ? given(i - 1, s) : e[s];
#pragma unroll
    for (int q = 0; q < kQ; ++q) Q[q] = through(i, q);
    note_sizes(e, peak, 1);
    border.cross(side, g, 1);
#pragma unroll
    for (int s = 0; i && s < Cell::kStates; ++s) given(i - 1, s) = after[s] = g[s];
  }
  return border.worst;
}

// Walks all segments of a tile from the gradients in `given`; with `again` until neighbours agree.
RNNCC_FN void walk_tile(const Args& a, const Run& r, const WalkBack::Values& block, int first,
                        int count, bool careful, uint32_t resets_before, int used, bool again,
                        const Shelf& ends, const Shelf& through, const Shelf& given, real* g,
                        WalkBack& walk) {
  const int warp = threadIdx.y;
  double before = kNoScan;
  do {
    if (count > 0) {
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) walk.g[s] = given(warp, s);
      walk.gradients.aim(a, r, first + count - 1, -1, r.active);
      walk.walk_again(a, r, block, first, count, careful, resets_before);
    }
    if (!again) break;
#pragma unroll
    for (int s = 0; count > 0 && s < Cell::kStates; ++s) ends(warp, s) = walk.g[s];
    __syncthreads();
    if (warp == 0) {
      const real change = compare_borders(used, ends, through, given, g);
      again = !agree_back(before, change);
      before = change;
    }
    again = __syncthreads_or(warp == 0 && again);
  } while (again);
}

// Sums over the warps of a block, in their order.
RNNCC_FN void sum_over_warps(const Args& a, const Run& r, WalkBack& walk) {
  const int warp = threadIdx.y, warps = blockDim.y;
  double* const sums = reinterpret_cast<double*>(rnncc_shared);
#pragma unroll
  for (int n = 0; n < Cell::kStates + Cell::kParams; ++n) {
    const int k = n - Cell::kStates;
    sums[warp * kWarp + threadIdx.x] = k < 0 ? double(walk.g_initial[n]) : walk.sums[k];
    __syncthreads();
    double sum = 0;
    for (int i = 0; warp == 0 && i < warps; ++i) sum += sums[i * kWarp + threadIdx.x];
    __syncthreads();
    if (warp || !r.active) continue;
    if (k < 0) a.dh0[state_at(a, r, n)] = real(sum);
    else a.param_sums[(r.sequence * Cell::kParams + k) * a.groups + r.group] = sum;
  }
}

RNNCC_FN void back_tiles(const Args& a) {
  constexpr int kQ = WalkBack::kQ;
  typedef FeedBack<kStagesOfTiles> Feed;
  const int warp = threadIdx.y, warps = blockDim.y;
  real* const shelves = reinterpret_cast<real*>(rnncc_shared + warps * Feed::Blocks::kBytes);
  const Shelf ends = {shelves, Cell::kStates};
  const Shelf given = {ends.at + warps * Cell::kStates * kWarp, Cell::kStates};
  const Shelf through = {given.at + warps * Cell::kStates * kWarp, kQ};
  const Run r = run_of_block(a);
  const int length = r.count, span = warps * kAhead;
  const int last = length ? (length - 1) / span * span : -span;
  real g[Cell::kStates] = {};
  WalkBack walk;
  Feed feed;
  Resets resets;
  int first = last + warp * kAhead;
  double* const sums = reinterpret_cast<double*>(through.at + warps * kQ * kWarp);
  walk.open(a, r, kWarp);
  walk.open_sums(a, r, int(reinterpret_cast<unsigned char*>(sums) - rnncc_shared));
  if (a.dh_last) load_states(a, r, a.dh_last, g);
  feed.open(a, r, kWarp, first, -span, -warps);
  feed.fill(a, uint32_t(first) < uint32_t(length));
  resets.fetch(a, r, first);
  for (int begin = last; begin >= 0; begin -= span, first -= span) {
    const int count = int(limited(length - first, kAhead));
    const uint32_t resets_before = a.reset ? resets.bits() : 0;
    const bool careful = a.dz_given || resets_before;
    feed.blocks.wait();
    __syncthreads();
    feed.saved += feed.saved_on;
    feed.fill(a, first >= span);
    if (a.reset) resets.fetch(a, r, first - span);
    const WalkBack::Values block = feed.blocks.now();
    feed.load_state(a, walk.h[0]);
    if (count > 0)
      alone_in_block(a, r, block, first, count, careful, resets_before, walk, ends, through);
    __syncthreads();
    const int used = length - begin < span ? (length - begin + kAhead - 1) / kAhead : warps;
    bool again = warp == 0 && pass_borders(used, ends, through, given, g);
    again = __syncthreads_or(again);
    walk_tile(a, r, block, first, count, careful, resets_before, used, again, ends, through, given,
              g, walk);
    if (count > 0) walk.add_block(first, count);
  }
  __syncthreads();
  if (warp == 0) {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) walk.g_initial[s] += g[s];
  }
  sum_over_warps(a, r, walk);
  if (warp == 0) clear_inputs(a, r);
}

}  // namespace rnncc
