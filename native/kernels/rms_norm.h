// RMSNorm with weights, modulated by vectors of its sample where asked.
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

/// y[N,D] = rmsNorm(x) * w, then * (1 + mod[s, scaleColumn + c]) + mod[s, shiftColumn + c] unless mod is
/// null. y, x, w[D]: any; mod: f32 [S, modWidth]; rstd: f32 [N], written.
void rmsNormForward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, const Tensor* mod,
                    int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                    std::span<const int32_t> offsets, int64_t D, double eps);

/// dx += ...; dw (f32) += ...; the shift and scale columns of dmod = ..., 0 for a sample without rows. dmod
/// and mod are both null or both not.
void rmsNormBackward(const Tensor& dx, const Tensor& dw, const Tensor* dmod, const Tensor& dy,
                     const Tensor& x, const Tensor& rstd, const Tensor& w, const Tensor* mod,
                     int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                     std::span<const int32_t> offsets, int64_t D);

}  // namespace goku
