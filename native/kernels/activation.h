// The activation functions on vectors, for elementwise kernels and for the ends of matrix products.
//   gelu_tanh(x) = x/2 (1 + tanh(u)) = x sigmoid(2u),   u = sqrt(2/pi) (x + 0.044715 x^3) arXiv:1606.08415
//   silu(x)      = x sigmoid(x)
// The sigmoid form needs one exponential and has no cancellation for negative x.
#pragma once

#include "native/simd.h"

namespace goku {

inline Vec geluTanh(Vec x) {
  constexpr float kScale = 2 * 0.7978845608f;
  const Vec u2 = x * fma(x * x, broadcast(kScale * 0.044715f), broadcast(kScale));
  return x / (1.0f + exp(-u2));
}

/// Limits x to +-bound, beyond which a slope is 0 or 1 to every digit but its factors would overflow; NaN
/// stays.
inline Vec limit(Vec x, float bound) {
  const Vec low = broadcast(-bound), high = broadcast(bound);
  x = x < low ? low : x;
  return x > high ? high : x;
}

/// d gelu_tanh(x) / dx = s + x s (1 - s) d(2u)/dx with s = sigmoid(2u).
inline Vec geluTanhSlope(Vec input) {
  const Vec x = limit(input, 10.0f);
  constexpr float kScale = 2 * 0.7978845608f;
  const Vec x2 = x * x;
  const Vec u2 = x * fma(x2, broadcast(kScale * 0.044715f), broadcast(kScale));
  const Vec slope = fma(x2, broadcast(3 * kScale * 0.044715f), broadcast(kScale));
  const Vec e = exp(-u2);
  const Vec s = 1.0f / (1.0f + e);
  // 1 - s = e s without cancellation where s is near 1.
  return fma(x * s, e * s * slope, s);
}

inline Vec silu(Vec x) { return x / (1.0f + exp(-x)); }

/// d silu(x) / dx = s (1 + x (1 - s)).
inline Vec siluSlope(Vec input) {
  const Vec x = limit(input, 88.0f);
  const Vec e = exp(-x);
  const Vec s = 1.0f / (1.0f + e);
  return fma(x * s, e * s, s);
}

}  // namespace goku
