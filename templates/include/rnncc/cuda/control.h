// Messages between the kernels of one call.
//
// The host launches a fixed series of kernels and never waits for one. The result of a sweep
// decides on the device what the next kernel does: nothing, once neighbouring segments agree.
#pragma once

#include "rnncc/cuda/runs.h"

namespace rnncc {

// The message of one launch to the next: a size, and the place of the first one out of tolerance.
struct Note {
  uint64_t size;  // bits of a double >= 0, which rise as it does
  int64_t bad;    // kNone: there is none
};

// control[0]: the guess; control[1 + i]: sweep i; then two flags for each run, whether its initial
// state has changed: for even and for odd sweeps.
RNNCC_FN Note* note_of(const Args& a, int64_t number) {
  return reinterpret_cast<Note*>(a.control) + number;
}

RNNCC_FN int64_t* moved(const Args& a, int64_t run, int64_t sweep) {
  return a.control + 2 * (1 + a.rounds) + 2 * run + sweep % 2;
}

RNNCC_FN double size_of(const Note* note) { return __longlong_as_double(int64_t(note->size)); }

// Every lane of the warp calls these.
RNNCC_FN void note_size(Note* note, real size) {
  for (int apart = kWarp / 2; apart; apart /= 2) {
    const real other = __shfl_xor_sync(0xffffffffu, size, apart);
    size = other > size ? other : size;
  }
  if (threadIdx.x == 0 && size > 0)
    atomicMax(reinterpret_cast<unsigned long long*>(&note->size),
              (unsigned long long)(__double_as_longlong(double(size))));
}

RNNCC_FN void note_bad(Note* note, int64_t bad) {
  for (int apart = kWarp / 2; apart; apart /= 2) {
    const long long other = __shfl_xor_sync(0xffffffffu, (long long)(bad), apart);
    bad = other < bad ? other : bad;
  }
  if (threadIdx.x == 0 && bad < kNone)
    atomicMin(reinterpret_cast<long long*>(&note->bad), (long long)(bad));
}

// Numbers the segments of all sequences, one for a sequence without steps, and clears all notes.
RNNCC_FN void number_runs(const Args& a) {
  const int64_t thread = threadIdx.y * kWarp + threadIdx.x, threads = blockDim.y * kWarp;
  if (thread == 0 && a.lengths) {
    // boundaries that are out of order can't count for more than there is room for
    const int64_t room = (a.joined ? a.extent : a.batch * a.extent) / a.segment + a.batch;
    int64_t next = 0;
    a.run_starts[0] = 0;
    for (int64_t b = 0; b < a.batch; ++b) {
      const int64_t count = (steps_of(a, b) + a.segment - 1) / a.segment;
      const int64_t most = room - (a.batch - 1 - b);
      next += count < 1 ? 1 : count;
      a.run_starts[b + 1] = next = next < most ? next : most;
    }
  }
  __syncthreads();
  for (int64_t i = thread; i < 1 + a.rounds; i += threads) *note_of(a, i) = {0, kNone};
  for (int64_t i = thread; i < first_run(a, a.batch); i += threads) *moved(a, i, 0) = 1;
}

}  // namespace rnncc
