// Shared memory: the kernels' static arrays, which lie between the two objects of bound.cpp, and the
// dynamic memory of a launch.
#pragma once

#include "machine.h"

extern unsigned char emulation_static_begin[], emulation_static_end[];  // of bound.cpp

namespace emulation {

unsigned char* dynamic_shared;

// Dynamic memory ends where its last page does and one that must not be touched begins; under
// AddressSanitizer it is a block of the heap, with its own guards.
#ifdef EMULATION_SANITIZE

static void get_dynamic() { dynamic_shared = static_cast<unsigned char*>(malloc(launch.shared)); }
static void drop_dynamic() { free(dynamic_shared); }

#else

constexpr size_t kDynamicBytes = size_t(256) << 10;

static void get_dynamic() {
  static char* memory;
  if (!memory) {
    memory = reserve(kDynamicBytes + 2 * page_bytes());
    mprotect(memory + kDynamicBytes, 2 * page_bytes(), PROT_NONE);
  }
  const size_t bytes = (launch.shared + 15) / 16 * 16;  // CUDA aligns it to as much
  dynamic_shared = reinterpret_cast<unsigned char*>(memory + kDynamicBytes - bytes);
}

static void drop_dynamic() {}

#endif

static unsigned char* static_shared() { return emulation_static_begin + 64; }

// Of all kernels of the file. None under AddressSanitizer, which has guards between the arrays.
static size_t static_bytes() {
#ifdef EMULATION_SANITIZE
  return 0;
#else
  return size_t(emulation_static_end - static_shared());
#endif
}

// NaN everywhere: memory that a block has not written is not 0, nor left from the block before.
static void spoil_shared() {
  memset(static_shared(), 0xff, static_bytes());
  memset(dynamic_shared, 0xff, launch.shared);
}

}  // namespace emulation
