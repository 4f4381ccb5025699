// Register-blocked matrix products on small packed tiles, the inner loops of attention.
//
//   C[i, :] (+)= sum over p of A(i, p) B[p, :]      i < rows, p < steps, ':' one or two vectors wide
//
// A is read one number at a time and spread over the lanes, so it needs no particular layout:
// kAlongRow reads A(i, p) = a[i*lda + p], otherwise A(i, p) = a[p*lda + i]. C and B are rows of vectors.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "native/simd.h"

namespace goku::attention {

/// Rows of C held in registers. Six rows of two vectors and the operands fill the 16 registers of AVX2;
/// AVX-512 has 32, but no room for the addresses of more than eight rows of A.
#if defined(__AVX512F__)
inline constexpr int kRowsMax = 8;
#else
inline constexpr int kRowsMax = 6;
#endif

/// One product. `blocks` repeats the sum over further blocks of A, `blockStride` numbers apart, while B goes
/// on row after row; plain products have one block.
struct Product {
  float* c;
  int64_t ldc;
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  int64_t steps;
  int64_t blocks;
  int64_t blockStride;
  bool accumulate;  // C += instead of C =
};

/// A product whose C and B are panels: rows of two vectors, one after another.
inline Product panelProduct(float* c, const float* a, int64_t lda, const float* b, int64_t steps,
                            bool accumulate) {
  return {.c = c,
          .ldc = 2 * kLanes,
          .a = a,
          .lda = lda,
          .b = b,
          .ldb = 2 * kLanes,
          .steps = steps,
          .blocks = 1,
          .blockStride = 0,
          .accumulate = accumulate};
}

template <int kRows, int kVectors, bool kAlongRow>
void productRows(const Product& product) {
  Vec sum[kRows][kVectors] = {};
  const float* b = product.b;
  const float* block = product.a;
  const int64_t lda = product.lda;
  for (int64_t n = 0; n < product.blocks; ++n, block += product.blockStride) {
    const float* a = block;
    for (int64_t p = 0; p < product.steps; ++p) {
      Vec row[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) row[v] = load(b + v * kLanes);
      b += product.ldb;
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const Vec number = broadcast(kAlongRow ? a[i * lda] : a[i]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] = fma(number, row[v], sum[i][v]);
      }
      a += kAlongRow ? 1 : lda;
    }
  }
  if (product.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] += load(product.c + i * product.ldc + v * kLanes);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(product.c + i * product.ldc + v * kLanes, sum[i][v]);
  }
}

template <int kVectors, bool kAlongRow, size_t... kIndex>
constexpr auto productTable(std::index_sequence<kIndex...>) {
  return std::array<void (*)(const Product&), sizeof...(kIndex)>{
      &productRows<kIndex + 1, kVectors, kAlongRow>...};
}

/// The whole product for any number of rows, in groups of nearly equal size so that no group is left tiny.
template <int kVectors, bool kAlongRow>
void multiply(Product product, int64_t rows) {
  static constexpr auto kTable = productTable<kVectors, kAlongRow>(std::make_index_sequence<kRowsMax>());
  for (int64_t groups = (rows + kRowsMax - 1) / kRowsMax; groups > 0; --groups) {
    const int64_t group = (rows + groups - 1) / groups;
    kTable[static_cast<size_t>(group - 1)](product);
    product.a += kAlongRow ? group * product.lda : group;
    product.c += group * product.ldc;
    rows -= group;
  }
}

}  // namespace goku::attention
