// bfloat16: the upper half of a float32. Arithmetic is always done in float32; these are the two conversions.
#pragma once

#include <cstdint>

// Kernels for a device use the same conversions.
#if defined(__CUDACC__)
#define GOKU_HD __host__ __device__
#else
#define GOKU_HD
#endif

namespace goku {

struct bf16 {
  uint16_t bits;
};

GOKU_HD inline float toFloat(bf16 x) { return __builtin_bit_cast(float, uint32_t{x.bits} << 16); }
GOKU_HD inline float toFloat(float x) { return x; }

/// Rounds to nearest, ties to even; a NaN stays a NaN.
GOKU_HD inline bf16 toBf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// Rounds a float to T, which is float or bf16: fromFloat<T>(x).
template <class T>
T fromFloat(float x);
template <>
inline float fromFloat<float>(float x) {
  return x;
}
template <>
inline bf16 fromFloat<bf16>(float x) {
  return toBf16(x);
}

}  // namespace goku
