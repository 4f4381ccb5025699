// LayerNorm without affine, modulated by vectors of its sample (adaLN).
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

/// y[N,D] = layerNorm(x) * (1 + mod[s, scaleColumn + c]) + mod[s, shiftColumn + c]; y, x: any; mod: f32 [S,
/// modWidth]; stats: f32 [N,2] = (mean, 1/sd), written.
void layerNormModulateForward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& mod,
                              int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                              std::span<const int32_t> offsets, int64_t D, double eps);

/// dx += ...; the shift and scale columns of dmod = ..., 0 for a sample without rows; its other columns stay.
void layerNormModulateBackward(const Tensor& dx, const Tensor& dmod, const Tensor& dy, const Tensor& x,
                               const Tensor& stats, const Tensor& mod, int64_t modWidth, int64_t shiftColumn,
                               int64_t scaleColumn, std::span<const int32_t> offsets, int64_t D);

}  // namespace goku
