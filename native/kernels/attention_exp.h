// The exponential of attention: several vectors in step, because one alone spends its time waiting for
// itself.
#pragma once

#include <cstdint>

#include "native/simd.h"

namespace goku::attention {

/// x[i] = e^x[i] with a relative error below 1.5e-7 (1.1e-7 was the worst of 40 million arguments); 0 below
/// -87 (and for -inf), NaN stays NaN. For x <= 88 only: softmax never asks for more.
///
/// x = n ln2 + r, |r| <= ln2/2; ln2 in two parts, of which the first times n is exact. e^r is a minimax
/// polynomial 1 + (r + r^2 q(r)) of relative error 2.6e-9; the rest is rounding: of the last sum (at most
/// 2^-24), of r and of the bracket (each at most 2^-26, which is 2^-25.5 of the result where it is smallest).
/// The product with 2^n is exact.
template <int kVectors>
inline void expAll(Vec (&x)[kVectors]) {
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // 9 significant bits: n * this is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  // 1.5 * 2^23 + 127: adding it rounds to an integer, whose low bits are n + 127, the exponent field of 2^n.
  constexpr float kRound = 12583039.0f;
  constexpr float kQ[] = {0.500000043574f, 0.166663648093f, 0.041664773328f, 0.00837905900123f,
                          0.00140614216567f};
  Vec shifted[kVectors], r[kVectors], square[kVectors], high[kVectors], low[kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    shifted[i] = fma(x[i], broadcast(kLog2e), broadcast(kRound));
    r[i] = fma(shifted[i] - kRound, broadcast(-kLn2High), x[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    r[i] = fma(shifted[i] - kRound, broadcast(-kLn2Low), r[i]);
    square[i] = r[i] * r[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    high[i] = fma(r[i], broadcast(kQ[3]), broadcast(kQ[2]));
    low[i] = fma(r[i], broadcast(kQ[1]), broadcast(kQ[0]));
    high[i] = fma(square[i], broadcast(kQ[4]), high[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    low[i] = fma(high[i], square[i], low[i]);
    r[i] = fma(low[i], square[i], r[i]) + 1.0f;
    // The bits above the exponent fall out of the word. A product, so that a NaN stays one.
    const Vec power = fromBits(bitsOf(shifted[i]) << 23);
    x[i] = x[i] < broadcast(-87.0f) ? Vec{} : r[i] * power;
  }
}

inline Vec expOne(Vec x) {
  Vec one[1] = {x};
  expAll(one);
  return one[0];
}

}  // namespace goku::attention
