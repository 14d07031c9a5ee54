// The step of para_gru as one would write it for this cell alone: one dtype, time strides but no lengths,
// resets, saved states or other directions. kernel.cu's counts per step are compared with it.

struct Args { const float *xz, *xr, *xc; long long time; const float *az, *ar, *ac, *h0; float *y; long long y_time; float *h_last; int steps, channels; };
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp2f(x * -1.44269504f)); }
__device__ __forceinline__ float tanh(float x) {
  const float a = fabsf(x), z = x * x;
  const float large = 1.0f - 2.0f * reciprocal(1.0f + exp2f(a * 2.88539008f));
  const float p = -0.33332947f + z * (0.13320725f + z * (-0.05267181f + z * 0.01643758f));
  return a < 0.55f ? x + x * z * p : copysignf(large, x);
}
#define RNNCC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
RNNCC_KERNEL(128) by_hand_forward(Args a) {
  const int n = blockIdx.x * 128 + threadIdx.x;
  if (n >= a.channels) return;
  const float az = a.az[n], ar = a.ar[n], ac = a.ac[n];
  const float *xz = a.xz + n, *xr = a.xr + n, *xc = a.xc + n;
  float *y = a.y + n, h = a.h0[n];
  float z_now[8], r_now[8], c_now[8], z_next[8], r_next[8], c_next[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) { z_next[k] = *xz; r_next[k] = *xr; c_next[k] = *xc; xz += a.time, xr += a.time, xc += a.time; }
#pragma unroll 1
  for (int t = 0; t < a.steps; t += 8) {
#pragma unroll
    for (int k = 0; k < 8; ++k) { z_now[k] = z_next[k], r_now[k] = r_next[k], c_now[k] = c_next[k]; }
    if (t + 16 <= a.steps) {
#pragma unroll
      for (int k = 0; k < 8; ++k) { z_next[k] = *xz; r_next[k] = *xr; c_next[k] = *xc; xz += a.time, xr += a.time, xc += a.time; }
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float z = sigmoid(az * h + z_now[k]), r = sigmoid(ar * h + r_now[k]), c = tanh(ac * h * r + c_now[k]);
      h = c * z + h * (1.0f - z);
      *y = h, y += a.y_time;
    }
  }
  a.h_last[n] = h;
}
