// Functions made of choices, the same for every target. NaN in is NaN out.

namespace rnncc {

template <typename T> RNNCC_FN T relu(T x) { return x < T(0) ? T(0) : x; }

// NaN stays NaN (torch.sign makes it 0).
template <typename T> RNNCC_FN T sign(T x) { return x > T(0) ? T(1) : (x < T(0) ? T(-1) : x); }
template <typename T> RNNCC_FN T heaviside(T x) { return x > T(0) ? T(1) : (x <= T(0) ? T(0) : x); }

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

}  // namespace rnncc
