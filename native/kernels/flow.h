// The rectified-flow objective and its sampler (arXiv:2502.04896, section 2.3).
//   xt = t data + (1 - t) noise,  target = data - noise,  loss = sum_i weight_i sum_{rows of i} (v -
//   target)^2
// N tokens of all samples one after another, P numbers a token, S samples; sample i owns rows offsets[i] ..
// offsets[i+1]-1, maybe none.
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

using Offsets = std::span<const int32_t>;  // S + 1 entries

/// out f32 [S, width], width even: cos, then sin, of 1000 t_s * 10000^(-2j/width). Angles in f64, rounded
/// once.
void timestepSinusoid(const Tensor& out, const Tensor& t, int64_t width);

/// xt (any) [N, P] and target f32 [N, P], written; data, noise f32 [N, P]; t f32 [S].
void flowPath(const Tensor& xt, const Tensor& target, const Tensor& data, const Tensor& noise,
              const Tensor& t, Offsets offsets, int64_t P);

/// Returns the loss above in f64, perSample[i] = sample i's part of it. dv (any; null: not wanted) = 2
/// weight_i (v - target). v any. The sum runs over fixed blocks inside each sample, then over the blocks,
/// then the samples.
double flowLoss(const Tensor* dv, const Tensor& v, const Tensor& target, std::span<const double> weights,
                std::span<double> perSample, Offsets offsets, int64_t P);

/// x f32 += dt * (v0 + guidance * (v1 - v0)); without v0: x += dt * v1. v0, v1 any, same dtype.
void eulerUpdate(const Tensor& x, const Tensor& v1, const Tensor* v0, double guidance, double dt);

}  // namespace goku
