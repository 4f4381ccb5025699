// Matrix products C[M,N] = A[M,K] B[K,N] by our own blocked kernel, f32 arithmetic, f32 or bf16 storage.
//
// Why not a library's: (1) an element's bits must not depend on the number of threads nor on other rows;
// libraries split K among threads for some shapes, and did so in 7 of 10 shapes tried; (2) where the CPU
// cannot multiply bf16, operands are widened while they are packed, without a copy in memory; (3) bias, GELU
// and rounding are applied while the tile is in the first-level cache. An element is always the sum over
// fixed blocks of K, in order, each a chain of fma from its first to its last k.
// More in docs/decisions/011-own-fp32-gemm.md.
#pragma once

#include <cstdint>

#include "native/allocator.h"
#include "native/tensor.h"

namespace goku {

/// A matrix to read: element (i, j) is at data[i * rowStride + j * columnStride]; one of the strides is 1.
struct MatrixView {
  const void* data;
  DType dtype;  // f32 or bf16
  int64_t rowStride, columnStride;

  MatrixView transposed() const { return {data, dtype, columnStride, rowStride}; }
};

/// A row-major, dense matrix to write; data null: not wanted.
struct MatrixOut {
  void* data = nullptr;
  DType dtype = DType::kF32;
};

struct Gemm {
  int64_t M, N, K;
  MatrixView a, b;
  MatrixOut c;
  bool accumulate = false;       // c += instead of c =
  const Tensor* bias = nullptr;  // N numbers, added to each row
  bool gelu = false;             // c = gelu_tanh(of all that)
  MatrixOut preActivation{};     // what gelu is applied to
};

/// Buffers come from `scratch` and go back before it returns. K = 0 gives zeros (then bias and gelu).
void gemm(const Gemm& problem, Allocator& scratch);

}  // namespace goku
