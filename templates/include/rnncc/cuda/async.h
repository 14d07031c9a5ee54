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

RNNCC_FN uint64_t kept(uint64_t value) { return uint64_t(kept(int64_t(value))); }

// A place in shared memory, as copies take it.
typedef uint32_t Place;

RNNCC_FN Place place_in_shared(void* to) { return kept(Place(__cvta_generic_to_shared(to))); }

// `bytes` is 4, 8 or 16, and both addresses are multiples of it.
template <int bytes> RNNCC_FN void copy_async(Place there, const void* from);

#if __CUDA_ARCH__ >= 800

template <> RNNCC_FN void copy_async<16>(Place there, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(there), "l"(from) : "memory");
}

template <> RNNCC_FN void copy_async<8>(Place there, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(there), "l"(from) : "memory");
}

template <> RNNCC_FN void copy_async<4>(Place there, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(there), "l"(from) : "memory");
}

RNNCC_FN void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the newest `groups` groups of this thread are done.
template <int groups> RNNCC_FN void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#else  // through registers, at once

template <> RNNCC_FN void copy_async<16>(Place there, const void* from) {
  asm volatile(
      "{ .reg .b32 a, b, c, d; ld.global.v4.b32 {a, b, c, d}, [%1];"
      " st.shared.v4.b32 [%0], {a, b, c, d}; }" ::"r"(there),
      "l"(from)
      : "memory");
}

template <> RNNCC_FN void copy_async<8>(Place there, const void* from) {
  asm volatile("{ .reg .b64 a; ld.global.b64 a, [%1]; st.shared.b64 [%0], a; }" ::"r"(there),
               "l"(from)
               : "memory");
}

template <> RNNCC_FN void copy_async<4>(Place there, const void* from) {
  asm volatile("{ .reg .b32 a; ld.global.b32 a, [%1]; st.shared.b32 [%0], a; }" ::"r"(there),
               "l"(from)
               : "memory");
}

RNNCC_FN void commit_copies() {}

template <int groups> RNNCC_FN void wait_for_copies() {}

#endif

#else

RNNCC_FN uint32_t kept(uint32_t value) { return value; }
RNNCC_FN int64_t kept(int64_t value) { return value; }
RNNCC_FN uint64_t kept(uint64_t value) { return value; }

typedef unsigned char* Place;

RNNCC_FN Place place_in_shared(void* to) { return static_cast<Place>(to); }

template <int bytes> RNNCC_FN void copy_async(Place to, const void* from) {
  __pipeline_memcpy_async(to, from, bytes);
}

RNNCC_FN void commit_copies() { __pipeline_commit(); }

template <int groups> RNNCC_FN void wait_for_copies() { __pipeline_wait_prior(groups); }

#endif

}  // namespace rnncc
