// Attention forward on tensor cores, for bf16.
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

/// Whether attentionForwardTensor takes these: q, k and v bf16 whose rows lie at multiples of 16 bytes, d a
/// multiple of 8 and at most 128.
bool suitsTensorCores(const Tensor& q, const Tensor& k, const Tensor& v, int64_t width);

/// As attentionForward; operands are checked.
void attentionForwardTensor(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                            const Tensor& v, std::span<const int32_t> qOffsets,
                            std::span<const int32_t> kOffsets, int64_t heads, int64_t width);

}  // namespace goku
