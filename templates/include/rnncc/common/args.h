// What a call hands over.
#pragma once

#include "cell.h"

namespace rnncc {

// Elements between neighbours in batch and time, and of one channel. For CUDA `time` leads to the next
// step, backward where sequences are reversed.
struct View {
  io* data;
  int64_t batch, time, channel;
};

// Every member has 8 bytes; rnncc/runtime/call.py fills them in this order.
struct Args {
  int64_t batch, steps, groups;    // sequences, steps of the longest, groups of channels
  int64_t extent;                  // time steps in memory
  int64_t joined;                  // the sequences lie one after another in one row of memory
  int64_t reverse;                 // each runs from its last step to its first
  int64_t segment;                 // steps of a segment; `steps` for one pass over time
  int64_t lead;                    // steps that lead up to a guess of what a segment starts from
  int64_t sweeps;                  // at most, before one pass over time does the rest
  int64_t patient;                 // not to give up before that, however slowly states are forgotten
  int64_t newton;                  // Newton as in the papers: no guard, no pass over the rest
  double tolerance;                // of neighbouring segments, relative to max(1, |state|)
  // C++: a tile is so many runs of steps by so many groups. CUDA: a block's warps, each of
  // 32 / columns runs by so many groups.
  int64_t rows, columns;
  int64_t whole_rows, whole_columns;  // the same where each sequence is one run
  int64_t every;                   // steps between saved states
  int64_t threads;
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel, or null
  int64_t solver;                  // its place in SOLVERS, for the status
  int64_t round;                   // CUDA: which of several launches of a kernel this is
  const int64_t* starts;           // [batch], where joined sequences begin
  const int64_t* lengths;          // [batch], or null where all have `steps`
  const uint8_t* reset;            // not 0: the state starts anew before this step; or null
  int64_t reset_batch, reset_time;
  View x[Cell::kInputTensors + 1];
  const real* params[Cell::kParamTensors + 1];
  const real* h0;                  // [states, batch, channels], or null
  // forward
  View y[Cell::kOutputTensors + 1];
  View z[Cell::kStateTensors];    // the states after each step
  real* h_last;                    // [states, batch, channels]
  real* saved;                     // [slots, states, channels], or null
  double* status;                  // see Solution in rnncc/nn/ops.py
  // backward: the gradients of y, z and h_last (null for zero), then those of all arguments
  View dy[Cell::kOutputTensors + 1];
  View dz[Cell::kStateTensors];
  int64_t dz_given;                // some dz isn't null
  const real* dh_last;
  View dx[Cell::kInputTensors + 1];
  real* dparams[Cell::kParamTensors + 1];
  real* dh0;
  // Jacobians along the sequence: [steps, batch, groups, kStates, kStates]
  real* jacobians;
  // workspace; a run is one segment of one sequence
  int64_t* run_starts;             // [batch + 1], the first run of each sequence
  real* begins;                    // [runs, kStates, groups]
  real* ends;                      // [runs, kStates, groups]
  real* products;                  // [runs, kStates * kStates, groups]
  double* verdicts;                // [batch, 2], then a flag for each run
  double* param_sums;              // [runs, params, groups]
  real* shared_sums;               // [blocks of lanes, batch * extent, shared inputs]
  real* inner;                     // CUDA: [runs, blocks of steps, kStates, groups]
  int64_t* control;                // CUDA: what kernels of one call tell each other
};

}  // namespace rnncc
