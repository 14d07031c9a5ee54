// Functions made of choices and of other functions, the same for every target. NaN in is NaN out.
#pragma once

#ifdef __CUDACC__
#include "rnncc/cuda/math.h"
#else
#include "rnncc/cpp/inverse.h"
#endif

namespace rnncc {

template <typename T> RNNCC_FN T relu(T x) { return x < T(0) ? T(0) : x; }

// NaN stays NaN (torch.sign makes it 0).
template <typename T> RNNCC_FN T sign(T x) { return x > T(0) ? T(1) : (x < T(0) ? T(-1) : x); }
template <typename T> RNNCC_FN T heaviside(T x) { return x > T(0) ? T(1) : (x <= T(0) ? T(0) : x); }

// A gradient that nothing asked for, which is not walked: -0, where one of weight 0 is 0.
template <typename T> RNNCC_FN bool absent(T gradient) {
  return bits_of(gradient) == bits_of(T(-0.0));
}

// The value alone; what differs is the gradient.
template <typename T> RNNCC_FN T stop_gradient(T x) { return x; }
template <typename T> RNNCC_FN T forward_as(T value, T) { return value; }

template <typename T> RNNCC_FN T pivot(T x) { return x; }

// 0 in the place of an infinity.
template <typename T> RNNCC_FN T finite_part(T x) { return abs(x) == Real<T>::infinity ? T(0) : x; }

template <typename T> RNNCC_FN T maximum(T a, T b) {
  T larger = a > b ? a : b;  // b when either is NaN
  return a == a ? larger : a;
}

template <typename T> RNNCC_FN T minimum(T a, T b) {
  T smaller = a < b ? a : b;
  return a == a ? smaller : a;
}

// The bounds go first: where they are constants, their test for NaN folds away.
template <typename T> RNNCC_FN T clip(T x, T lo, T hi) { return minimum(hi, maximum(lo, x)); }

template <typename T> RNNCC_FN T elu(T x) { return x > T(0) ? x : expm1(x); }
template <typename T> RNNCC_FN T mish(T x) { return x * tanh(softplus(x)); }
template <typename T> RNNCC_FN T softsign(T x) { return x / (T(1) + abs(x)); }

// a / (a^2 + b^2) without a square, 0 at the origin. An infinite a gives NaN, as in PyTorch.
template <typename T> RNNCC_FN T atan2_slope(T a, T b) {
  const T p = abs(a), q = abs(b), larger = p > q ? p : q, smaller = p > q ? q : p;
  return larger == T(0) && smaller == T(0) ? T(0)
                                           : (a / larger) / (larger + smaller * (smaller / larger));
}

template <typename T> RNNCC_FN T at_least(T x, T lo) { return maximum(lo, x); }
template <typename T> RNNCC_FN T at_most(T x, T hi) { return minimum(hi, x); }

// (exp(x) - 1) / x; near 0, where expm1 may flush to zero, 1 + x / 2.
template <typename T> RNNCC_FN T exprel_of(T x) {
  T y = abs(x) < T(1e-8) ? T(1) + T(0.5) * x : expm1(x) / x;
  return x > T(1e4) ? Real<T>::infinity : y;
}

RNNCC_FN float exprel(float x) { return exprel_of(x); }
RNNCC_LONG double exprel(double x) { return exprel_of(x); }

constexpr double factorial(int n) { return n > 1 ? n * factorial(n - 1) : 1.0; }

// The sum of x^k / (k! (k + 2)) from a term on, divided by its power of x.
template <int k, int last, typename T> RNNCC_FN T exprel_series(T x) {
  constexpr T term = T(1.0 / (factorial(k) * (k + 2.0)));
  if constexpr (k == last) return term;
  else return term + x * exprel_series<k + 1, last>(x);
}

// The derivative of exprel, by one exponential and one division. The closed form loses all digits
// near 0, where a series takes over.
template <typename T> RNNCC_FN T exprel_slope_of(T x) {
  const T e = exp(x), inverse = T(1) / x;
  const T closed = e < Real<T>::infinity ? (e - (e - T(1)) * inverse) * inverse : e;
  const T series = exprel_series<0, sizeof(T) == 4 ? 13 : 22>(x);
  return abs(x) < T(1.5) ? series : closed;
}

RNNCC_FN float exprel_slope(float x) { return exprel_slope_of(x); }
RNNCC_LONG double exprel_slope(double x) { return exprel_slope_of(x); }

}  // namespace rnncc
