// Inverses of the circular and hyperbolic functions, as math.h has the others.
#pragma once

#include "rnncc/cpp/math.h"

namespace rnncc {

// atan(r) = r + r^3 P(r^2) on |r| <= tan(pi/8), error 2.6e-9.
RNNCC_FN float atan_tail(float z) {
  return polynomial(z, -0.33333332f, 0.1999956f, -0.14264507f, 0.10748856f, -0.064668296f);
}

// The same: error 1.7e-16.
RNNCC_FN double atan_tail(double z) {
  return polynomial(z, -0.33333333333333354, 0.1999999999998986, -0.14285714283385664,
                    0.11111110919622952, -0.09090901332798733, 0.07692122501980478,
                    -0.06663828414899663, 0.058533904727125274, -0.05065330165020768,
                    0.03875798385234339, -0.018699955462304976);
}

// pi/4 at a time: r = (a - c) / (1 + a c) with c = 0, 1 or infinity, so that |r| <= tan(pi/8).
template <typename T> RNNCC_FN T atan(T x) {
  const T quarter_pi = T(0.78539816339744831), quarter_pi_lo = T(3.061616997868383e-17);
  T a = abs(x);
  bool far = a > T(2.414213562373095), near = a < T(0.41421356237309503);
  T above = far ? T(-1) : (near ? a : a - T(1));
  T below = far ? a : (near ? T(1) : a + T(1));
  T r = above / below, z = r * r;
  T steps = far ? T(2) : (near ? T(0) : T(1));
  T y = steps * quarter_pi + (r + (r * z * atan_tail(z) + steps * quarter_pi_lo));
  return copy_sign(y, x);
}

template <typename T> RNNCC_FN T asin(T x) {
  return T(2) * atan(x / (T(1) + sqrt((T(1) - x) * (T(1) + x))));
}

template <typename T> RNNCC_FN T acos(T x) { return T(2) * atan(sqrt((T(1) - x) / (T(1) + x))); }

// The angle of a point in the first octant, then by its signs, those of zeros too.
template <typename T> RNNCC_FN T atan2(T y, T x) {
  const T pi_lo = T(sizeof(T) == 4 ? -8.742277657347586e-8 : 1.2246467991473532e-16);
  const T half_pi = T(1.5707963267948966), half_pi_lo = pi_lo / T(2), pi = T(3.1415926535897931);
  T a = abs(y), b = abs(x);
  bool steep = a > b, left = copy_sign(T(1), x) < T(0);
  T below = steep ? a : b, ratio = (steep ? b : a) / below;
  ratio = a == b ? (a == T(0) ? T(0) : T(1)) : ratio;
  T angle = atan(ratio);
  angle = steep ? half_pi - (angle - half_pi_lo) : angle;
  return copy_sign(left ? pi - (angle - pi_lo) : angle, y);
}

template <typename T> RNNCC_FN T asinh(T x) {
  T a = abs(x), z = a * a;
  T y = log1p(a + z / (T(1) + sqrt(T(1) + z)));
  return copy_sign(a > T(1e9) ? log(a) + Real<T>::ln2 : y, x);
}

template <typename T> RNNCC_FN T acosh(T x) {
  T t = x - T(1);
  T y = log1p(t + sqrt(t) * sqrt(x + T(1)));
  return x > T(1e9) ? log(x) + Real<T>::ln2 : y;
}

template <typename T> RNNCC_FN T atanh(T x) {
  T a = abs(x);
  return copy_sign(T(0.5) * log1p(T(2) * a / (T(1) - a)), x);
}

// x less a whole multiple of y, of the sign of y: exact, by what division and a fused multiply-add
// leave, twice 53 digits of the quotient. Beyond these the result is NaN, not a wrong number.
RNNCC_FN double less_multiple(double x, double y) {
  return abs(x) < abs(y) ? x : __builtin_fma(-floor(x / y), y, x);
}

RNNCC_FN double remainder(double x, double y) {
  double r = less_multiple(less_multiple(x, y), y);
  r = r != 0 && (r < 0) != (y < 0) ? r + y : r;
  return abs(r) <= abs(y) ? r : Real<double>::nan;
}

// Of the true quotient: that of 1 / 0.1 rounds to 10, which is one too many.
RNNCC_FN double floor_divide(double x, double y) {
  double n = floor(x / y), r = n == 0 ? x : __builtin_fma(-n, y, x);
  n = r != 0 && (r < 0) != (y < 0) ? n - 1 : n;
  return y == 0 ? x / y : (abs(x) < Real<double>::infinity ? n : Real<double>::nan);
}

RNNCC_FN float remainder(float x, float y) { return float(remainder(double(x), double(y))); }
RNNCC_FN float floor_divide(float x, float y) { return float(floor_divide(double(x), double(y))); }

}  // namespace rnncc
