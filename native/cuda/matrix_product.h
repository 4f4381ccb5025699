// A matrix product as cuBLASLt takes it: column-major, C[m,n] = op(A) op(B), with what may be added.
//
// Our matrices are row-major; one in memory is the column-major matrix of its transpose. C = A B is therefore
// asked for as C^T = B^T A^T: the operands change places, and no number is moved.
#pragma once

#include <cstdint>

#include "native/tensor.h"

namespace goku {

/// A column-major operand: op(X) is X or its transpose; its columns are `stride` elements apart.
struct ColumnMajor {
  const void* data;
  bool transposed;
  int64_t stride;
};

struct MatrixProduct {
  int64_t m, n, k;
  ColumnMajor a, b;
  DType operands;              // f32 or bf16, of both; products are summed in f32, without TF32
  void* c;                     // its columns are m elements apart
  DType result;                // f32, or bf16 where the operands are
  const void* bias = nullptr;  // m numbers of the result's dtype, added to each column
  bool accumulate = false;     // c += instead of c =
};

/// A row-major matrix X[rows, columns] as it stands in a row-major product: X, or X transposed.
struct RowMajor {
  const void* data;
  int64_t columns;
  bool transposed;
};

/// The same as C[M,N] = op(A) op(B) of row-major matrices.
inline MatrixProduct fromRowMajor(int64_t M, int64_t N, int64_t K, const RowMajor& a, const RowMajor& b,
                                  DType operands, const Tensor& c) {
  const auto column = [](const RowMajor& x) { return ColumnMajor{x.data, x.transposed, x.columns}; };
  return {.m = N,
          .n = M,
          .k = K,
          .a = column(b),
          .b = column(a),
          .operands = operands,
          .c = c.data,
          .result = c.dtype};
}

}  // namespace goku
