// RMSNorm over all heads together (QK-norm), then rotation by position (RoPE).
#pragma once

#include <cstdint>

#include "native/tensor.h"

namespace goku {

/// y[N,H,d] = rotate(rmsNorm over H*d (x) * w); y, x, w[H*d]: any; cos, sin: f32 [N, d/2], both null: no
/// rotation; rstd: f32 [N], written. y may be x.
void qkNormRopeForward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w,
                       const Tensor* cos, const Tensor* sin, int64_t N, int64_t H, int64_t d, double eps);

/// dx = ...; dw (f32) += ...; dx may be dy.
void qkNormRopeBackward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x,
                        const Tensor& rstd, const Tensor& w, const Tensor* cos, const Tensor* sin, int64_t N,
                        int64_t H, int64_t d);

}  // namespace goku
