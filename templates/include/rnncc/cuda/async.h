// Asynchronous copies from memory to shared memory: they pass the registers by, and a warp computes
// while they are under way. A thread commits its copies in groups and waits for the oldest ones.
#pragma once

#include "rnncc/cuda/math.h"

namespace rnncc {

#if defined(__CUDA_ARCH__)

// A value that stays in a register: the compiler can't work it out again at every use.
RNNCC_FN uint32_t kept(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

RNNCC_FN int64_t kept(int64_t value) {
  asm volatile("" : "+l"(value));
  return value;
}

// A place in shared memory, as copies take it.
typedef uint32_t Place;

RNNCC_FN Place place_in_shared(void* to) {
  return kept(Place(__cvta_generic_to_shared(to)));
}

// `bytes` is 4, 8 or 16, and both addresses are multiples of it.
template <int bytes> RNNCC_FN void copy_async(Place there, const void* from) {
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(there), "l"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(there), "l"(from), "n"(bytes)
                 : "memory");
}

RNNCC_FN void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the newest `groups` groups of this thread are done.
template <int groups> RNNCC_FN void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#else

RNNCC_FN uint32_t kept(uint32_t value) { return value; }
RNNCC_FN int64_t kept(int64_t value) { return value; }

typedef unsigned char* Place;

RNNCC_FN Place place_in_shared(void* to) { return static_cast<Place>(to); }

template <int bytes> RNNCC_FN void copy_async(Place to, const void* from) {
  __pipeline_memcpy_async(to, from, bytes);
}

RNNCC_FN void commit_copies() { __pipeline_commit(); }

template <int groups> RNNCC_FN void wait_for_copies() { __pipeline_wait_prior(groups); }

#endif

}  // namespace rnncc
