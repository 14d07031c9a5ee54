// Elementary functions for emitted kernels: the float ones from the hardware's exponential and
// reciprocal, the others from CUDA's own library. NaN and infinity behave as in PyTorch. Results
// below the smallest normal float may flush to zero. With RNNCC_FAST_MATH sigmoid and tanh come
// from the hardware's tanh, whose relative error is 2^-11.
#pragma once

// A function, a function of a struct, and a kernel with a bound on the threads of a block. A long
// function isn't copied to each place that calls it: kernels compile faster, and spill less.
#ifndef RNNCC_FN
#define RNNCC_FN __device__ __forceinline__
#define RNNCC_MEMBER __device__ __forceinline__
#define RNNCC_LONG inline __device__ __noinline__
#define RNNCC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#endif

namespace rnncc {

typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

template <typename T> struct Real;
template <> struct Real<float> {
  static constexpr float infinity = __builtin_bit_cast(float, 0x7f800000);
};
template <> struct Real<double> {
  static constexpr double infinity = __builtin_bit_cast(double, 0x7ff0000000000000);
};

#if defined(__CUDA_ARCH__)
RNNCC_FN void use(float x) { asm volatile("" ::"f"(x)); }
RNNCC_FN void use(double x) { asm volatile("" ::"d"(x)); }
#else
template <typename T> RNNCC_FN void use(T) {}
#endif

// Has the compiler compute values here: where the same are wanted later, it takes these.
template <typename... T> RNNCC_FN void computed(T... values) { (use(values), ...); }

RNNCC_FN uint32_t bits_of(float x) { return __float_as_uint(x); }
RNNCC_FN uint64_t bits_of(double x) { return __builtin_bit_cast(uint64_t, x); }
RNNCC_FN float from_bits(uint32_t bits) { return __uint_as_float(bits); }

RNNCC_FN float sqrt(float x) { return ::sqrtf(x); }
RNNCC_FN double sqrt(double x) { return ::sqrt(x); }
RNNCC_FN float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
RNNCC_FN double rsqrt(double x) { return 1.0 / ::sqrt(x); }
RNNCC_FN float abs(float x) { return ::fabsf(x); }
RNNCC_FN double abs(double x) { return ::fabs(x); }
RNNCC_FN float floor(float x) { return ::floorf(x); }
RNNCC_FN double floor(double x) { return ::floor(x); }
RNNCC_FN float round(float x) { return ::rintf(x); }
RNNCC_FN double round(double x) { return ::rint(x); }
RNNCC_FN float exp(float x) { return ::expf(x); }
RNNCC_LONG double exp(double x) { return ::exp(x); }
RNNCC_FN float expm1(float x) { return ::expm1f(x); }
RNNCC_LONG double expm1(double x) { return ::expm1(x); }
RNNCC_FN float log(float x) { return ::logf(x); }
RNNCC_LONG double log(double x) { return ::log(x); }
RNNCC_FN float log1p(float x) { return ::log1pf(x); }
RNNCC_LONG double log1p(double x) { return ::log1p(x); }
RNNCC_FN float sinh(float x) { return ::sinhf(x); }
RNNCC_LONG double sinh(double x) { return ::sinh(x); }
RNNCC_FN float cosh(float x) { return ::coshf(x); }
RNNCC_LONG double cosh(double x) { return ::cosh(x); }
RNNCC_FN float erf(float x) { return ::erff(x); }
RNNCC_LONG double erf(double x) { return ::erf(x); }
RNNCC_FN float log2(float x) { return ::log2f(x); }
RNNCC_LONG double log2(double x) { return ::log2(x); }
RNNCC_FN float exp2(float x) { return ::exp2f(x); }
RNNCC_LONG double exp2(double x) { return ::exp2(x); }
RNNCC_FN float atan(float x) { return ::atanf(x); }
RNNCC_LONG double atan(double x) { return ::atan(x); }
RNNCC_FN float asin(float x) { return ::asinf(x); }
RNNCC_LONG double asin(double x) { return ::asin(x); }
RNNCC_FN float acos(float x) { return ::acosf(x); }
RNNCC_LONG double acos(double x) { return ::acos(x); }
RNNCC_LONG float atan2(float y, float x) { return ::atan2f(y, x); }
RNNCC_LONG double atan2(double y, double x) { return ::atan2(y, x); }
RNNCC_FN float asinh(float x) { return ::asinhf(x); }
RNNCC_LONG double asinh(double x) { return ::asinh(x); }
RNNCC_FN float acosh(float x) { return ::acoshf(x); }
RNNCC_LONG double acosh(double x) { return ::acosh(x); }
RNNCC_FN float atanh(float x) { return ::atanhf(x); }
RNNCC_LONG double atanh(double x) { return ::atanh(x); }
RNNCC_LONG float pow(float x, float y) { return ::powf(x, y); }
RNNCC_LONG double pow(double x, double y) { return ::pow(x, y); }

RNNCC_LONG double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }
RNNCC_LONG double tanh(double x) { return ::tanh(x); }

#if defined(RNNCC_FAST_MATH) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750

RNNCC_FN float tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

RNNCC_FN float sigmoid(float x) { return 0.5f + 0.5f * tanh(0.5f * x); }

#else

// The hardware's reciprocal: 0 from 2^126 on. As a quotient it would take a product with 1 too.
RNNCC_FN float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __fdividef(1.0f, x);
#endif
}

RNNCC_FN float sigmoid(float x) { return reciprocal(1.0f + ::exp2f(x * -1.44269504f)); }

// Below 0.55: x + x^3 P(x^2), error 3.7e-8; above, 1 - 2 / (1 + exp(2 x)).
RNNCC_FN float tanh(float x) {
  const float a = ::fabsf(x), z = x * x;
  const float large = 1.0f - 2.0f * reciprocal(1.0f + ::exp2f(a * 2.88539008f));
  const float p = -0.33332947f + z * (0.13320725f + z * (-0.05267181f + z * 0.01643758f));
  return a < 0.55f ? x + x * z * p : ::copysignf(large, x);
}

#endif

// sin(x + phase pi) for phase 0 or 1/2, without the loop of CUDA's own, so that values that depend
// only on params leave the loop over steps. The reduction is in double; from 2^30 on the result is
// NaN, not a wrong number. On |r| <= pi/2: r + r^3 P(r^2), error 2.4e-11.
RNNCC_FN float sin_with_phase(float x, double phase) {
  const double turns = ::rint(double(x) * 0.31830988618379067 + phase), n = turns - phase;
  const double rest = ::fma(-n, 1.2246467991473532e-16, ::fma(-n, 3.1415926535897931, double(x)));
  const float r = float(rest), z = r * r;
  const float p =
      -0.16666666f +
      z * (0.0083333310f + z * (-0.00019840868f + z * (2.7525371e-06f + z * -2.3888675e-08f)));
  const float y = r + r * z * p, odd = (long long)(turns) & 1 ? -y : y;
  return ::fabsf(x) < 1073741824.0f ? odd : __builtin_bit_cast(float, 0x7fc00000);
}

RNNCC_FN float sin(float x) { return sin_with_phase(x, 0.0); }
RNNCC_FN float cos(float x) { return sin_with_phase(x, 0.5); }
RNNCC_LONG double sin(double x) { return ::sin(x); }
RNNCC_LONG double cos(double x) { return ::cos(x); }

// log(1 + exp(x)).
template <typename T> RNNCC_FN T softplus(T x) {
  return (x < T(0) ? T(0) : x) + log1p(exp(-abs(x)));
}

template <typename T> RNNCC_FN T logsigmoid(T x) { return -softplus(-x); }

RNNCC_LONG float truncated_remainder(float x, float y) { return ::fmodf(x, y); }
RNNCC_LONG double truncated_remainder(double x, double y) { return ::fmod(x, y); }

// x less a whole multiple of y, of the sign of y.
template <typename T> RNNCC_FN T remainder(T x, T y) {
  const T r = truncated_remainder(x, y);
  return r != T(0) && (r < T(0)) != (y < T(0)) ? r + y : r;
}

// Of the true quotient: that of 1 / 0.1 rounds to 10, which is one too many.
template <typename T> RNNCC_FN T floor_divide(T x, T y) {
  const T r = truncated_remainder(x, y);
  const T n = round((x - r) / y) - (r != T(0) && (r < T(0)) != (y < T(0)) ? T(1) : T(0));
  return y == T(0) ? x / y : n;
}

}  // namespace rnncc
