// Elementary functions for emitted kernels: scalar text without a branch or a call, so that the
// compiler's own vectoriser turns a loop over channels into vector code. NaN and infinity behave
// as in PyTorch; -ffast-math must stay off, -ffp-contract=fast is assumed for speed only.
// Results below the smallest normal number may flush to zero.
// Errors are quoted against the exact function; "ulp" is the spacing of the result's type.

#include <stdint.h>

#ifndef RNNCC_FN
#define RNNCC_FN static inline __attribute__((always_inline))
#endif

namespace rnncc {

template <typename T>
struct Real;

template <>
struct Real<float> {
  using Bits = uint32_t;
  static constexpr int fraction_bits = 23, bias = 127;
  static constexpr float two_fraction = 0x1p23f;  // its spacing is 1
  static constexpr float infinity = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float smallest_normal = 0x1p-126f;
  static constexpr float sqrt_half = 0.70710678f;
  // ln 2 in two parts; a multiple of ln2_hi by an exponent is exact.
  static constexpr float log2_e = 1.44269504f, ln2_hi = 0.693145751953125f, ln2_lo = 1.42860682e-6f;
  static constexpr float exp_overflow = 88.7228394f;     // exp is finite up to here
  static constexpr float exp_underflow = -87.3365479f;   // exp is normal from here
  static constexpr float half_exp_overflow = 89.4159851f;  // exp(x) / 2 is finite up to here
  static constexpr float exp_to_zero = -88.0f;           // here 2^n flushes to 0
  static constexpr float exp_to_infinity = 88.7f;        // here 2^n is infinite
  static constexpr float expm1_is_minus_one = -20.0f;
};

template <>
struct Real<double> {
  using Bits = uint64_t;
  static constexpr int fraction_bits = 52, bias = 1023;
  static constexpr double two_fraction = 0x1p52;
  static constexpr double infinity = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double smallest_normal = 0x1p-1022;
  static constexpr double sqrt_half = 0.70710678118654752;
  static constexpr double log2_e = 1.4426950408889634, ln2_hi = 0.693147180559663,
                          ln2_lo = 2.8235290563031577e-13;
  static constexpr double exp_overflow = 709.782712893384;
  static constexpr double exp_underflow = -708.3964185322641;
  static constexpr double half_exp_overflow = 710.4758600739439;
  static constexpr double exp_to_zero = -709.2;
  static constexpr double exp_to_infinity = 709.75;
  static constexpr double expm1_is_minus_one = -40.0;
};

RNNCC_FN uint32_t bits_of(float x) {
  uint32_t b;
  __builtin_memcpy(&b, &x, sizeof b);
  return b;
}

RNNCC_FN uint64_t bits_of(double x) {
  uint64_t b;
  __builtin_memcpy(&b, &x, sizeof b);
  return b;
}

RNNCC_FN float from_bits(uint32_t b) {
  float x;
  __builtin_memcpy(&x, &b, sizeof x);
  return x;
}

RNNCC_FN double from_bits(uint64_t b) {
  double x;
  __builtin_memcpy(&x, &b, sizeof x);
  return x;
}

// c0 + c1 x + c2 x^2 + ...
template <typename T>
RNNCC_FN T polynomial(T, T c0) {
  return c0;
}

template <typename T, typename... Rest>
RNNCC_FN T polynomial(T x, T c0, Rest... rest) {
  return c0 + x * polynomial(x, rest...);
}

// --- piecewise linear -------------------------------------------------------------------------

RNNCC_FN float sqrt(float x) { return __builtin_sqrtf(x); }
RNNCC_FN double sqrt(double x) { return __builtin_sqrt(x); }
RNNCC_FN float abs(float x) { return __builtin_fabsf(x); }
RNNCC_FN double abs(double x) { return __builtin_fabs(x); }

template <typename T>
RNNCC_FN T rsqrt(T x) {
  return T(1) / sqrt(x);
}

template <typename T>
RNNCC_FN T relu(T x) {
  return x < T(0) ? T(0) : x;
}

// Unlike torch.sign, which is 0 at NaN, NaN stays NaN.
template <typename T>
RNNCC_FN T sign(T x) {
  return x > T(0) ? T(1) : (x < T(0) ? T(-1) : x);
}

template <typename T>
RNNCC_FN T heaviside(T x) {
  return x > T(0) ? T(1) : (x <= T(0) ? T(0) : x);
}

template <typename T>
RNNCC_FN T maximum(T a, T b) {
  T larger = a > b ? a : b;  // b when either is NaN
  return a == a ? larger : a;
}

template <typename T>
RNNCC_FN T minimum(T a, T b) {
  T smaller = a < b ? a : b;
  return a == a ? smaller : a;
}

// Bounds come first: for constant bounds the test for NaN folds away.
template <typename T>
RNNCC_FN T clip(T x, T lo, T hi) {
  return minimum(hi, maximum(lo, x));
}

template <typename T>
RNNCC_FN T copy_sign(T magnitude, T sign_source) {
  using Bits = typename Real<T>::Bits;
  constexpr Bits sign_bit = Bits(1) << (8 * sizeof(T) - 1);
  return from_bits(bits_of(magnitude) | (bits_of(sign_source) & sign_bit));
}

// --- exponentials -----------------------------------------------------------------------------

// (expm1(r) - r) / r^2 on |r| <= ln(2)/2; error relative to expm1: 1.7e-8.
RNNCC_FN float expm1_tail(float r) {
  return polynomial(r, 0.49999997f, 0.16666543f, 0.0416672f, 0.0083665475f, 0.0013882517f);
}

// The same; error 3.3e-17.
RNNCC_FN double expm1_tail(double r) {
  return polynomial(r, 0.5000000000000006, 0.16666666666666588, 0.041666666666576466,
                    0.008333333333389734, 0.0013888888931667027, 0.00019841269718707673,
                    2.4801505142785333e-05, 2.75574076892225e-06, 2.7626092799817644e-07,
                    2.505377465346856e-08);
}

// x = n ln(2) + r with |r| <= ln(2)/2. The sum `shifted` holds n + offset in its low bits.
template <typename T>
struct ExpParts {
  T r;
  typename Real<T>::Bits shifted;
};

template <typename T>
RNNCC_FN ExpParts<T> split_exp(T x, int offset) {
  using R = Real<T>;
  const T rounder = T(1.5) * R::two_fraction + T(offset);
  T shifted = x * R::log2_e + rounder;  // rounds to an integer: the spacing here is 1
  T n = shifted - rounder;
  return {(x - n * R::ln2_hi) - n * R::ln2_lo, bits_of(shifted)};
}

// exp(x) 2^shift by adding to the exponent of exp(r): right up to the largest finite result.
template <typename T>
RNNCC_FN T shifted_exp(T x, int shift) {
  using R = Real<T>;
  ExpParts<T> s = split_exp(x, shift);
  T p = T(1) + (s.r + s.r * s.r * expm1_tail(s.r));
  return from_bits(bits_of(p) + (s.shifted << R::fraction_bits));
}

template <typename T>
RNNCC_FN T exp(T x) {
  using R = Real<T>;
  T y = shifted_exp(x, 0);
  y = x < R::exp_underflow ? T(0) : y;
  return x <= R::exp_overflow ? y : x * R::infinity;  // infinity, or NaN
}

// exp(x) / 2 for x >= 0.
template <typename T>
RNNCC_FN T half_exp(T x) {
  using R = Real<T>;
  T y = shifted_exp(x, -1);
  return x <= R::half_exp_overflow ? y : x * R::infinity;
}

// Faster exp, for use inside 1 + exp(x): infinite already from 88.4 (709.4) on.
template <typename T>
RNNCC_FN T saturating_exp(T x) {
  using R = Real<T>;
  x = x < R::exp_to_zero ? R::exp_to_zero : x;
  x = x > R::exp_to_infinity ? R::exp_to_infinity : x;
  ExpParts<T> s = split_exp(x, R::bias);
  T scale = from_bits(s.shifted << R::fraction_bits);  // 2^n, 0 or infinity
  return scale * (T(1) + (s.r + s.r * s.r * expm1_tail(s.r)));
}

template <typename T>
RNNCC_FN T expm1(T x) {
  using R = Real<T>;
  const T top = R::exp_overflow + T(0.25);  // 2^n q overflows by itself here
  x = x < R::expm1_is_minus_one ? R::expm1_is_minus_one : x;
  x = x > top ? top : x;
  ExpParts<T> s = split_exp(x, R::bias - 1);
  T half_scale = from_bits(s.shifted << R::fraction_bits);  // 2^(n - 1)
  T q = s.r + s.r * s.r * expm1_tail(s.r);
  T half = half_scale * q + (half_scale - T(0.5));
  return half + half;
}

template <typename T>
RNNCC_FN T sigmoid(T x) {
  return T(1) / (T(1) + saturating_exp(-x));
}

// tanh(x) = x P(x^2) / Q(x^2) on |x| <= 9.05, error 2.3e-8; every coefficient is positive, so
// nothing cancels. Clamped, because rounding may step over 1.
RNNCC_FN float tanh(float x) {
  x = x < -9.05f ? -9.05f : x;
  x = x > 9.05f ? 9.05f : x;
  float z = x * x;
  float p = polynomial(z, 1.0f, 0.13380745f, 0.003495148f, 2.0597672e-05f, 1.3331132e-08f);
  float q = polynomial(z, 1.0f, 0.46714067f, 0.025875581f, 0.0003284734f, 7.768557e-07f);
  float y = x * p / q;
  y = y < -1.0f ? -1.0f : y;
  return y > 1.0f ? 1.0f : y;
}

RNNCC_FN double tanh(double x) {
  x = x > 20.0 ? 20.0 : x;  // tanh(20) rounds to 1
  double e = expm1(x + x);
  return e / (e + 2.0);
}

// --- logarithms -------------------------------------------------------------------------------

// log(1 + f) = f - f^2/2 + f^3 P(f) on sqrt(1/2) <= 1 + f <= sqrt(2), error 3.5e-8. Adds n ln(2).
RNNCC_FN float log_near_one(float f, float n) {
  using R = Real<float>;
  float p = polynomial(f, 0.3333391f, -0.25001338f, 0.19963063f, -0.16577585f, 0.14914767f,
                       -0.14267488f, 0.08700438f);
  float tail = f * f * (f * p - 0.5f) + n * R::ln2_lo;
  return n * R::ln2_hi + (f + tail);
}

// log(1 + f) = f - s (f - s^2 P(s^2)) with s = f / (2 + f), error 1.3e-18.
RNNCC_FN double log_near_one(double f, double n) {
  using R = Real<double>;
  double s = f / (2.0 + f);
  double z = s * s;
  double p = polynomial(z, 0.6666666666666734, 0.3999999999941696, 0.28571428741925464,
                        0.22222198617210093, 0.18183562181008756, 0.15314102319829043,
                        0.14795459126566662);
  double tail = n * R::ln2_lo - s * (f - z * p);
  return n * R::ln2_hi + (f + tail);
}

// x = 2^n m with sqrt(1/2) <= m < sqrt(2), for normal x > 0.
template <typename T>
struct LogParts {
  T n, m;
};

template <typename T>
RNNCC_FN LogParts<T> split_log(T x) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  const Bits low = bits_of(R::sqrt_half), one = bits_of(T(1));
  Bits b = bits_of(x) + (one - low);  // now the exponent field changes at sqrt(1/2)
  T biased = from_bits((b >> R::fraction_bits) | bits_of(R::two_fraction));
  Bits fraction = b & ((Bits(1) << R::fraction_bits) - 1);
  return {biased - (R::two_fraction + T(R::bias)), from_bits(fraction + low)};
}

// log(x) where the formula for finite x > 0 gave y.
template <typename T>
RNNCC_FN T log_or_limit(T x, T y) {
  using R = Real<T>;
  y = x < R::infinity ? y : x;
  return x > T(0) ? y : (x == T(0) ? -R::infinity : R::nan);
}

template <typename T>
RNNCC_FN T log(T x) {
  using R = Real<T>;
  bool denormal = x < R::smallest_normal;
  LogParts<T> s = split_log(denormal ? x * R::two_fraction : x);
  T n = denormal ? s.n - T(R::fraction_bits) : s.n;
  return log_or_limit(x, log_near_one(s.m - T(1), n));
}

// log1p for finite x > -1: 1 + x = y + lost, and lost is carried into f = (y + lost) / 2^n - 1.
template <typename T>
RNNCC_FN T finite_log1p(T x) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  T y = T(1) + x;
  T lost = x - (y - T(1));
  LogParts<T> s = split_log(y);
  // 2^(1 - n), which unlike 2^-n stays finite for every y
  T scale = from_bits(bits_of(s.m) - bits_of(y) + (Bits(R::bias + 1) << R::fraction_bits));
  return log_near_one((s.m - T(1)) + T(0.5) * lost * scale, s.n);
}

template <typename T>
RNNCC_FN T log1p(T x) {
  return log_or_limit(T(1) + x, finite_log1p(x));
}

// log(1 + t) = t P(t) / Q(t) on 0 <= t <= 1, error 2.1e-8.
RNNCC_FN float log1p_unit(float t) {
  float p = polynomial(t, 1.0f, 0.86951417f, 0.12463806f);
  float q = polynomial(t, 1.0f, 1.3695128f, 0.4760886f, 0.03135216f);
  return t * p / q;
}

RNNCC_FN double log1p_unit(double t) { return finite_log1p(t); }

template <typename T>
RNNCC_FN T softplus(T x) {
  return relu(x) + log1p_unit(saturating_exp(-abs(x)));
}

template <typename T>
RNNCC_FN T logsigmoid(T x) {
  return -softplus(-x);
}

// --- hyperbolic and circular ------------------------------------------------------------------

// (sinh(x) - x) / x^3 in z = x^2 for |x| <= 1; error relative to sinh: 2.4e-8.
RNNCC_FN float sinh_tail(float z) {
  return polynomial(z, 0.16666716f, 0.0083302706f, 0.0002037334f);
}

// The same; error 9.6e-17... TODO(tune)
RNNCC_FN double sinh_tail(double z) {
  return polynomial(z, 0.16666666666666669, 0.008333333333332912, 0.0001984126984159341,
                    2.7557319106756312e-06, 2.5052130998845428e-08, 1.6056659154266489e-10,
                    7.776600610198666e-13);
}

template <typename T>
RNNCC_FN T sinh(T x) {
  T a = abs(x);
  T h = half_exp(a);
  T large = h - T(0.25) / h;
  T small = a + a * a * a * sinh_tail(a * a);
  return copy_sign(a < T(1) ? small : large, x);
}

template <typename T>
RNNCC_FN T cosh(T x) {
  T h = half_exp(abs(x));
  return h + T(0.25) / h;
}

// (sin(r) - r) / r^3 in z = r^2 for |r| <= pi/2; error relative to sin: 2.4e-11 (float), 3e-19.
RNNCC_FN double sin_tail(double z, float) {
  return polynomial(z, -0.16666666626107965, 0.0083333311067831, -0.00019840867964851205,
                    2.7525371493011442e-06, -2.3888675337042472e-08);
}

RNNCC_FN double sin_tail(double z, double) {
  return polynomial(z, -0.16666666666666666, 0.008333333333333207, -0.0001984126984121248,
                    2.7557319211569347e-06, -2.5052106904384273e-08, 1.6058940998380687e-10,
                    -7.643019202209989e-13, 2.7214169140129557e-15);
}

// sin(x + phase pi) for phase 0 or 1/2, reduced by a multiple of pi in double. Full accuracy for
// |x| <= 3e6 (1e9 with fused multiply-add); NaN from 2^30 on rather than a wrong number.
template <typename T>
RNNCC_FN T sin_of_shifted(T x_in, double phase) {
  const double rounder = 1.5 * 0x1p52, inverse_pi = 0.31830988618379067;
  // pi in three parts: 32 bits, 33 bits and the rest, so that n times a part is exact
  const double pi_hi = 0x1.921fb544p+1, pi_mid = 0x1.0b4611a4p-33, pi_lo = 0x1.13198a2e03707p-64;
  double x = x_in;
  double shifted = (x * inverse_pi + phase) + rounder;
  double n = (shifted - rounder) - phase;
  double r = ((x - n * pi_hi) - n * pi_mid) - n * pi_lo;
  double y = r + r * (r * r) * sin_tail(r * r, x_in);
  y = from_bits(bits_of(y) ^ (bits_of(shifted) << 63));  // odd multiples of pi flip the sign
  return T(abs(x) < 0x1p30 ? y : Real<double>::nan);
}

template <typename T>
RNNCC_FN T sin(T x) {
  return sin_of_shifted(x, 0.0);
}

template <typename T>
RNNCC_FN T cos(T x) {
  return sin_of_shifted(x, 0.5);
}

// --- erf and pow ------------------------------------------------------------------------------

// erf(x) = 2/sqrt(pi) x P(x^2) / Q(x^2) on |x| <= 3.95, error 2.2e-8.
RNNCC_FN float erf(float x) {
  x = x < -3.95f ? -3.95f : x;
  x = x > 3.95f ? 3.95f : x;
  float z = x * x;
  float p = polynomial(z, 1.0f, 0.1692626f, 0.046793893f, 0.003353346f, 0.00025175282f,
                       1.7985694e-06f);
  float q = polynomial(z, 1.0f, 0.5025955f, 0.11432845f, 0.015006864f, 0.0011646783f,
                       3.7836155e-05f);
  float y = 1.12837917f * x * p / q;
  y = y < -1.0f ? -1.0f : y;
  return y > 1.0f ? 1.0f : y;
}

RNNCC_FN double erf(double x) { return __builtin_erf(x); }  // libm: does not vectorise

// Through double, so that the error of y log(x) does not reach the result. As C's pow, but
// pow(-infinity, y) is NaN for fractional y, and zeros have no sign.
RNNCC_FN float pow(float x, float y) {
  double e = y;
  double magnitude = exp(e * log(double(abs(x))));
  double half = e * 0.5;
  bool odd = half - __builtin_floor(half) == 0.5, fractional = e != __builtin_floor(e);
  double negative = fractional ? Real<double>::nan : (odd ? -magnitude : magnitude);
  double power = x < 0.0f ? negative : magnitude;
  return float(x == 1.0f || y == 0.0f ? 1.0 : power);
}

// libm: a vectorising version needs the logarithm to 65 bits.
RNNCC_FN double pow(double x, double y) { return __builtin_pow(x, y); }

}  // namespace rnncc
