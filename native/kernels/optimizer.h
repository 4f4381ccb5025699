// The optimizer's step on flat f32 runs (arXiv:1711.05101, with a moving average of the weights):
//   g = gradScale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w (1 - lr decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps);  ema = d ema + (1
//   - d) w
// An element's new bits depend on its own numbers only, so a parameter may be sharded anywhere.
#pragma once

#include "native/tensor.h"

namespace goku {

struct AdamwSettings {
  double lr, beta1, beta2, eps, weightDecay, gradScale, emaDecay;
  int64_t step;  // from 1
};

/// master, m, v, ema, grad: f32; elements [start, start + count) of each are updated in place (grad is read).
/// weights (f32 or bf16; null: none): the same elements = new master, rounded.
void adamwStep(const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& ema, const Tensor& grad,
               const Tensor* weights, int64_t start, int64_t count, const AdamwSettings& settings);

/// Sum of squares of elements [start, start + count) of x (f32 or bf16) in f64; NaN and infinities come
/// through.
double sumSquares(const Tensor& x, int64_t start, int64_t count);

}  // namespace goku
