// Elementwise operations on flat tensors. "any": f32 or bf16, widened to f32, the result rounded once.
#pragma once

#include "native/tensor.h"

namespace goku {

/// dst = value, rounded to dst's dtype (u8: whole numbers 0 to 255).
void tensorFill(const Tensor& dst, double value);
/// dst = src; f32, bf16 and f64 in any pairing, rounded once to nearest even.
void tensorCast(const Tensor& dst, const Tensor& src);
/// dst += src; any.
void tensorAdd(const Tensor& dst, const Tensor& src);
/// dst[r * dstStride + dstOffset + c] = src[r * srcStride + srcOffset + c]; same dtype; the two must not
/// overlap.
void copy2d(const Tensor& dst, int64_t dstOffset, int64_t dstStride, const Tensor& src, int64_t srcOffset,
            int64_t srcStride, int64_t rows, int64_t cols);

/// y = gelu_tanh(x); any; y may be x.
void geluForward(const Tensor& y, const Tensor& x);
/// dx = dy * gelu_tanh'(x); any; dx may be dy.
void geluBackward(const Tensor& dx, const Tensor& dy, const Tensor& x);
/// y = x * sigmoid(x); any; y may be x.
void siluForward(const Tensor& y, const Tensor& x);
/// dx = dy * silu'(x); any; dx may be dy.
void siluBackward(const Tensor& dx, const Tensor& dy, const Tensor& x);

}  // namespace goku
