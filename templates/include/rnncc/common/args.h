// Generated from rnncc/ir/abi.py by make golden; don't edit.
// Version e649258b8257, as cell.json holds it.
#pragma once

#include "cell.h"

namespace rnncc {

// Of Status::sequential_from: no step was left to one pass over time.
constexpr double kNoStep = -1;

// How a call is solved.
enum class Solver : int64_t { kSequential = 1, kSegmented = 2, kNewton = 3 };

// CUDA: the purpose of a launch; C++ runs all of them in one call.
enum class Stage : int64_t { kSweep = 0, kWarmUp = 1, kRest = 2 };

// A tensor: elements between neighbours in batch and time, and of one channel. For CUDA `time` goes
// to the next step of the recurrence, backward where sequences are reversed.
struct View {
  // its first element, or null
  io* data;
  // elements to the next sequence
  int64_t batch;
  // elements to the next step
  int64_t time;
  // elements to the next channel; 0 if all share one
  int64_t channel;
};

// How a call was solved; all are doubles, as a tensor holds them.
struct Status {
  // over all segments, 1 for one pass over time
  double sweeps;
  // the largest change of a segment's initial state that the last scan asked for, relative to the
  // state's own size
  double mismatch;
  // 0 if neighbours don't agree within the tolerance
  double converged;
  // the step from which one pass solved the rest, or kNoStep
  double sequential_from;
  // a Solver
  double solver;
  // steps of a segment
  double segment;
};

// As GOMP_parallel.
typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);

// The arguments of a kernel.
struct Args {
  // --- the call
  // sequences
  int64_t batch;
  // of the longest sequence, or a bound of it
  int64_t steps;
  // of channels
  int64_t groups;
  // time steps in memory
  int64_t extent;
  // the sequences lie one after another in one row of memory
  int64_t joined;
  // each runs from its last step to its first
  int64_t reverse;

  // --- the plan
  // how the call is solved
  Solver solver;
  // steps of a segment; `steps` for one pass over time
  int64_t segment;
  // steps beside a segment that give a guess of its border
  int64_t warm_up;
  // at most, before one pass over time solves the rest
  int64_t sweeps;
  // not 0: use all sweeps, however slowly states are forgotten
  int64_t patient;
  // of neighbouring segments, relative to the state's own size
  double tolerance;
  // a correction after which they agree, the same way
  double settled;
  // C++: runs of a tile. CUDA: warps of a block, each of 32 / columns runs
  int64_t rows;
  // groups of a tile, or of a warp
  int64_t columns;
  // as rows, where each sequence is one run
  int64_t whole_rows;
  // as columns, where each sequence is one run
  int64_t whole_columns;
  // steps between saved states
  int64_t checkpoint;
  // C++: their number
  int64_t threads;
  // C++: GOMP_parallel, or null
  Parallel parallel;
  // CUDA: how often sweeps are launched
  int64_t rounds;

  // --- the launch
  // CUDA: the purpose of this launch
  Stage stage;
  // CUDA: which of the sweeps it is
  int64_t round;

  // --- sequences
  // [batch], the first steps of joined sequences
  const int64_t* starts;
  // [batch], or null where all have `steps`
  const int64_t* lengths;
  // not 0: the state is reset before this step; or null
  const uint8_t* reset;
  // elements to the next row
  int64_t reset_batch;
  // elements to the next step
  int64_t reset_time;

  // --- arguments
  // the inputs
  View x[Cell::kInputTensors + 1];
  // the params
  const real* params[Cell::kParamTensors + 1];
  // [states, batch, channels], or null
  const real* h0;

  // --- forward
  // the outputs
  View y[Cell::kOutputTensors + 1];
  // the states after each step
  View z[Cell::kStateTensors + 1];
  // [states, batch, channels], or null
  real* h_last;
  // [slots, states, channels], or null
  real* saved;
  // how the call was solved
  Status* status;

  // --- backward: the gradients of y, z and h_last (null for zero), then those of all arguments
  // of the outputs
  View dy[Cell::kOutputTensors + 1];
  // of the states after each step
  View dz[Cell::kStateTensors + 1];
  // some dz isn't null
  int64_t dz_given;
  // of the last states
  const real* dh_last;
  // of the inputs
  View dx[Cell::kInputTensors + 1];
  // of the params
  real* dparams[Cell::kParamTensors + 1];
  // of the states before the first step
  real* dh0;

  // --- Jacobians along the sequence
  // [steps, batch, groups, kStates, kStates]
  real* jacobians;

  // --- workspace; a run is one segment of one sequence
  // [batch + 1], the first run of each sequence
  int64_t* run_starts;
  // [runs, kStates, groups]
  real* begins;
  // [runs, kStates, groups]
  real* ends;
  // [runs, kStates * kStates, groups]
  real* products;
  // [runs, kStates, groups], sizes over the last steps of a run
  real* peaks;
  // [runs, kStates, groups], gradients of the initial state
  real* initials;
  // [batch, 2], then a flag for each run
  double* verdicts;
  // [runs, params, groups]
  double* param_sums;
  // [blocks of lanes, batch * extent, shared inputs]
  real* shared_sums;
  // CUDA: [runs, blocks of steps, kStates, groups]
  real* inner;
  // CUDA: messages between the kernels of one call
  int64_t* control;
};

static_assert(sizeof(View) == 8 * 4);
static_assert(sizeof(Status) == 8 * 6);
constexpr int kInputWords = 8 * Cell::kInputTensors;
constexpr int kParamWords = 2 * Cell::kParamTensors;
constexpr int kOutputWords = 8 * Cell::kOutputTensors;
constexpr int kStateWords = 8 * Cell::kStateTensors;
static_assert(sizeof(Args) == 8 * (73 + kInputWords + kParamWords + kOutputWords + kStateWords));

}  // namespace rnncc
