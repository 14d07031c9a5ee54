// Every name that cuda.h gives, once. tests/test_emulation.py has NVRTC compile it too, so that the
// emulation takes nothing that a GPU does not.

#define RNNCC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

struct Args {
  float* f;
  double* d;
  int* i;
  unsigned* u;
  long long* l;
  unsigned long long* ul;
};

#define ONE(name) a.f[0] += name(x) + name##f(x), a.d[0] += name(y)
#define TWO(name) a.f[0] += name(x, x) + name##f(x, x), a.d[0] += name(y, y)

RNNCC_KERNEL(32) numbers(const __grid_constant__ Args a) {
  const float x = a.f[1];
  const double y = a.d[1];
  ONE(exp), ONE(exp2), ONE(expm1), ONE(log), ONE(log2), ONE(log10), ONE(log1p);
  ONE(sqrt), ONE(rsqrt), ONE(cbrt), ONE(erf), ONE(erfc);
  ONE(sin), ONE(cos), ONE(tan), ONE(asin), ONE(acos), ONE(atan);
  ONE(sinh), ONE(cosh), ONE(tanh), ONE(asinh), ONE(acosh), ONE(atanh);
  ONE(fabs), ONE(floor), ONE(ceil), ONE(trunc), ONE(round), ONE(rint);
  TWO(pow), TWO(atan2), TWO(fmod), TWO(fmax), TWO(fmin), TWO(copysign);
  a.f[0] += fma(x, x, x) + fmaf(x, x, x) + ldexp(x, 3) + ldexpf(x, 3) + min(x, x) + max(x, x);
  a.d[0] += fma(y, y, y) + ldexp(y, 3) + min(y, y) + max(y, y) + __fma_rn(y, y, y);
  a.f[0] += __expf(x) + __exp10f(x) + __logf(x) + __log2f(x) + __powf(x, x) + __sinf(x);
  a.f[0] += __cosf(x) + __saturatef(x) + __fdividef(x, x) + __frcp_rn(x) + __fsqrt_rn(x);
  a.f[0] += __frsqrt_rn(x) + __fadd_rn(x, x) + __fsub_rn(x, x) + __fmul_rn(x, x);
  a.f[0] += __fdiv_rn(x, x) + __fmaf_rn(x, x, x);
  a.i[0] += isnan(x) + isinf(x) + isfinite(x) + signbit(x);
  a.i[0] += isnan(y) + isinf(y) + isfinite(y) + signbit(y);
  a.i[0] += min(1, a.i[1]) + max(1, a.i[1]), a.u[0] += min(1u, a.u[1]) + max(1u, a.u[1]);
  a.l[0] += min(1ll, a.l[1]) + max(1ll, a.l[1]) + min(1l, 2l) + max(1l, 2l);
  a.ul[0] += min(1ull, a.ul[1]) + max(1ull, a.ul[1]) + min(1ul, 2ul) + max(1ul, 2ul);
  a.f[0] += __int_as_float(a.i[1]) + __uint_as_float(a.u[1]);
  a.d[0] += __longlong_as_double(a.l[1]);
  a.i[0] += __float_as_int(x), a.u[0] += __float_as_uint(x), a.l[0] += __double_as_longlong(y);
}

#define BITS(at, one) \
  atomicAnd(at, one), atomicOr(at, one), atomicXor(at, one), atomicExch(at, one), \
  atomicCAS(at, one, one), atomicAdd(at, one)

RNNCC_KERNEL(32) atomics(const __grid_constant__ Args a) {
  BITS(a.i, 1), BITS(a.u, 1u), BITS(a.ul, 1ull);
  atomicAdd(a.f, 1.0f), atomicAdd(a.d, 1.0), atomicSub(a.i, 1), atomicSub(a.u, 1u);
  atomicExch(a.f, 1.0f);
  atomicMax(a.i, 1), atomicMax(a.u, 1u), atomicMax(a.l, 1ll), atomicMax(a.ul, 1ull);
  atomicMin(a.i, 1), atomicMin(a.u, 1u), atomicMin(a.l, 1ll), atomicMin(a.ul, 1ull);
  __threadfence(), __threadfence_block();
}

#define SHUFFLES(x) \
  __shfl_sync(~0u, x, 0) + __shfl_up_sync(~0u, x, 1) + __shfl_down_sync(~0u, x, 1) + \
  __shfl_xor_sync(~0u, x, 1, 16)

RNNCC_KERNEL(32) meetings(const __grid_constant__ Args a) {
  a.i[0] += SHUFFLES(a.i[1]), a.u[0] += SHUFFLES(a.u[1]);
  a.l[0] += SHUFFLES(a.l[1]) + SHUFFLES(long(a.i[1]));
  a.ul[0] += SHUFFLES(a.ul[1]) + SHUFFLES((unsigned long)(a.i[1]));
  a.f[0] += SHUFFLES(a.f[1]), a.d[0] += SHUFFLES(a.d[1]);
  a.u[0] += __ballot_sync(~0u, 1) + __any_sync(~0u, 1) + __all_sync(~0u, 1) + __activemask();
  a.u[0] += __syncthreads_and(1) + __syncthreads_or(1) + __syncthreads_count(1);
  __syncwarp();
  __syncwarp(~0u);
  __syncthreads();
}

#define VECTORS(name) \
  a.d[0] += make_##name##2(1, 2).y + make_##name##3(1, 2, 3).z + make_##name##4(1, 2, 3, 4).w; \
  a.d[0] += double(sizeof(name##2) + sizeof(name##3))

__constant__ float table[2] = {1, 2};

__device__ __noinline__ float looked_up(int i) { return table[i]; }

RNNCC_KERNEL(32) memory(const __grid_constant__ Args a) {
  VECTORS(float); VECTORS(double); VECTORS(int); VECTORS(short); VECTORS(ushort);
  VECTORS(longlong); VECTORS(ulonglong);
  a.d[0] += make_uint2(1, 2).y + make_uint4(1, 2, 3, 4).w + uint3{1, 2, 3}.z + dim3(1, 2).z;
  static_assert(alignof(float4) == 16 && alignof(float2) == 8 && alignof(double2) == 16, "");
  static_assert(alignof(int4) == 16 && alignof(short4) == 8 && alignof(ushort2) == 4, "");
  a.f[0] = __ldg(a.f + 1) + __ldcs(a.f + 1) + __ldcg(a.f + 1) + looked_up(1);
  __stcs(a.f, 1.0f);
  const size_t bytes = sizeof(float);
  memcpy(a.f, a.i, bytes);
  memset(a.f, 0, bytes);
  a.u[0] = threadIdx.x + blockIdx.y + blockDim.z + gridDim.x;
}
