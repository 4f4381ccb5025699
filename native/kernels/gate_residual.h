// Residual sum with a branch gated by a vector of its sample.
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

/// y[N,D] = x + mod[s, gateColumn + c] * branch; y, x, branch: any; mod: f32 [S, modWidth]; y may be x.
void gateResidualForward(const Tensor& y, const Tensor& x, const Tensor& branch, const Tensor& mod,
                         int64_t modWidth, int64_t gateColumn, std::span<const int32_t> offsets, int64_t D);

/// dbranch = gate * dy; the gate column of dmod = sum over the sample's rows of dy * branch, 0 for a sample
/// without rows. dbranch may be dy.
void gateResidualBackward(const Tensor& dbranch, const Tensor& dmod, const Tensor& dy, const Tensor& branch,
                          const Tensor& mod, int64_t modWidth, int64_t gateColumn,
                          std::span<const int32_t> offsets, int64_t D);

}  // namespace goku
