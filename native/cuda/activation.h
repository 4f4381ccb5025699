// The activation functions on one number, as native/kernels/activation.h has them on vectors, and for the
// same reasons in the sigmoid's form:
//   gelu_tanh(x) = x sigmoid(2u),   u = sqrt(2/pi) (x + 0.044715 x^3) arXiv:1606.08415
//   silu(x)      = x sigmoid(x)
#pragma once

#include <cmath>

#include "native/cuda/device.h"

namespace goku {

inline constexpr float kGeluScale = 2 * 0.7978845608f;

__device__ inline float geluTanh(float x) {
  const float u2 = x * fmaf(x * x, kGeluScale * 0.044715f, kGeluScale);
  return x / (1.0f + expf(-u2));
}

/// Limits x to +-bound, beyond which a slope is 0 or 1 to every digit but its factors would overflow; NaN
/// stays.
__device__ inline float limit(float x, float bound) {
  x = x < -bound ? -bound : x;
  return x > bound ? bound : x;
}

__device__ inline float geluTanhSlope(float input) {
  const float x = limit(input, 10.0f), x2 = x * x;
  const float u2 = x * fmaf(x2, kGeluScale * 0.044715f, kGeluScale);
  const float slope = fmaf(x2, 3 * kGeluScale * 0.044715f, kGeluScale);
  const float e = expf(-u2), s = 1.0f / (1.0f + e);
  // 1 - s = e s without cancellation where s is near 1.
  return fmaf(x * s, e * s * slope, s);
}

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ inline float siluSlope(float input) {
  const float x = limit(input, 88.0f);
  const float e = expf(-x), s = 1.0f / (1.0f + e);
  return fmaf(x * s, e * s, s);
}

}  // namespace goku
