// Stores past the cache. A store to memory that isn't in the cache reads its line first; of large
// results, which nobody reads before they have left the cache again, that is a third of the traffic.
#pragma once

#include "rnncc/common/io.h"

#if defined(__has_builtin)
#if __has_builtin(__builtin_nontemporal_store)
#define RNNCC_NONTEMPORAL
#endif
#endif

namespace rnncc {

#if defined(RNNCC_NONTEMPORAL) || defined(__SSE__)

constexpr bool kPastCache = true;

#if defined(RNNCC_NONTEMPORAL) || defined(__AVX512F__)
constexpr int kPiece = 64;
#elif defined(__AVX__)
constexpr int kPiece = 32;
#else
constexpr int kPiece = 16;
#endif

typedef float Piece __attribute__((vector_size(kPiece), may_alias));

RNNCC_FN void store_past_cache(Piece value, Piece* to) {
#if defined(RNNCC_NONTEMPORAL)
  __builtin_nontemporal_store(value, to);
#elif defined(__AVX512F__)
  __builtin_ia32_movntps512(reinterpret_cast<float*>(to), value);
#elif defined(__AVX__)
  __builtin_ia32_movntps256(reinterpret_cast<float*>(to), value);
#else
  __builtin_ia32_movntps(reinterpret_cast<float*>(to), value);
#endif
}

// Before other threads may read what was stored.
RNNCC_FN void wait_for_stores() {
#if defined(__SSE__)
  __builtin_ia32_sfence();
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

// A line of 64 bytes.
RNNCC_FN void move_past_cache(const void* from, void* to) {
  const Piece* const first = static_cast<const Piece*>(from);
  Piece* const there = static_cast<Piece*>(to);
  for (int i = 0; i < 64 / kPiece; ++i) store_past_cache(first[i], there + i);
}

#else

constexpr bool kPastCache = false;

RNNCC_FN void wait_for_stores() {}
RNNCC_FN void move_past_cache(const void*, void*) {}

#endif

}  // namespace rnncc
