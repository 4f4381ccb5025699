// LayerNorm without affine, modulated (adaLN):
//   h = (x - mean) r,  r = 1 / sqrt(var + eps)      y = h (1 + scale_s) + shift_s
//   g = dy (1 + scale_s)                            dx += r (g - mean(g) - h mean(g h))
//   dshift_s = sum of dy, dscale_s = sum of dy h over the rows of sample s
// Goku, arXiv:2502.04896, section 2.2. N rows, D columns, S samples, W columns of mod.
//
// Forward: a block a row. Backward: a block of threads for up to 32 rows of one sample, one after another, so
// that the sums over rows need no second pass over the tensors. A row is in the first-level cache when it is
// read again. The variance is the mean of squared differences, as on the CPU.
#include <cmath>

#include "native/cuda/row_sums.h"
#include "native/kernels/checks.h"
#include "native/kernels/layer_norm_modulate.h"

namespace goku {
namespace {

struct Modulation {
  const float* data_SW;
  int64_t width, shift, scale;
};

__device__ inline float rootInverse(float squares, int64_t D, double eps) {
  return static_cast<float>(1.0 / sqrt(static_cast<double>(squares) / static_cast<double>(D) + eps));
}

__global__ void __launch_bounds__(kRowThreads)
    forwardKernel(Out y_ND, float* stats_N2, In x_ND, Modulation mod, const int32_t* offsets, int64_t samples,
                  int64_t D, double eps) {
  const int64_t row = blockIdx.x, begin = row * D, end = begin + D;
  float x[kEight], total[1] = {0};
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, end, x);
    for (int j = 0; j < kEight; j++) total[0] += x[j];
  }
  blockSum(total);
  const float mean = total[0] / static_cast<float>(D);
  total[0] = 0;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, end, x);
    for (int j = 0; j < kEight; j++) {
      const float difference = c + j < D ? x[j] - mean : 0.0f;
      total[0] = fmaf(difference, difference, total[0]);
    }
  }
  blockSum(total);
  const float r = rootInverse(total[0], D, eps);
  const float* modulation = mod.data_SW + runOf(offsets, samples, row) * mod.width;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, end, x);
    for (int j = 0; j < kEight && c + j < D; j++)
      x[j] = fmaf((x[j] - mean) * r, modulation[mod.scale + c + j] + 1.0f, modulation[mod.shift + c + j]);
    y_ND.store(begin + c, end, x);
  }
  if (threadIdx.x > 0) return;
  stats_N2[2 * row] = mean;
  stats_N2[2 * row + 1] = r;
}

/// dx_ND is added to. partial: [blocks][2 D], the sums of dy, then of dy h.
__global__ void __launch_bounds__(kRowThreads)
    backwardKernel(Out dx_ND, float* partial, In dy_ND, In x_ND, const float* stats_N2, Modulation mod,
                   RowBlocksView rows, int64_t D) {
  GOKU_DYNAMIC_SHARED(float, sums);  // [2 D]; a column belongs to one thread throughout
  const RowBlock block = rows.at(blockIdx.x);
  const float* scale = mod.data_SW + block.sample * mod.width + mod.scale;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight)
    for (int j = 0; j < kEight && c + j < D; j++) sums[c + j] = sums[D + c + j] = 0;
  float dy[kEight], x[kEight], dx[kEight];
  for (int64_t row = block.first; row < block.first + block.count; row++) {
    const int64_t begin = row * D, end = begin + D;
    const float mean = stats_N2[2 * row], r = stats_N2[2 * row + 1];
    float totals[2] = {0, 0};
    for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
      dy_ND.load(begin + c, end, dy);
      x_ND.load(begin + c, end, x);
      for (int j = 0; j < kEight && c + j < D; j++) {
        const float h = (x[j] - mean) * r, g = dy[j] * (scale[c + j] + 1.0f);
        totals[0] += g;
        totals[1] = fmaf(g, h, totals[1]);
        sums[c + j] += dy[j];
        sums[D + c + j] = fmaf(dy[j], h, sums[D + c + j]);
      }
    }
    blockSum(totals);
    const float meanG = totals[0] / static_cast<float>(D), meanGh = totals[1] / static_cast<float>(D);
    for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
      dy_ND.load(begin + c, end, dy);
      x_ND.load(begin + c, end, x);
      dx_ND.read().load(begin + c, end, dx);
      for (int j = 0; j < kEight && c + j < D; j++) {
        const float h = (x[j] - mean) * r, g = dy[j] * (scale[c + j] + 1.0f);
        dx[j] = fmaf(fmaf(h, -meanGh, g - meanG), r, dx[j]);
      }
      dx_ND.store(begin + c, end, dx);
    }
  }
  float* to = partial + int64_t{blockIdx.x} * 2 * D;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight)
    for (int j = 0; j < kEight && c + j < D; j++) {
      to[c + j] = sums[c + j];
      to[D + c + j] = sums[D + c + j];
    }
}

}  // namespace

void layerNormModulateForward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& mod,
                              int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                              std::span<const int32_t> offsets, int64_t D, double eps) {
  const char* name = "layerNormModulateForward";
  checks::layerNormModulate(name, stats, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  checkRows(name, "y", y, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const Uploaded<int32_t> uploaded(offsets);
  launch(forwardKernel, name, {offsets.back(), kRowThreads}, Out(y), stats.as<float>(), In(x),
         Modulation{mod.as<float>(), modWidth, shiftColumn, scaleColumn}, uploaded.data(),
         checks::samplesOf(offsets), D, eps);
}

void layerNormModulateBackward(const Tensor& dx, const Tensor& dmod, const Tensor& dy, const Tensor& x,
                               const Tensor& stats, const Tensor& mod, int64_t modWidth, int64_t shiftColumn,
                               int64_t scaleColumn, std::span<const int32_t> offsets, int64_t D) {
  const char* name = "layerNormModulateBackward";
  checks::layerNormModulate(name, stats, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  checkFloatRows(name, "dmod", dmod, checks::samplesOf(offsets), modWidth);
  checkRows(name, "dx", dx, offsets.back(), D);
  checkRows(name, "dy", dy, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const int64_t columns = 2 * D, samples = checks::samplesOf(offsets);
  checkSumColumns(name, columns);
  const RowSums sums(offsets, columns);
  launch(backwardKernel, name, {sums.blocks(), kRowThreads, static_cast<size_t>(columns) * sizeof(float)},
         Out(dx), sums.partial(), In(dy), In(x), stats.as<float>(),
         Modulation{mod.as<float>(), modWidth, shiftColumn, scaleColumn}, sums.view(), D);
  sums.fold();
  writeModulation(dmod.as<float>(), modWidth, shiftColumn, sums.sums(), samples, columns, 0, D);
  writeModulation(dmod.as<float>(), modWidth, scaleColumn, sums.sums(), samples, columns, D, D);
}

}  // namespace goku
