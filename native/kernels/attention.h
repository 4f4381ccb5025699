// Packed attention: every query sees the keys of its own sample only.
//
// Shape letters: N query tokens, M key tokens, H heads, d channels a head, S samples.
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

inline constexpr int64_t kAttentionWidthMax = 256;  // d

/// out[N,H,d] = softmax(q k^T / sqrt(d)) v, lse[N,H] = log of the sum of exponentials of a query's scores.
/// lse is f32, the others f32 or bf16 each. Sample i owns query rows qOffsets[i] .. qOffsets[i+1]-1 and key
/// rows kOffsets[i] .. kOffsets[i+1]-1, either of which may be none: without keys out is 0 and lse -inf. d is
/// even and at most kAttentionWidthMax; H may be 0.
void attentionForward(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                      std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets, int64_t heads,
                      int64_t width);

/// dq[N,H,d], dk[M,H,d], dv[M,H,d] = gradients; out and lse as attentionForward left them. Outputs must not
/// share memory with inputs.
void attentionBackward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                       const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                       const Tensor& v, std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets,
                       int64_t heads, int64_t width);

}  // namespace goku
