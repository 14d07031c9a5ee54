// Writer: where the scalars of a step go in memory, tensor by tensor.
//
// The channels of a group lie side by side in most tensors: then they are written together, up to
// 16 bytes at once, so that the lanes of a warp fill whole stretches of memory.
#pragma once

#include "rnncc/cuda/ring.h"

namespace rnncc {

struct Outputs {
  static constexpr int kTensors = Cell::kOutputTensors, kScalars = Cell::kOutputs;
  static constexpr Slot slot(int i) { return Cell::outputs[i]; }
  RNNCC_MEMBER static const View& view(const Args& a, int tensor) { return a.y[tensor]; }
};

struct InputGradients {
  static constexpr int kTensors = Cell::kInputTensors, kScalars = Cell::kInputs;
  static constexpr Slot slot(int i) { return Cell::inputs[i]; }
  RNNCC_MEMBER static const View& view(const Args& a, int tensor) { return a.dx[tensor]; }
};

// The scalars of a group that are written at once: as many as fit into 16 bytes.
constexpr int at_once(int width) {
  const int most = 16 / int(sizeof(io));
  return width & (width - 1) ? 1 : width < most ? width : most;
}

// As a number. The compiler goes on to know that the pointer is one to global memory, which it does
// not of one that was cast.
RNNCC_FN uint64_t address_of(const void* pointer) {
#if defined(__CUDA_ARCH__)
  uint64_t address;
  asm("cvta.to.global.u64 %0, %1;" : "=l"(address) : "l"(pointer));
  return address;
#else
  return reinterpret_cast<uint64_t>(pointer);
#endif
}

// A bit for each of many tensors.
template <int count> struct ManyBits {
  uint64_t words[(count + 63) / 64];
};

template <typename Mask> RNNCC_FN void set_bit(Mask& mask, int t, bool on) {
  mask |= Mask(on) << t;
}
template <typename Mask> RNNCC_FN bool has_bit(const Mask& mask, int t) { return mask >> t & 1; }
template <int count> RNNCC_FN void set_bit(ManyBits<count>& mask, int t, bool on) {
  mask.words[t / 64] |= uint64_t(on) << t % 64;
}
template <int count> RNNCC_FN bool has_bit(const ManyBits<count>& mask, int t) {
  return mask.words[t / 64] >> t % 64 & 1;
}
template <int count> RNNCC_FN ManyBits<count> kept(ManyBits<count> mask) { return mask; }

template <bool many, typename Of> struct BitsOf {
  typedef typename Bits<Of::kTensors <= 32>::type type;
};
template <typename Of> struct BitsOf<true, Of> {
  typedef ManyBits<Of::kTensors> type;
};

template <typename Of> struct Writer {
  typedef Layout<Of> L;
  io* at[Of::kTensors];      // of the next step
  int64_t on[Of::kTensors];  // to the one after
  typedef typename BitsOf<(Of::kTensors > 64), Of>::type Mask;
  Mask given;  // a bit for each tensor that is written
  bool together[Of::kTensors];

  // From a step of the run on, forward in time or, with -1, backward; unless `active`, nothing.
  RNNCC_MEMBER void aim(const Args& a, const Run& r, int step, int way, bool active) {
    given = Mask();
#pragma unroll
    for (int t = 0; t < Of::kTensors; ++t) {
      const auto& tensor = L::table.tensors[t];
      if (tensor.shared) continue;
      const View& view = Of::view(a, t);
      const int bytes = at_once(tensor.width) * int(sizeof(io));
      const int64_t apart = view.time * int(sizeof(io));
      at[t] = place_of(a, view, {t, 0, tensor.width}, r, step);
      on[t] = way < 0 ? kept(-view.time) : view.time;
      set_bit(given, t, active && view.data);
      if (tensor.width == 1) continue;
      together[t] = view.channel == 1 && (address_of(at[t]) | apart) % bytes == 0;
    }
    given = kept(given);
  }

  // The scalars of a step; the next one follows.
  RNNCC_MEMBER void write(const Args& a, const real* values) {
#pragma unroll
    for (int t = 0; t < Of::kTensors; ++t) {
      const auto& tensor = L::table.tensors[t];
      if (tensor.shared) continue;  // these are summed over channels
      if (has_bit(given, t)) {
        if (tensor.width == 1) from_real(values[tensor.first], *at[t]);
        else if (together[t]) write_together(at[t], values + tensor.first, tensor.width);
        else write_each(at[t], values + tensor.first, tensor.width, Of::view(a, t).channel);
      }
      at[t] += on[t];
    }
  }

 private:
  RNNCC_MEMBER static void write_each(io* to, const real* values, int width, int64_t apart) {
#pragma unroll
    for (int i = 0; i < width; ++i) from_real(values[i], to[i * apart]);
  }

  RNNCC_MEMBER static void write_together(io* to, const real* values, int width) {
    const int count = at_once(width);
#pragma unroll
    for (int first = 0; first < width; first += count) {
      __align__(16) io some[16 / sizeof(io)];
#pragma unroll
      for (int i = 0; i < count; ++i) from_real(values[first + i], some[i]);
      if (count * sizeof(io) == 16) copy<uint4>(to + first, some);
      else if (count * sizeof(io) == 8) copy<uint2>(to + first, some);
      else if (count * sizeof(io) == 4) copy<uint32_t>(to + first, some);
      else to[first] = some[0];
    }
  }

  template <typename T> RNNCC_MEMBER static void copy(io* to, const io* from) {
    *reinterpret_cast<T*>(to) = *reinterpret_cast<const T*>(from);
  }
};

}  // namespace rnncc
