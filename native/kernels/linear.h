// The linear layer y = x w^T + bias and its gradients.
// N rows (tokens), K in-width, F out-width; x [N,K], w [F,K], y, dy [N,F], dx [N,K], dw [F,K] row-major and
// dense. Tensors may be f32 or bf16 each, except dw and dbias, which are f32: gradients of weights are never
// rounded to bf16.
#pragma once

#include "native/allocator.h"
#include "native/kernels/matrix_library.h"
#include "native/tensor.h"

namespace goku {

/// What products need beside their operands; one per environment.
struct ProductResources {
  Allocator& scratch;
  MatrixLibrary& library;  // on a CPU used where both operands are bf16 and it multiplies bf16
};

struct LinearShape {
  int64_t N, K, F;
};

/// y = x w^T + bias; with preActivation: that is stored there, and y = gelu_tanh of it as stored.
void linearForward(const ProductResources& resources, const Tensor& y, const Tensor& x, const Tensor& w,
                   const Tensor* bias, const LinearShape& shape, const Tensor* preActivation);

/// dx = dy w, or +=.
void linearBackwardInput(const ProductResources& resources, const Tensor& dx, const Tensor& dy,
                         const Tensor& w, const LinearShape& shape, bool accumulate);

/// dw = dy^T x and dbias (null: not wanted) = column sums of dy, or +=. No rows: zeros, or nothing added.
void linearBackwardWeight(const ProductResources& resources, const Tensor& dw, const Tensor* dbias,
                          const Tensor& dy, const Tensor& x, const LinearShape& shape, bool accumulate);

}  // namespace goku
