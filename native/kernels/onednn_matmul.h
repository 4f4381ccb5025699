// Products of bf16 matrices by oneDNN, for CPUs that multiply bf16 (AVX512_BF16, AMX): C[M,N] = A[M,K]
// B[K,N].
//
// oneDNN chooses its blocking by shape and number of threads, and with it the order of additions. So C is cut
// here, by shape alone, into parts that are each computed by one thread with a primitive made for one thread:
// the bits do not depend on how many threads share the parts.
#pragma once

#include <cstdint>
#include <memory>

#include "native/kernels/gemm.h"

namespace goku {

class OnednnMatmul {
 public:
  OnednnMatmul();
  ~OnednnMatmul();

  /// Whether this CPU multiplies bf16.
  bool multipliesBf16() const { return bf16_; }

  /// Computes the product, or returns false where oneDNN has no fast way for it (an odd shape or stride;
  /// gelu): the caller then uses gemm(). a and b have one dtype. Tokens are the rows of a, or the depth where
  /// a is transposed: any number of them is multiplied by primitives for multiples of 64, which are kept, the
  /// 512 used last (docs/decisions/011-own-fp32-gemm.md).
  bool run(const Gemm& problem, Allocator& scratch);

 private:
  struct State;
  std::unique_ptr<State> state_;
  bool bf16_;
};

}  // namespace goku
