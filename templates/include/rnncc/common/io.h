// Numbers in memory: their types, and where the scalars of a cell lie.
//
// `io` is the type of tensors, `real` that of the recurrence: float, or double for double.
#pragma once

#include "rnncc/common/functions.h"

#ifndef RNNCC_IO  // set by the compiler's command line
#define RNNCC_IO float
#endif

namespace rnncc {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

typedef RNNCC_IO io;
template <typename T> struct State {
  typedef float type;
};
template <> struct State<double> {
  typedef double type;
};
typedef State<io>::type real;

RNNCC_FN float to_real(float x) { return x; }
RNNCC_FN double to_real(double x) { return x; }
RNNCC_FN float to_real(bfloat16 x) { return from_bits(uint32_t(x.bits) << 16); }

RNNCC_FN void from_real(float x, float& y) { y = x; }
RNNCC_FN void from_real(double x, double& y) { y = x; }

#if defined(__CUDA_ARCH__)

RNNCC_FN float to_real(float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

RNNCC_FN void from_real(float x, float16& y) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
}

#else

RNNCC_FN float to_real(float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t body = uint32_t(x.bits & 0x7fffu);
  // shifting the exponent by a product is exact for subnormals too
  const float finite = from_bits(body << 13) * from_bits(0x77800000u);
  const uint32_t special = 0x7f800000u | (body << 13);
  return from_bits(sign | (body >= 0x7c00u ? special : bits_of(finite)));
}

RNNCC_FN void from_real(float x, float16& y) {
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, body = bits & 0x7fffffffu;
  // normal results round to nearest even by hand, subnormal ones by adding one half
  const uint32_t normal = (body - 0x38000000u + 0xfffu + ((body >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bits_of(from_bits(body) + 0.5f) - 0x3f000000u;
  const uint32_t finite = body < 0x38800000u ? subnormal : normal;
  const uint32_t large = body > 0x7f800000u ? 0x7e00u : 0x7c00u;
  y.bits = uint16_t(sign | (body >= 0x477ff000u ? large : finite));
}

#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

RNNCC_FN void from_real(float x, bfloat16& y) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
}

#else

RNNCC_FN void from_real(float x, bfloat16& y) {
  const uint32_t bits = bits_of(x);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y.bits = uint16_t(x != x ? 0x7fc0u : nearest_even);
}

#endif

}  // namespace rnncc

namespace rnncc {

// Where a scalar of the cell lies in its tensor: element offset + group * stride.
struct Slot {
  int tensor, offset, stride;
};

}  // namespace rnncc
