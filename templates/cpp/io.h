// ---- numbers in memory -------------------------------------------------------------------------
// `io` is what tensors hold, `real` what the recurrence is computed in: float, or double for double.

namespace rnncc {

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

static inline float float_of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t bits_of_float(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float to_real(float x) { return x; }
static inline double to_real(double x) { return x; }
static inline float to_real(bfloat16 x) { return float_of_bits(uint32_t(x.bits) << 16); }

static inline float to_real(float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t body = uint32_t(x.bits & 0x7fffu);
  // shifting the exponent by a product is exact for subnormals too
  const float finite = float_of_bits(body << 13) * float_of_bits(0x77800000u);
  const uint32_t special = 0x7f800000u | (body << 13);
  return float_of_bits(sign | (body >= 0x7c00u ? special : bits_of_float(finite)));
}

static inline void from_real(float x, float& y) { y = x; }
static inline void from_real(double x, double& y) { y = x; }

static inline void from_real(float x, bfloat16& y) {
  const uint32_t bits = bits_of_float(x);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y.bits = uint16_t(x != x ? 0x7fc0u : nearest_even);
}

static inline void from_real(float x, float16& y) {
  const uint32_t bits = bits_of_float(x), sign = (bits >> 16) & 0x8000u, body = bits & 0x7fffffffu;
  // normal results round to nearest even by hand, subnormal ones by adding one half
  const uint32_t normal = (body - 0x38000000u + 0xfffu + ((body >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bits_of_float(float_of_bits(body) + 0.5f) - 0x3f000000u;
  const uint32_t finite = body < 0x38800000u ? subnormal : normal;
  const uint32_t large = body > 0x7f800000u ? 0x7e00u : 0x7c00u;
  y.bits = uint16_t(sign | (body >= 0x477ff000u ? large : finite));
}

}  // namespace rnncc
