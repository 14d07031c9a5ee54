// Ring: the blocks of steps that a warp reads next, on their way from memory to shared memory.
//
// A stage holds what kAhead steps read. While a warp computes one stage, the copies of the others
// are under way; they cost no registers, so that enough bytes are in flight: by Little's law about
// 40 KB a processor, its share of the bandwidth times the latency of memory.
//
// Rows of neighbouring channels are copied in pieces of 16 bytes, each lane one piece, wherever
// they are aligned to that; in half precision else in pieces of 4. Otherwise each lane copies the
// scalars that it reads. No copy is as small as one of half precision, so these go through registers.
#pragma once

#include "rnncc/cuda/async.h"
#include "rnncc/cuda/runs.h"

namespace rnncc {

extern __shared__ __align__(16) unsigned char rnncc_shared[];

// The largest over the lanes of a warp.
RNNCC_FN int most_of_warp(int count) {
  for (int apart = kWarp / 2; apart; apart /= 2) {
    const int other = __shfl_xor_sync(0xffffffffu, count, apart);
    count = other > count ? other : count;
  }
  return count;
}

// As in rnncc/planner/ring.py: in flight for each channel, and at most of a warp.
constexpr int kBytesAhead = 168;
constexpr int kBytesOfRing = 24 * 1024;
constexpr int kMostStages = 64;  // so many groups of copies can be waited for

// Stages of a ring whose blocks have these bytes a thread: at least one is ahead.
constexpr int stages_of(int bytes) {
  const int wanted = 1 + (kBytesAhead * Cell::kGroup + bytes - 1) / bytes;
  const int room = kBytesOfRing / (kWarp * bytes), most = room < kMostStages ? room : kMostStages;
  const int found = wanted < most ? wanted : most;
  return found < 2 ? 2 : found;
}

constexpr int kMostTensors = 63;  // of a ring, which has a bit for each

// A bit for each tensor.
template <bool few> struct Bits {
  typedef uint32_t type;
};
template <> struct Bits<false> {
  typedef uint64_t type;
};

// The tensors that a stage holds, and their scalars.
struct Inputs {
  static constexpr int kTensors = Cell::kInputTensors, kScalars = Cell::kInputs;
  static constexpr Slot slot(int i) { return Cell::inputs[i]; }
  RNNCC_MEMBER static const View& view(const Args& a, int tensor) { return a.x[tensor]; }
};

struct InputsAndUpstream {
  static constexpr int kTensors = Cell::kInputTensors + Cell::kOutputTensors;
  static constexpr int kScalars = Cell::kInputs + Cell::kOutputs;
  static constexpr Slot slot(int i) {
    if (i < Cell::kInputs) return Cell::inputs[i];
    const Slot found = Cell::outputs[i - Cell::kInputs];
    return {found.tensor + Cell::kInputTensors, found.offset, found.stride};
  }
  RNNCC_MEMBER static const View& view(const Args& a, int tensor) {
    return tensor < Cell::kInputTensors ? a.x[tensor] : a.dy[tensor - Cell::kInputTensors];
  }
};

// Where they lie in a stage: [tensor][step][lane][scalar of the tensor].
template <typename Of> struct Layout {
  struct Tensor {
    int first;    // of its scalars
    int width;    // scalars of a group of channels; 1 if all channels share it
    bool shared;  // by all channels
    int place;    // of its first scalar, in the stage
  };
  struct Table {
    Tensor tensors[Of::kTensors];
    int size;    // scalars of a stage
    int shared;  // tensors that all channels share
  };

  static constexpr Table layout() {
    Table table = {};
    for (int i = 0; i < Of::kScalars; ++i) {
      const Slot slot = Of::slot(i);
      if (slot.offset) continue;  // the scalars of a tensor are in the order of its channels
      table.tensors[slot.tensor] = {i, slot.stride ? slot.stride : 1, !slot.stride, 0};
    }
    for (int t = 0; t < Of::kTensors; ++t) {
      table.tensors[t].place = table.size;
      table.size += kWarp * kAhead * table.tensors[t].width;
      table.shared += table.tensors[t].shared;
    }
    return table;
  }

  static constexpr Table table = layout();
  static constexpr int kBytes = table.size * int(sizeof(io));

  // Pieces of a row, if a warp can copy rows in pieces of so many bytes: else 0.
  static constexpr int pieces(int tensor, int bytes) {
    const int count = kWarp * table.tensors[tensor].width * int(sizeof(io)) / bytes;
    const bool even = count && (kWarp % count == 0 || count % kWarp == 0);
    return even && !table.tensors[tensor].shared ? count : 0;
  }
};

// A stage, as a lane reads it.
template <typename Of> struct Block {
  const unsigned char* at;
  int lane, first;  // of its run, which has what all channels share

  RNNCC_MEMBER real operator()(int step, int i) const {
    const Slot slot = Of::slot(i);
    const auto& tensor = Layout<Of>::table.tensors[slot.tensor];
    const int from = tensor.shared ? first : lane;
    const int place = tensor.place + (kWarp * step + from) * tensor.width + slot.offset;
    return to_real(reinterpret_cast<const io*>(at)[place]);
  }

  // The inputs of a step.
  RNNCC_MEMBER void inputs(int step, real* x) const {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) x[i] = (*this)(step, i);
  }
};

template <typename Of, int stages, int more = 0> struct Ring {
  typedef Layout<Of> L;
  typedef Block<Of> Values;
  static constexpr int kStage = L::kBytes + more;  // bytes; `more` are the caller's
  static constexpr int kBytes = stages * kStage;   // of a warp
  static constexpr int kFilled = stages - 1;       // ahead of the one that is read
  static constexpr int kIo = int(sizeof(io));
  // In half precision no copy is small enough for one scalar of an input that all channels share.
  static constexpr int kHeld = kIo == 2 ? L::table.shared : 0;
  typedef typename Bits<Of::kTensors <= 32>::type Mask;
  static_assert(Of::kTensors <= kMostTensors, "a bit for each tensor");

  unsigned char* memory;  // of this warp
  int slot;               // bytes from there: the stage to be filled next
  int lane;               // that this one reads as
  int lanes, turn;        // that share this lane's run, and its number among them
  int run_count;          // its steps; this lane may take none of them
  int step, stride;       // the first step to be copied next, and from one block to the next
  int own_count;
  Place to;              // `memory`, for copies
  Mask in_16, in_4;      // tensors copied in such pieces
  uint32_t whole_until;  // steps before that begin blocks whose rows are copied whole, in 16s
  uint32_t any_to;       // steps up to that begin blocks that are copied at all
  io held[kHeld + 1];    // on their way through registers, to the stage that
  int held_for;          // was filled last
  const io* at[Of::kTensors];
  int count[Of::kTensors];  // steps of the run that the piece belongs to; 0: nothing to copy
  int on[Of::kTensors];     // its step, from this lane's `step` on

  // From a step of the run on, every `steps_on` steps; `columns` lanes share a run.
  RNNCC_MEMBER void open(const Args& a, const Run& r, int64_t columns, int first, int steps_on) {
    memory = rnncc_shared + threadIdx.y * kBytes;
    slot = 0, lane = r.lane, step = first, stride = steps_on, own_count = r.count;
    lanes = int(columns), turn = int(threadIdx.x) & (lanes - 1);
    run_count = __shfl_sync(0xffffffffu, r.count, int(threadIdx.x) - turn);
    in_16 = in_4 = 0, to = place_in_shared(memory);
#pragma unroll
    for (int t = 0; t < Of::kTensors; ++t) {
      const View& view = Of::view(a, t);
      const Slot first_slot = {t, 0, L::table.tensors[t].shared ? 0 : L::table.tensors[t].width};
      at[t] = place_of(a, view, first_slot, r, L::table.tensors[t].shared ? first + turn : first);
      count[t] = r.count, on[t] = 0;
      if (!view.data) {
        clear(t);
        continue;
      }
      if (aim<16>(a, r, columns, t)) in_16 |= Mask(1) << t;
      else if (sizeof(io) == 2 && aim<4>(a, r, columns, t)) in_4 |= Mask(1) << t;
    }
    int least = own_count, most = own_count;
    bool all = true;
#pragma unroll
    for (int t = 0; t < Of::kTensors; ++t) {
      least = count[t] < least ? count[t] : least;
      all = all && (L::table.tensors[t].shared || in_16 >> t & 1);
    }
    // lanes of several runs may be at several steps, and copy for each other
    const bool together = __all_sync(0xffffffffu, step == __shfl_sync(0xffffffffu, step, 0));
    least = -most_of_warp(-least), most = most_of_warp(most);
    whole_until = !all || !together || least < kAhead ? 0 : least - kAhead + 1;
    any_to = together ? uint32_t(most - 1) : 0xffffffffu;  // a lane that is done is at step -1
  }

  // Fills all stages but the one that is filled while the first one is read.
  RNNCC_MEMBER void start(const Args& a) {
#pragma unroll 1
    for (int n = 0; n < kFilled; ++n) {
      fill(a);
      commit_copies();
      settle();
    }
  }

  // Copies the next block; the stage it goes to is one that all lanes have read.
  RNNCC_MEMBER void fill(const Args& a) {
    if (uint32_t(step) < whole_until) {
#pragma unroll
      for (int t = 0; t < Of::kTensors; ++t) {
        if (!L::table.tensors[t].shared) copy_rows<16, true>(a, t);
        else if (!kHeld) copy_shared(a, t);
      }
    } else if (uint32_t(step) <= any_to) {
      fill_otherwise(a);
    }
    hold(a);
#pragma unroll
    for (int t = 0; t < Of::kTensors; ++t) at[t] += stride * Of::view(a, t).time;
    step += stride, held_for = slot;
    slot = slot + kStage == kBytes ? 0 : slot + kStage;
  }

  // Puts what is held in registers into the stage that was filled last.
  RNNCC_MEMBER void settle() const {
    if constexpr (kHeld > 0) {
      int n = 0;
#pragma unroll
      for (int t = 0; t < Of::kTensors; ++t) {
        if (!L::table.tensors[t].shared) continue;
        if (turn < kAhead) *shared_at(held_for, t, turn) = held[n];
        ++n;
      }
    }
  }

  // Until the oldest stage is there for this thread; a barrier makes it so for the others.
  RNNCC_MEMBER void wait() const {
    settle();
    wait_for_copies<stages - 2>();
  }

  // The stage to be filled next: after `fill`, the oldest one, which is the one to be read now.
  RNNCC_MEMBER Block<Of> now() const { return {memory + slot, lane, lane & -lanes}; }
  RNNCC_MEMBER Place extra_place() const { return to + (slot + L::kBytes); }
  RNNCC_MEMBER unsigned char* extra() const { return memory + slot + L::kBytes; }

 private:
  // Points this lane at its first piece of a tensor, if the warp can copy it in such pieces.
  template <int bytes>
  RNNCC_MEMBER bool aim(const Args& a, const Run& r, int64_t columns, int t) {
    const int pieces = L::pieces(t, bytes),
              own = L::table.tensors[t].width * kIo;  // bytes that a lane reads
    const int lanes = own < bytes ? bytes / own : 1;  // that share a piece
    if (!pieces || columns % lanes || a.groups % lanes) return false;
    const View& view = Of::view(a, t);
    const int me = int(threadIdx.x), row_step = pieces < kWarp ? me / pieces : 0;
    const int from = (pieces < kWarp ? me % pieces : me) * bytes;  // in the row
    const uint64_t address = reinterpret_cast<uint64_t>(at[t]);
    const bool aligned = (address - me % lanes * own) % bytes == 0 && view.time * kIo % bytes == 0;
    const bool one_run = pieces <= kWarp || (columns == kWarp && r.active);
    if (!__all_sync(0xffffffffu,
                    (aligned && view.channel == 1 && one_run) || (!r.active && pieces <= kWarp)))
      return false;
    const int owner = from / own;
    const uint64_t there = __shfl_sync(0xffffffffu, address, owner);
    const int steps = __shfl_sync(0xffffffffu, r.active ? r.count : 0, owner);
    at[t] = reinterpret_cast<const io*>(there + from % own) + row_step * view.time;
    count[t] = steps, on[t] = row_step + __shfl_sync(0xffffffffu, step, owner) - step;
    return true;
  }

  // The pieces of a block of a tensor, or with `whole` false those that belong to the run.
  template <int bytes, bool whole> RNNCC_MEMBER void copy_rows(const Args& a, int t) {
    const int pieces = L::pieces(t, bytes), me = int(threadIdx.x);
    if (!pieces || (kAhead * pieces < kWarp && me >= kAhead * pieces)) return;
    const int copies = (kAhead * pieces + kWarp - 1) / kWarp;
    const Place there = to + (slot + L::table.tensors[t].place * kIo + me * bytes);
#pragma unroll
    for (int j = 0; j < copies; ++j) {
      const int rows = j * kWarp / pieces, along = j * kWarp % pieces * bytes / kIo;
      if (whole || uint32_t(step + on[t] + rows) < uint32_t(count[t]))
        copy_async<bytes>(there + j * kWarp * bytes, at[t] + rows * Of::view(a, t).time + along);
    }
  }

  RNNCC_MEMBER void fill_otherwise(const Args& a) {
#pragma unroll
    for (int t = 0; t < Of::kTensors; ++t) {
      if (in_16 >> t & 1) copy_rows<16, false>(a, t);
      else if (kIo == 2 && in_4 >> t & 1) copy_rows<4, false>(a, t);
      else if (!Of::view(a, t).data) continue;
      else if (!L::table.tensors[t].shared) copy_own(a, t);
      else if (!kHeld) copy_shared(a, t);
    }
  }

  RNNCC_MEMBER bool is_mine(int k) const { return uint32_t(step + k) < uint32_t(own_count); }
  RNNCC_MEMBER bool is_ours(int k) const { return uint32_t(step + k) < uint32_t(run_count); }

  // The scalars that this lane reads. In half precision they go through registers, at once.
  RNNCC_MEMBER void copy_own(const Args& a, int t) {
    const View& view = Of::view(a, t);
    const int width = L::table.tensors[t].width;
    const int first = L::table.tensors[t].place + int(threadIdx.x) * width;
    const io* const from = at[t];
    if constexpr (kIo == 2) {
      io some[kAhead][Cell::kGroup];
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
#pragma unroll
        for (int i = 0; i < width; ++i)
          some[k][i] = is_mine(k) ? from[k * view.time + i * view.channel] : io();
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
#pragma unroll
        for (int i = 0; i < width; ++i)
          reinterpret_cast<io*>(memory + slot)[first + k * kWarp * width + i] = some[k][i];
    } else {
#pragma unroll 1
      for (int k = 0; k < kAhead && is_mine(k); ++k)
#pragma unroll
        for (int i = 0; i < width; ++i)
          copy_async<kIo>(to + (slot + (first + k * kWarp * width + i) * kIo),
                          from + k * view.time + i * view.channel);
    }
  }

  // Where a step of a stage has what all channels of this lane's run share.
  RNNCC_MEMBER io* shared_at(int stage, int t, int k) const {
    const int first = int(threadIdx.x) - turn;
    return reinterpret_cast<io*>(memory + stage) + L::table.tensors[t].place + k * kWarp + first;
  }

  // What all channels share: each lane of the run copies the step of its turn, if there are enough.
  RNNCC_MEMBER void copy_shared(const Args& a, int t) {
    if constexpr (kIo > 2) {
      const int there = slot + (L::table.tensors[t].place + int(threadIdx.x) - turn) * kIo;
#pragma unroll 1
      for (int k = turn; k < kAhead; k += lanes)
        if (is_ours(k))
          copy_async<kIo>(to + (there + k * kWarp * kIo), at[t] + (k - turn) * Of::view(a, t).time);
    }
  }

  // The same in half precision: asks memory for the step of this lane's turn in the next block.
  RNNCC_MEMBER void hold(const Args& a) {
    if constexpr (kHeld > 0) {
      int n = 0;
#pragma unroll
      for (int t = 0; t < Of::kTensors; ++t) {
        const View& view = Of::view(a, t);
        if (!L::table.tensors[t].shared) continue;
        held[n++] = turn < kAhead && is_ours(turn) && view.data ? *at[t] : io();
#pragma unroll 1
        for (int k = turn + lanes; k < kAhead; k += lanes)
          *shared_at(slot, t, k) = is_ours(k) && view.data ? at[t][(k - turn) * view.time] : io();
      }
    }
  }

  // A gradient that is not given is absent.
  RNNCC_MEMBER void clear(int t) {
#pragma unroll 1
    for (int n = 0; n < stages * kAhead; ++n) {
      io* const to = reinterpret_cast<io*>(memory + n / kAhead * kStage) +
                     L::table.tensors[t].place + n % kAhead * kWarp * L::table.tensors[t].width +
                     int(threadIdx.x) * L::table.tensors[t].width;
      for (int i = 0; i < L::table.tensors[t].width; ++i) from_real(real(-0.0), to[i]);
    }
  }
};

}  // namespace rnncc
