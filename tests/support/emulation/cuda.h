// The CUDA that kernel.cu may use, as plain C++ for the host: force-included before its text. Nothing
// is declared that NVRTC does not know without an #include, so text that leans on a header fails here
// as it fails there. Code that only a GPU can run is in kernel.cu under __CUDA_ARCH__.
#pragma once

#include "calls.h"

// ---- the language ----------------------------------------------------------------------------------

#define __CUDACC_RTC__ 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

#define __shared__ static          // blocks run one after another: one array serves them all

typedef __SIZE_TYPE__ size_t;

extern "C" {
void* memcpy(void*, const void*, size_t);
void* memset(void*, int, size_t);
}

#define EMULATION_VECTOR(name, T, bytes)                                                         \
  struct __attribute__((aligned(2 * bytes))) name##2 { T x, y; };                                \
  struct name##3 { T x, y, z; };                                                                 \
  struct __attribute__((aligned(4 * bytes < 16 ? 4 * bytes : 16))) name##4 { T x, y, z, w; };    \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                     \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                             \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATION_VECTOR(float, float, 4)
EMULATION_VECTOR(double, double, 8)
EMULATION_VECTOR(int, int, 4)
EMULATION_VECTOR(short, short, 2)
EMULATION_VECTOR(ushort, unsigned short, 2)
EMULATION_VECTOR(longlong, long long, 8)
EMULATION_VECTOR(ulonglong, unsigned long long, 8)
#undef EMULATION_VECTOR
struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- threads that wait for each other --------------------------------------------------------------
// The last argument is the caller's line: threads that meet must come from the same one.

#define EMULATION_LINE int line = __builtin_LINE()

inline void __syncthreads(EMULATION_LINE) {
  emulation::meet_block(emulation::Kind::syncthreads, line, 0);
}
inline int __syncthreads_and(int vote, EMULATION_LINE) {
  return emulation::meet_block(emulation::Kind::syncthreads_and, line, vote);
}
inline int __syncthreads_or(int vote, EMULATION_LINE) {
  return emulation::meet_block(emulation::Kind::syncthreads_or, line, vote);
}
inline int __syncthreads_count(int vote, EMULATION_LINE) {
  return emulation::meet_block(emulation::Kind::syncthreads_count, line, vote);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATION_LINE) {
  emulation::meet_warp({emulation::Kind::syncwarp, line, mask, 0, 32}, 0);
}
inline unsigned __ballot_sync(unsigned mask, int vote, EMULATION_LINE) {
  return unsigned(emulation::meet_warp({emulation::Kind::ballot, line, mask, 0, 32}, vote != 0));
}
inline int __any_sync(unsigned mask, int vote, EMULATION_LINE) {
  return int(emulation::meet_warp({emulation::Kind::any, line, mask, 0, 32}, vote != 0));
}
inline int __all_sync(unsigned mask, int vote, EMULATION_LINE) {
  return int(emulation::meet_warp({emulation::Kind::all, line, mask, 0, 32}, vote != 0));
}

// No lane can count on another that it has not named: the mask of this lane alone.
inline unsigned __activemask() {
  return 1u << ((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

#define EMULATION_SHUFFLE(name, kind_name, T, Offset)                                            \
  inline T name(unsigned mask, T value, Offset offset, int width = 32, EMULATION_LINE) {         \
    unsigned long long bits = 0;                                                                 \
    memcpy(&bits, &value, sizeof value);                                                         \
    bits = emulation::meet_warp(                                                                 \
        {emulation::Kind::kind_name, line, mask, int(offset), width}, bits);                     \
    memcpy(&value, &bits, sizeof value);                                                         \
    return value;                                                                                \
  }
#define EMULATION_SHUFFLES(T)                                                                    \
  EMULATION_SHUFFLE(__shfl_sync, shuffle, T, int)                                                \
  EMULATION_SHUFFLE(__shfl_up_sync, shuffle_up, T, unsigned)                                     \
  EMULATION_SHUFFLE(__shfl_down_sync, shuffle_down, T, unsigned)                                 \
  EMULATION_SHUFFLE(__shfl_xor_sync, shuffle_xor, T, int)
EMULATION_SHUFFLES(int)
EMULATION_SHUFFLES(unsigned)
EMULATION_SHUFFLES(long)
EMULATION_SHUFFLES(unsigned long)
EMULATION_SHUFFLES(long long)
EMULATION_SHUFFLES(unsigned long long)
EMULATION_SHUFFLES(float)
EMULATION_SHUFFLES(double)
#undef EMULATION_SHUFFLES
#undef EMULATION_SHUFFLE

// ---- memory ----------------------------------------------------------------------------------------

inline void __threadfence() { emulation::fence(); }
inline void __threadfence_block() {}

template <typename T> inline T __ldg(const T* address) { return *address; }
template <typename T> inline T __ldcs(const T* address) { return *address; }
template <typename T> inline T __ldcg(const T* address) { return *address; }
template <typename T> inline void __stcs(T* address, T value) { *address = value; }

// What cp.async does, by the names of cuda_pipeline_primitives.h. A copy may be made at any time from
// its issue to the wait for it: at once what was there is lost, and only the wait brings what is new.
inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, EMULATION_LINE) {
  emulation::add_copy(to, from, unsigned(bytes), line);
  for (size_t i = 0; i < bytes / 4; ++i) static_cast<unsigned*>(to)[i] = 0xffffffffu;
}
inline void __pipeline_commit() { emulation::commit_copies(); }
inline void __pipeline_wait_prior(unsigned newest) {
  void* to;
  const void* from;
  unsigned bytes;
  while (emulation::take_copy(newest, &to, &from, &bytes))
    for (size_t i = 0; i < bytes / 4; ++i)
      static_cast<unsigned*>(to)[i] = static_cast<const unsigned*>(from)[i];
}

// The race detector learns of atomics from before_atomic, not from the compiler.
#define EMULATION_ATOMIC(name, T, result)                                                        \
  __attribute__((no_sanitize("thread"))) inline T name(T* address, T value, EMULATION_LINE) {    \
    emulation::before_atomic(address, sizeof(T), line);                                           \
    const T old = *address;                                                                      \
    *address = result;                                                                           \
    return old;                                                                                  \
  }
#define EMULATION_ATOMIC_BITS(T)                                                                 \
  EMULATION_ATOMIC(atomicAnd, T, old & value)                                                    \
  EMULATION_ATOMIC(atomicOr, T, old | value)                                                     \
  EMULATION_ATOMIC(atomicXor, T, old ^ value)                                                    \
  EMULATION_ATOMIC(atomicExch, T, value)
#define EMULATION_ATOMIC_ORDER(T)                                                                \
  EMULATION_ATOMIC(atomicMax, T, value > old ? value : old)                                      \
  EMULATION_ATOMIC(atomicMin, T, value < old ? value : old)
#define EMULATION_ATOMIC_CAS(T)                                                                  \
  __attribute__((no_sanitize("thread"))) inline T atomicCAS(T* address, T expected, T value, EMULATION_LINE) { \
    emulation::before_atomic(address, sizeof(T), line);                                           \
    const T old = *address;                                                                      \
    if (old == expected) *address = value;                                                       \
    return old;                                                                                  \
  }
EMULATION_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))
EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATION_ATOMIC(atomicAdd, float, old + value)
EMULATION_ATOMIC(atomicAdd, double, old + value)
EMULATION_ATOMIC(atomicSub, int, int(unsigned(old) - unsigned(value)))
EMULATION_ATOMIC(atomicSub, unsigned, old - value)
EMULATION_ATOMIC(atomicExch, float, value)
EMULATION_ATOMIC_BITS(int)
EMULATION_ATOMIC_BITS(unsigned)
EMULATION_ATOMIC_BITS(unsigned long long)
EMULATION_ATOMIC_ORDER(int)
EMULATION_ATOMIC_ORDER(unsigned)
EMULATION_ATOMIC_ORDER(long long)
EMULATION_ATOMIC_ORDER(unsigned long long)
EMULATION_ATOMIC_CAS(int)
EMULATION_ATOMIC_CAS(unsigned)
EMULATION_ATOMIC_CAS(unsigned long long)
#undef EMULATION_ATOMIC_CAS
#undef EMULATION_ATOMIC_ORDER
#undef EMULATION_ATOMIC_BITS
#undef EMULATION_ATOMIC

// ---- numbers ---------------------------------------------------------------------------------------

#define EMULATION_CAST(name, To, From)                                                           \
  inline To name(From from) {                                                                    \
    static_assert(sizeof(To) == sizeof(From), "");                                               \
    To to;                                                                                       \
    memcpy(&to, &from, sizeof to);                                                               \
    return to;                                                                                   \
  }
EMULATION_CAST(__int_as_float, float, int)
EMULATION_CAST(__float_as_int, int, float)
EMULATION_CAST(__uint_as_float, float, unsigned)
EMULATION_CAST(__float_as_uint, unsigned, float)
EMULATION_CAST(__longlong_as_double, double, long long)
EMULATION_CAST(__double_as_longlong, long long, double)
#undef EMULATION_CAST

// name(double), namef(float) and, as in CUDA's C++, name(float).
#define EMULATION_MATH(name)                                                                     \
  extern "C" double name(double);                                                                \
  extern "C" float name##f(float);                                                               \
  inline float name(float x) { return name##f(x); }
#define EMULATION_MATH_2(name)                                                                   \
  extern "C" double name(double, double);                                                        \
  extern "C" float name##f(float, float);                                                        \
  inline float name(float x, float y) { return name##f(x, y); }
EMULATION_MATH(exp)
EMULATION_MATH(exp2)
EMULATION_MATH(expm1)
EMULATION_MATH(log)
EMULATION_MATH(log2)
EMULATION_MATH(log10)
EMULATION_MATH(log1p)
EMULATION_MATH(sqrt)
EMULATION_MATH(cbrt)
EMULATION_MATH(sin)
EMULATION_MATH(cos)
EMULATION_MATH(tan)
EMULATION_MATH(asin)
EMULATION_MATH(acos)
EMULATION_MATH(atan)
EMULATION_MATH(sinh)
EMULATION_MATH(cosh)
EMULATION_MATH(tanh)
EMULATION_MATH(asinh)
EMULATION_MATH(acosh)
EMULATION_MATH(atanh)
EMULATION_MATH(erf)
EMULATION_MATH(erfc)
EMULATION_MATH(fabs)
EMULATION_MATH(floor)
EMULATION_MATH(ceil)
EMULATION_MATH(trunc)
EMULATION_MATH(round)
EMULATION_MATH(rint)
EMULATION_MATH_2(pow)
EMULATION_MATH_2(atan2)
EMULATION_MATH_2(fmod)
EMULATION_MATH_2(fmax)
EMULATION_MATH_2(fmin)
EMULATION_MATH_2(copysign)
#undef EMULATION_MATH
#undef EMULATION_MATH_2
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" double ldexp(double, int);
extern "C" float ldexpf(float, int);
inline float ldexp(float x, int exponent) { return ldexpf(x, exponent); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return rsqrtf(x); }

#define EMULATION_KIND(T)                                                                        \
  inline bool isnan(T x) { return __builtin_isnan(x); }                                          \
  inline bool isinf(T x) { return __builtin_isinf(x); }                                          \
  inline bool isfinite(T x) { return __builtin_isfinite(x); }                                    \
  inline bool signbit(T x) { return __builtin_signbit(x); }
EMULATION_KIND(float)
EMULATION_KIND(double)
#undef EMULATION_KIND

#define EMULATION_ORDER(T)                                                                       \
  inline T min(T x, T y) { return y < x ? y : x; }                                               \
  inline T max(T x, T y) { return x < y ? y : x; }
EMULATION_ORDER(int)
EMULATION_ORDER(unsigned)
EMULATION_ORDER(long)
EMULATION_ORDER(unsigned long)
EMULATION_ORDER(long long)
EMULATION_ORDER(unsigned long long)
#undef EMULATION_ORDER
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

// The hardware's own functions, by the formulas that CUDA's guide gives for them, so that they lose
// as much accuracy far from 0; the last bits differ.
inline float __expf(float x) { return exp2f(x * 1.4426950408889634f); }
inline float __exp10f(float x) { return exp2f(x * 3.3219280948873623f); }
inline float __log2f(float x) { return log2f(x); }
inline float __logf(float x) { return log2f(x) * 0.6931471805599453f; }
inline float __powf(float x, float y) { return exp2f(y * log2f(x)); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

// Its reciprocal of a divisor beyond 2^126 is 0.
inline float __fdividef(float x, float y) {
  const float size = fabsf(y);
  return size > 0x1p126f && size <= 0x1.fffffep127f ? x * 0.0f : x / y;
}

inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

#undef EMULATION_LINE
