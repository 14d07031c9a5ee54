// Elementary functions for emitted kernels: scalar text without a branch or a call, so that the
// compiler's own vectoriser turns a loop over channels into vector code.
//
// NaN and infinity behave as in PyTorch, so -ffast-math must stay off. Results below the smallest
// normal number may flush to zero; zeros have no sign. An error in a comment is that of the
// approximation, relative to its function; with rounding, results are within 1 to 3 ulp.
#pragma once

#include <stdint.h>

#ifndef RNNCC_FN
#define RNNCC_FN static inline __attribute__((always_inline))
#define RNNCC_MEMBER inline
#define RNNCC_LONG RNNCC_FN
#endif

namespace rnncc {

template <typename T> struct Real;

template <> struct Real<float> {
  using Bits = uint32_t;
  static constexpr int fraction_bits = 23, bias = 127;
  static constexpr float two_fraction = 0x1p23f, smallest_normal = 0x1p-126f;
  static constexpr float infinity = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float sqrt_half = 0.70710678f, log2_e = 1.44269504f, ln2 = 0.69314718f;
  // ln(2) = ln2_hi + ln2_lo, where an exponent times ln2_hi is exact.
  static constexpr float ln2_hi = 0.693145751953125f, ln2_lo = 1.42860682e-6f;
  static constexpr float exp_overflow = 88.7228317f;       // exp is finite up to here
  static constexpr float half_exp_overflow = 89.4159851f;  // exp(x) / 2 is finite up to here
  static constexpr float exp_underflow = -87.3365402f;     // exp is normal from here on
  static constexpr float saturation = 88.0f;               // exp(-x) counts as 0 beyond
};

template <> struct Real<double> {
  using Bits = uint64_t;
  static constexpr int fraction_bits = 52, bias = 1023;
  static constexpr double two_fraction = 0x1p52, smallest_normal = 0x1p-1022;
  static constexpr double infinity = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double sqrt_half = 0.70710678118654752, log2_e = 1.4426950408889634;
  static constexpr double ln2 = 0.69314718055994531, ln2_hi = 0.693147180559663;
  static constexpr double ln2_lo = 2.8235290563031577e-13;
  static constexpr double exp_overflow = 709.782712893384;
  static constexpr double half_exp_overflow = 710.4758600739439;
  static constexpr double exp_underflow = -708.3964185322641;
  static constexpr double saturation = 709.0;
};

template <typename To, typename From> RNNCC_FN To bit_cast(From from) {
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

RNNCC_FN uint32_t bits_of(float x) { return bit_cast<uint32_t>(x); }
RNNCC_FN uint64_t bits_of(double x) { return bit_cast<uint64_t>(x); }
RNNCC_FN float from_bits(uint32_t bits) { return bit_cast<float>(bits); }
RNNCC_FN double from_bits(uint64_t bits) { return bit_cast<double>(bits); }

// c0 + c1 x + c2 x^2 + ...
template <typename T> RNNCC_FN T polynomial(T, T c0) { return c0; }

template <typename T, typename... Rest> RNNCC_FN T polynomial(T x, T c0, Rest... rest) {
  return c0 + x * polynomial(x, rest...);
}

template <typename T> RNNCC_FN T copy_sign(T magnitude, T signed_value) {
  using Bits = typename Real<T>::Bits;
  const Bits sign_bit = Bits(1) << (8 * sizeof(T) - 1);
  return from_bits(bits_of(magnitude) | (bits_of(signed_value) & sign_bit));
}

RNNCC_FN float sqrt(float x) { return __builtin_sqrtf(x); }
RNNCC_FN double sqrt(double x) { return __builtin_sqrt(x); }
RNNCC_FN float abs(float x) { return __builtin_fabsf(x); }
RNNCC_FN double abs(double x) { return __builtin_fabs(x); }
RNNCC_FN float floor(float x) { return __builtin_floorf(x); }
RNNCC_FN double floor(double x) { return __builtin_floor(x); }
RNNCC_FN float round(float x) { return __builtin_rintf(x); }
RNNCC_FN double round(double x) { return __builtin_rint(x); }
template <typename T> RNNCC_FN T rsqrt(T x) { return T(1) / sqrt(x); }

// n = round(x log2(e)), held twice: as a number, and in the low bits of `shifted` with an offset.
template <typename T> struct Exponent {
  T n;
  typename Real<T>::Bits shifted;
};

template <typename T> RNNCC_FN Exponent<T> exponent_of_exp(T x, int offset) {
  using R = Real<T>;
  const T rounder = T(1.5) * R::two_fraction + T(offset);
  T shifted = x * R::log2_e + rounder;  // rounds: numbers of this size are 1 apart
  return {shifted - rounder, bits_of(shifted)};
}

// 2^n, from an exponent whose offset is the bias; the lowest n gives 0.
template <typename T> RNNCC_FN T power_of_two(Exponent<T> e) {
  return from_bits(e.shifted << Real<T>::fraction_bits);
}

// r = x - n ln(2), so that exp(x) = 2^n exp(r) with |r| <= ln(2)/2; or a part of r.
template <typename T> RNNCC_FN T remainder_of_exp(T x, T n, T part = T(1)) {
  using R = Real<T>;
  return (part * x - n * (part * R::ln2_hi)) - n * (part * R::ln2_lo);
}

// expm1(r) = r + r^2 P(r) on |r| <= ln(2)/2, error 1.7e-8.
RNNCC_FN float small_expm1(float r) {
  float z = r * r;  // terms in pairs: a shorter chain than Horner's
  float low = 0.49999997f + r * 0.16666543f, mid = 0.0416672f + r * 0.0083665475f;
  return r + z * (low + z * (mid + z * 0.0013882517f));
}

// The same: error 3.3e-17.
RNNCC_FN double small_expm1(double r) {
  double p = polynomial(r, 0.5000000000000006, 0.16666666666666588, 0.041666666666576466,
                        0.008333333333389734, 0.0013888888931667027, 0.00019841269718707673,
                        2.4801505142785333e-05, 2.75574076892225e-06, 2.7626092799817644e-07,
                        2.505377465346856e-08);
  return r + r * r * p;
}

// exp(x) 2^offset for |x| up to overflow. Adding n to the exponent of exp(r), rather than
// multiplying by 2^n, stays right up to the largest finite result.
template <typename T> RNNCC_FN T scaled_exp(T x, int offset) {
  Exponent<T> e = exponent_of_exp(x, offset);
  T y = T(1) + small_expm1(remainder_of_exp(x, e.n));
  return from_bits(bits_of(y) + (e.shifted << Real<T>::fraction_bits));
}

template <typename T> RNNCC_FN T exp(T x) {
  using R = Real<T>;
  T y = scaled_exp(x, 0);
  y = x < R::exp_underflow ? T(0) : y;
  return x <= R::exp_overflow ? y : x * R::infinity;  // infinity or NaN
}

// exp(x) / 2 for x >= 0.
template <typename T> RNNCC_FN T half_exp(T x) {
  using R = Real<T>;
  T y = scaled_exp(x, -1);
  return x <= R::half_exp_overflow ? y : x * R::infinity;
}

// exp(x) for x <= 0, flushed to 0 beyond saturation.
template <typename T> RNNCC_FN T decaying_exp(T x) {
  using R = Real<T>;
  x = x < -R::saturation ? -R::saturation : x;
  Exponent<T> e = exponent_of_exp(x, R::bias);
  return power_of_two(e) * (T(1) + small_expm1(remainder_of_exp(x, e.n)));
}

template <typename T> RNNCC_FN T expm1(T x) {
  using R = Real<T>;
  x = x < T(-40) ? T(-40) : x;                                        // -1 to either precision
  x = x > R::exp_overflow + T(0.25) ? R::exp_overflow + T(0.25) : x;  // half + half overflows here
  Exponent<T> e = exponent_of_exp(x, R::bias - 1);
  T half_scale = power_of_two(e);
  T half = half_scale * small_expm1(remainder_of_exp(x, e.n)) + (half_scale - T(0.5));
  return half + half;
}

// tanh(r) = r + r^3 P(r^2) on |r| <= ln(2)/4, error 5.6e-8.
RNNCC_FN float small_tanh(float r) {
  float z = r * r;
  return r + r * z * polynomial(z, -0.3333127f, 0.13110453f);
}

// The same: error 4.2e-18.
RNNCC_FN double small_tanh(double r) {
  double z = r * r;
  return r + r * z *
                 polynomial(z, -0.3333333333333248, 0.1333333333278157, -0.05396825277825514,
                            0.021869370435420487, -0.008857299447901468, 0.0034447229941888076);
}

// sigmoid and tanh divide once anyway, so they take exp(-x) = 2^n (1 + w) / (1 - w) with
// w = tanh(r/2), odd in r: half the terms of exp's polynomial.
template <typename T> RNNCC_FN T sigmoid(T x) {
  using R = Real<T>;
  Exponent<T> e = exponent_of_exp(-x, R::bias);
  T w = small_tanh(remainder_of_exp(-x, e.n, T(0.5)));
  T rest = T(1) - w;
  T y = rest / (power_of_two(e) * (T(1) + w) + rest);
  y = x < -R::saturation ? T(0) : y;
  return x > R::saturation ? T(1) : y;
}

template <typename T> RNNCC_FN T tanh(T x) {
  using R = Real<T>;
  T a = abs(x);
  Exponent<T> e = exponent_of_exp(T(2) * a, R::bias);
  T w = small_tanh(a - e.n * (R::ln2 / T(2)));
  T scale = power_of_two(e), less = scale - T(1), more = scale + T(1);
  T y = (less + more * w) / (more + less * w);
  return copy_sign(a > T(20) ? T(1) : y, x);  // 1 to either precision
}

// log(1 + f) = f - s (f - s^2 P(s^2)) with s = f / (2 + f) on |s| <= 1/3, error 5.5e-9.
RNNCC_FN float log_tail(float z) {
  return polynomial(z, 0.6666642f, 0.40021527f, 0.28001806f, 0.28011987f);
}

// The same: error 5.2e-17.
RNNCC_FN double log_tail(double z) {
  return polynomial(z, 0.666666666666777, 0.39999999996049934, 0.28571429057979036,
                    0.22222192905295118, 0.18182814061117814, 0.1536429562618754,
                    0.1358631389754768, 0.0990282047624301, 0.17739763470060577);
}

// log(1 + f) for -1/2 <= f <= 1.
template <typename T> RNNCC_FN T small_log1p(T f) {
  T s = f / (T(2) + f), z = s * s;
  return f - s * (f - z * log_tail(z));
}

// log(2^n (1 + f)) for sqrt(1/2) <= 1 + f <= sqrt(2).
template <typename T> RNNCC_FN T scaled_log1p(T n, T f) {
  using R = Real<T>;
  return n * R::ln2_hi + (small_log1p(f) + n * R::ln2_lo);
}

// x = 2^n m with sqrt(1/2) <= m < sqrt(2), for normal x > 0.
template <typename T> struct Split {
  T n, m;
};

template <typename T> RNNCC_FN Split<T> split(T x) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  const Bits low = bits_of(R::sqrt_half);
  Bits b = bits_of(x) + (bits_of(T(1)) - low);  // its exponent field steps at sqrt(1/2) 2^n
  T n = from_bits((b >> R::fraction_bits) | bits_of(R::two_fraction));
  Bits fraction = b & ((Bits(1) << R::fraction_bits) - 1);
  return {n - (R::two_fraction + T(R::bias)), from_bits(fraction + low)};
}

// log(x): y, which holds for finite x > 0, or the limit.
template <typename T> RNNCC_FN T log_or_limit(T x, T y) {
  using R = Real<T>;
  y = x < R::infinity ? y : x;
  return x > T(0) ? y : (x == T(0) ? -R::infinity : R::nan);
}

template <typename T> RNNCC_FN T log(T x) {
  using R = Real<T>;
  bool denormal = x < R::smallest_normal;
  Split<T> s = split(denormal ? x * R::two_fraction : x);
  T n = denormal ? s.n - T(R::fraction_bits) : s.n;
  return log_or_limit(x, scaled_log1p(n, s.m - T(1)));
}

template <typename T> RNNCC_FN T log1p(T x) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  T y = T(1) + x;
  T lost = x - (y - T(1));  // 1 + x = y + lost; both are scaled by 2^-n
  Split<T> s = split(y);
  // 2^(1 - n), which unlike 2^-n is finite for every y
  T scale = from_bits(bits_of(s.m) - bits_of(y) + (Bits(R::bias + 1) << R::fraction_bits));
  return log_or_limit(y, scaled_log1p(s.n, (s.m - T(1)) + T(0.5) * lost * scale));
}

// log2(2^n (1 + f)): whole at a power of two.
template <typename T> RNNCC_FN T log2(T x) {
  using R = Real<T>;
  bool denormal = x < R::smallest_normal;
  Split<T> s = split(denormal ? x * R::two_fraction : x);
  T n = denormal ? s.n - T(R::fraction_bits) : s.n;
  return log_or_limit(x, n + small_log1p(s.m - T(1)) * R::log2_e);
}

// 2^x = 2^n exp(r ln(2)) with n = round(x).
template <typename T> RNNCC_FN T exp2(T x) {
  using R = Real<T>;
  const T rounder = T(1.5) * R::two_fraction, bias = T(R::bias);
  T shifted = x + rounder, n = shifted - rounder;
  T y = T(1) + small_expm1((x - n) * R::ln2);
  y = from_bits(bits_of(y) + (bits_of(shifted) << R::fraction_bits));
  y = x < T(1) - bias ? T(0) : y;
  return x < bias + T(1) ? y : x * R::infinity;  // infinity or NaN
}

template <typename T> RNNCC_FN T softplus(T x) {
  return (x < T(0) ? T(0) : x) + small_log1p(decaying_exp(-abs(x)));
}

template <typename T> RNNCC_FN T logsigmoid(T x) { return -softplus(-x); }

// sinh(x) = x + x^3 P(x^2) on |x| <= 1, error 2.4e-8.
RNNCC_FN float sinh_tail(float z) {
  return polynomial(z, 0.16666716f, 0.0083302706f, 0.00020373341f);
}

// The same: error 9.6e-17.
RNNCC_FN double sinh_tail(double z) {
  return polynomial(z, 0.1666666666666606, 0.008333333333452986, 0.0001984126976290186,
                    2.7557342756716667e-06, 2.5048544120537138e-08, 1.6323894290171405e-10);
}

template <typename T> RNNCC_FN T sinh(T x) {
  T a = abs(x), z = x * x;
  T half = half_exp(a);
  T large = half - T(0.25) / half;
  T small = a + a * z * sinh_tail(z);
  return copy_sign(a < T(1) ? small : large, x);
}

template <typename T> RNNCC_FN T cosh(T x) {
  T half = half_exp(abs(x));
  return half + T(0.25) / half;
}

// sin(r) = r + r^3 P(r^2) on |r| <= pi/2, for a float result: error 2.4e-11.
RNNCC_FN double sin_tail(double z, float) {
  return polynomial(z, -0.16666666626107965, 0.0083333311067831, -0.00019840867964851205,
                    2.7525371493011442e-06, -2.3888675337042472e-08);
}

// The same for a double result: error 3e-19.
RNNCC_FN double sin_tail(double z, double) {
  return polynomial(z, -0.16666666666666666, 0.008333333333333207, -0.0001984126984121248,
                    2.7557319211569347e-06, -2.5052106904384273e-08, 1.6058940998380687e-10,
                    -7.643019202209989e-13, 2.7214169140129557e-15);
}

// sin(x + phase pi) for phase 0 or 1/2. The reduction, in double, is exact enough for |x| <= 3e6,
// and with fused multiply-add up to 2^30; from there on the result is NaN, not a wrong number.
template <typename T> RNNCC_FN T sin_with_phase(T x, double phase) {
  const double rounder = 1.5 * 0x1p52, inverse_pi = 0.31830988618379067;
  const double pi_hi = 0x1.921fb544p+1, pi_mid = 0x1.0b4611a4p-33, pi_lo = 0x1.13198a2e03707p-64;
  double wide = x;
  double shifted = (wide * inverse_pi + phase) + rounder;
  double n = (shifted - rounder) - phase;
  double r = ((wide - n * pi_hi) - n * pi_mid) - n * pi_lo;
  double z = r * r;
  double y = r + r * z * sin_tail(z, x);
  y = from_bits(bits_of(y) ^ (bits_of(shifted) << 63));  // an odd multiple of pi flips the sign
  return T(abs(wide) < 0x1p30 ? y : Real<double>::nan);
}

template <typename T> RNNCC_FN T sin(T x) { return sin_with_phase(x, 0.0); }
template <typename T> RNNCC_FN T cos(T x) { return sin_with_phase(x, 0.5); }

// erf(x) = 2/sqrt(pi) x P(x^2) / Q(x^2). For a float result on |x| <= 3.95: error 2.2e-8.
RNNCC_FN float erf(float x) {
  double a = abs(x), z = a * a;
  double p = polynomial(z, 1.0, 0.169262594883, 0.046793892386, 0.0033533457393, 0.00025175281401,
                        1.7985695412e-06);
  double q = polynomial(z, 1.0, 0.50259549443, 0.114328448828, 0.0150068644086, 0.00116467816544,
                        3.7836156829e-05);
  double y = 1.1283791670955126 * a * p / q;
  return copy_sign(a > 3.95 ? 1.0f : float(y), x);
}

// For a double result on |x| <= 5.95: error 3.5e-17, and up to 10 ulp from rounding.
RNNCC_FN double erf(double x) {
  double a = abs(x), z = a * a;
  double p = polynomial(z, 1.0, 0.19536510618031724, 0.05864055677705704, 0.006118725270918495,
                        0.0007594438157616123, 5.0608157751261666e-05, 3.463959407187463e-06,
                        1.5067332066249868e-07, 6.002716767267093e-09, 1.5276200146846217e-10,
                        2.9514635249026173e-12, 1.9599101886000676e-14, 1.3776393653562124e-17);
  double q = polynomial(z, 1.0, 0.5286984395136488, 0.1348733699483021, 0.02201619511168145,
                        0.0025692669793276673, 0.00022657948211270192, 1.5536642441396866e-05,
                        8.372318269932522e-07, 3.524762347354481e-08, 1.1270113163592819e-09,
                        2.551535175928359e-11, 3.3040843771257684e-13, 8.772144084747378e-16);
  double y = 1.1283791670955126 * a * p / q;
  y = y > 1.0 ? 1.0 : y;
  return copy_sign(a > 5.95 ? 1.0 : y, x);
}

// In double, so that the error of y log(x) doesn't reach the result. As in C, except that a
// negative infinity to a fractional power, and -1 to an infinite one, are NaN.
RNNCC_FN float pow(float x, float y) {
  double wide = y, half = 0.5 * wide;
  double magnitude = exp(wide * log(double(abs(x))));
  bool fractional = floor(wide) != wide, odd = half - floor(half) == 0.5;
  double of_negative = fractional ? Real<double>::nan : (odd ? -magnitude : magnitude);
  double power = x < 0.0f ? of_negative : magnitude;
  return x == 1.0f || y == 0.0f ? 1.0f : float(power);
}

// From the C library, which doesn't vectorise: y log(x) would need a logarithm of 65 bits.
RNNCC_FN double pow(double x, double y) { return __builtin_pow(x, y); }

}  // namespace rnncc
