// The optimizer's step on flat f32 runs (arXiv:1711.05101, with a moving average of the weights):
//   g = gradScale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w (1 - lr decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps);  ema = d ema + (1
//   - d) w
// An element's new bits depend on its own numbers only, so a parameter may be sharded anywhere.
#pragma once

#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

/// Bytes that one checksum of a snapshot covers; CHUNK_BYTES in checkpoint/digest.ts.
inline constexpr size_t kChecksumBytes = size_t{1} << 20;

/// How many checksums so many bytes have.
constexpr int64_t checksumsOf(int64_t bytes) {
  constexpr auto kBytes = static_cast<int64_t>(kChecksumBytes);
  return (bytes + kBytes - 1) / kBytes;
}

struct AdamwSettings {
  double lr, beta1, beta2, eps, weightDecay, gradScale, emaDecay;
  int64_t step;  // from 1
};

/// Flat f32 runs of one length.
struct AdamwState {
  const Tensor &master, &m, &v, &ema;
};

/// to (=) the state after `from`; the same tensors: in place, else none that overlap. Written elsewhere, the
/// old state stays as it was, a snapshot that costs nothing.
///   weights (f32 or bf16; null: none) (=) new master, rounded
///   segments: start, count, 1 (decays) or 0, one after another over the whole run: which elements decay
///   checksums (empty: not wanted) (=) CRC-32 of each MiB of to.master, then of ema, m and v, made while the
///   bytes are in the cache
void adamwStep(const AdamwState& from, const AdamwState& to, const Tensor& grad, const Tensor* weights,
               std::span<const double> segments, const AdamwSettings& settings,
               std::span<uint32_t> checksums);

/// checksums = CRC-32 of each MiB of x.
void tensorChecksums(const Tensor& x, std::span<uint32_t> checksums);

/// Sum of squares of elements [start, start + count) of x (f32 or bf16) in f64; NaN and infinities come
/// through.
double sumSquares(const Tensor& x, int64_t start, int64_t count);

}  // namespace goku
