// Attention on tensor cores, for bf16.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "native/tensor.h"

namespace goku {

/// Whether the functions below take these: bf16, rows at multiples of 16 bytes, d a multiple of 8 and at most
/// 128.
bool suitsTensorCores(std::initializer_list<const Tensor*> inputs, int64_t width);

/// As attentionForward; operands are checked, and q, k and v suit.
void attentionForwardTensor(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                            const Tensor& v, std::span<const int32_t> qOffsets,
                            std::span<const int32_t> kOffsets, int64_t heads, int64_t width);

/// As attentionBackward; operands are checked, and dout, q, k and v suit. delta_NH: sums over d of dout out.
void attentionBackwardTensor(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                             const Tensor& lse, const float* delta_NH, const Tensor& q, const Tensor& k,
                             const Tensor& v, std::span<const int32_t> qOffsets,
                             std::span<const int32_t> kOffsets, int64_t heads, int64_t width);

}  // namespace goku
