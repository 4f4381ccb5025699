// Vectors of floats, as wide as the machine that is compiled for (8 with AVX2, 16 with AVX-512). Ordinary
// operators work on them lane by lane. Loads and stores take float or bf16 and need no alignment.
//
// Kernels treat the tail of a run as a partly filled vector (loadPart, storePart), never with scalar code: an
// element gets the same bits wherever it lies.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "native/bf16.h"

#if !defined(__AVX2__) || !defined(__FMA__)
#error \
    "native kernels need AVX2 and FMA: build with -DGOKU_MARCH=x86-64-v3 or native on a CPU of 2013 or newer"
#endif

namespace goku {

#if defined(__AVX512F__)
inline constexpr int64_t kLanes = 16;
#else
inline constexpr int64_t kLanes = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecBits __attribute__((vector_size(4 * kLanes)));

inline Vec broadcast(float x) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(x);
#else
  return _mm256_set1_ps(x);
#endif
}
inline VecBits bitsOf(Vec v) { return std::bit_cast<VecBits>(v); }
inline Vec fromBits(VecBits v) { return std::bit_cast<Vec>(v); }

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Vec load(const bf16* from) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#else
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#endif
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
/// Rounds to nearest, ties to even; NaN stays NaN.
inline void store(bf16* to, Vec v) {
  const VecBits bits = bitsOf(v);
  const VecBits upper = bits >> 16;
  const VecBits rounded = (bits + 0x7fffu + (upper & 1u)) >> 16;
  const VecBits result = v != v ? upper | 0x40u : rounded;
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(std::bit_cast<__m512i>(result)));
#else
  // Pairs of 128-bit halves are packed, hence the order 0, 2 of quadwords.
  const auto words = std::bit_cast<__m256i>(result);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
#endif
}

/// The first `count` lanes (0 <= count < kLanes) from memory, the others 0.
template <class T>
inline Vec loadPart(const T* from, int64_t count) {
  T lanes[kLanes] = {};
  std::memcpy(lanes, from, sizeof(T) * static_cast<size_t>(count));
  return load(lanes);
}
template <class T>
inline void storePart(T* to, Vec v, int64_t count) {
  T lanes[kLanes];
  store(lanes, v);
  std::memcpy(to, lanes, sizeof(T) * static_cast<size_t>(count));
}

/// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#else
  return _mm256_fmadd_ps(a, b, c);
#endif
}
/// The larger; b where either is NaN.
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec sqrt(Vec v) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(v);
#else
  return _mm256_sqrt_ps(v);
#endif
}
inline Vec round(Vec v) {
#if defined(__AVX512F__)
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
}

/// Sum of the lanes, always in the same order: halves added until one is left.
inline float sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline float largest(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; i++) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

/// e^x within 2 units in the last place for -87.3 <= x <= 88.37; 0 below (also for -inf), e^88.37 above, NaN
/// for NaN.
inline Vec exp(Vec x) {
  const Vec low = broadcast(-87.3f);
  const Vec high = broadcast(89.0f);  // 2^128, which is infinity as f32
  const Vec clamped = x > high ? high : x;
  const Vec n = round(clamped * 1.44269504f);
  // ln 2 in two parts, the first with few bits, so that n * part is exact.
  Vec r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  const VecInt exponent = __builtin_convertvector(n, VecInt) + 127;
  const Vec scaled = p * fromBits(std::bit_cast<VecBits>(exponent) << 23);
  return x < low ? Vec{} : scaled;
}

/// Calls body(index, lanes) for 0, kLanes, ... below count; lanes < kLanes only in the last call. Use with
/// loadLanes and storeLanes.
template <class T>
inline Vec loadLanes(const T* from, int64_t lanes) {
  return lanes == kLanes ? load(from) : loadPart(from, lanes);
}
template <class T>
inline void storeLanes(T* to, Vec v, int64_t lanes) {
  if (lanes == kLanes) {
    store(to, v);
  } else {
    storePart(to, v, lanes);
  }
}
template <class Body>
inline void forLanes(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, count - i);
}

}  // namespace goku
