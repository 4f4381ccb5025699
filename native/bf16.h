// bfloat16: the upper half of a float32. Arithmetic is always done in float32; these are the two conversions.
#pragma once

#include <bit>
#include <cstdint>

namespace goku {

struct bf16 {
  uint16_t bits;
};

inline float toFloat(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
inline float toFloat(float x) { return x; }

/// Rounds to nearest, ties to even; a NaN stays a NaN.
inline bf16 toBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
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
