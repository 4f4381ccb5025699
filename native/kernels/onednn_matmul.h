// Matrix products by oneDNN: C[M,N] = A[M,K] B[K,N] (+ C), for any strides of A and B. f32, or bf16 inputs on
// CPUs that multiply bf16. Primitives are kept per shape and layout: making one costs as much as a small
// product.
#pragma once

#include <cstdint>
#include <memory>

#include "native/kernels/gemm.h"

namespace goku {

class OnednnMatmul {
 public:
  OnednnMatmul();
  ~OnednnMatmul();

  /// c (f32 or bf16) = a b, or += when accumulate. a and b: both f32, or both bf16.
  void run(const MatrixOut& c, const MatrixView& a, const MatrixView& b, int64_t M, int64_t N, int64_t K,
           bool accumulate);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace goku
