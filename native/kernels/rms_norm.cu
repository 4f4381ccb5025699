// RMSNorm, modulated or not (scale_s = shift_s = 0):
//   h = x r,  r = 1 / sqrt(mean(x^2) + eps)      y = h w (1 + scale_s) + shift_s
//   g = dy w (1 + scale_s)                       dx += r (g - h mean(g h))
//   a_s = sum of dy h over the rows of sample s  dw += sum over s of (1 + scale_s) a_s
//   dscale_s = w a_s                             dshift_s = sum of dy over the rows of sample s
// arXiv:1910.07467; Goku, arXiv:2502.04896, section 2.2. N rows, D columns, S samples, W columns of mod.
// Blocks of threads as in layer_norm_modulate.cu.
#include <cmath>

#include "native/cuda/row_sums.h"
#include "native/kernels/checks.h"
#include "native/kernels/rms_norm.h"

namespace goku {
namespace {

struct Modulation {
  const float* data_SW;  // null: none
  int64_t width, shift, scale;

  explicit Modulation(const Tensor* mod, int64_t width, int64_t shift, int64_t scale)
      : data_SW(mod == nullptr ? nullptr : mod->as<float>()), width(width), shift(shift), scale(scale) {}
};

__global__ void __launch_bounds__(kRowThreads)
    forwardKernel(Out y_ND, float* rstd_N, In x_ND, In w_D, Modulation mod, const int32_t* offsets,
                  int64_t samples, int64_t D, double eps) {
  const int64_t row = blockIdx.x, begin = row * D, end = begin + D;
  const float r = inverseRms(x_ND, begin, D, eps);
  float x[kEight], w[kEight];
  const float* modulation = nullptr;
  if (mod.data_SW != nullptr) modulation = mod.data_SW + runOf(offsets, samples, row) * mod.width;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, end, x);
    w_D.load(c, D, w);
    for (int j = 0; j < kEight && c + j < D; j++) {
      x[j] = x[j] * r * w[j];
      if (modulation != nullptr)
        x[j] = fmaf(x[j], modulation[mod.scale + c + j] + 1.0f, modulation[mod.shift + c + j]);
    }
    y_ND.store(begin + c, end, x);
  }
  if (threadIdx.x == 0) rstd_N[row] = r;
}

/// dx_ND is added to. partial: [blocks][D or 2 D], the sums of dy h, then, where there is a mod, of dy.
__global__ void __launch_bounds__(kRowThreads)
    backwardKernel(Out dx_ND, float* partial, In dy_ND, In x_ND, const float* rstd_N, In w_D, Modulation mod,
                   RowBlocksView rows, int64_t D) {
  GOKU_DYNAMIC_SHARED(float, sums);  // a column belongs to one thread throughout
  const bool modulated = mod.data_SW != nullptr;
  const int64_t columns = modulated ? 2 * D : D;
  const RowBlock block = rows.at(blockIdx.x);
  const float* scale = modulated ? mod.data_SW + block.sample * mod.width + mod.scale : nullptr;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight)
    for (int j = 0; j < kEight && c + j < D; j++) {
      sums[c + j] = 0;
      if (modulated) sums[D + c + j] = 0;
    }
  float dy[kEight], x[kEight], dx[kEight], factor[kEight];
  const auto factorAt = [&](int64_t c) {  // w (1 + scale)
    w_D.load(c, D, factor);
    for (int j = 0; modulated && j < kEight && c + j < D; j++) factor[j] *= 1.0f + scale[c + j];
  };
  for (int64_t row = block.first; row < block.first + block.count; row++) {
    const int64_t begin = row * D, end = begin + D;
    const float r = rstd_N[row];
    float total[1] = {0};
    for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
      dy_ND.load(begin + c, end, dy);
      x_ND.load(begin + c, end, x);
      factorAt(c);
      for (int j = 0; j < kEight && c + j < D; j++) {
        const float dyH = dy[j] * (x[j] * r);
        total[0] = fmaf(dyH, factor[j], total[0]);
        sums[c + j] += dyH;
        if (modulated) sums[D + c + j] += dy[j];
      }
    }
    blockSum(total);
    const float mean = total[0] / static_cast<float>(D);
    for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
      dy_ND.load(begin + c, end, dy);
      x_ND.load(begin + c, end, x);
      dx_ND.read().load(begin + c, end, dx);
      factorAt(c);
      for (int j = 0; j < kEight; j++) dx[j] = fmaf(fmaf(x[j] * r, -mean, dy[j] * factor[j]), r, dx[j]);
      dx_ND.store(begin + c, end, dx);
    }
  }
  float* to = partial + int64_t{blockIdx.x} * columns;
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight)
    for (int j = 0; j < kEight && c + j < D; j++) {
      to[c + j] = sums[c + j];
      if (modulated) to[D + c + j] = sums[D + c + j];
    }
}

/// dw_D += sum over samples, in order, of (1 + scale) a; dmod's scale columns = w a. sums: [S][D or 2 D] of
/// a, dshift.
__global__ void weightsKernel(float* dw_D, float* dmod_SW, const double* sums, In w_D, Modulation mod,
                              int64_t samples, int64_t D) {
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= D) return;
  const bool modulated = mod.data_SW != nullptr;
  const double w = static_cast<double>(w_D.at(c));
  double total = 0;
  for (int64_t s = 0; s < samples; s++) {
    const double a = sums[s * (modulated ? 2 * D : D) + c];
    const int64_t at = s * mod.width + mod.scale + c;
    total += modulated ? a * (1.0 + static_cast<double>(mod.data_SW[at])) : a;
    if (modulated) dmod_SW[at] = static_cast<float>(a * w);
  }
  dw_D[c] = static_cast<float>(static_cast<double>(dw_D[c]) + total);
}

}  // namespace

void rmsNormForward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, const Tensor* mod,
                    int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                    std::span<const int32_t> offsets, int64_t D, double eps) {
  const char* name = "rmsNormForward";
  checks::rmsNorm(name, rstd, w, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  checkRows(name, "y", y, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const Uploaded<int32_t> uploaded(offsets);
  launch(forwardKernel, name, {offsets.back(), kRowThreads}, Out(y), rstd.as<float>(), In(x), In(w),
         Modulation(mod, modWidth, shiftColumn, scaleColumn), uploaded.data(), checks::samplesOf(offsets), D,
         eps);
}

void rmsNormBackward(const Tensor& dx, const Tensor& dw, const Tensor* dmod, const Tensor& dy,
                     const Tensor& x, const Tensor& rstd, const Tensor& w, const Tensor* mod,
                     int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                     std::span<const int32_t> offsets, int64_t D) {
  const char* name = "rmsNormBackward";
  checks::rmsNorm(name, rstd, w, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  GOKU_CHECK((dmod == nullptr) == (mod == nullptr), name, ": one of dmod and mod is 0, want both or neither");
  const int64_t samples = checks::samplesOf(offsets);
  if (dmod != nullptr) checkFloatRows(name, "dmod", *dmod, samples, modWidth);
  checkFloatRows(name, "dw", dw, 1, D);
  checkRows(name, "dx", dx, offsets.back(), D);
  checkRows(name, "dy", dy, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const int64_t columns = mod == nullptr ? D : 2 * D;
  checkSumColumns(name, columns);
  const RowSums sums(offsets, columns);
  const Modulation modulation(mod, modWidth, shiftColumn, scaleColumn);
  launch(backwardKernel, name, {sums.blocks(), kRowThreads, static_cast<size_t>(columns) * sizeof(float)},
         Out(dx), sums.partial(), In(dy), In(x), rstd.as<float>(), In(w), modulation, sums.view(), D);
  sums.fold();
  launch(weightsKernel, name, {ceilDivide(D, kRowThreads), kRowThreads}, dw.as<float>(),
         dmod == nullptr ? nullptr : dmod->as<float>(), sums.sums(), In(w), modulation, samples, D);
  if (dmod != nullptr)
    writeModulation(dmod->as<float>(), modWidth, shiftColumn, sums.sums(), samples, columns, D, D);
}

}  // namespace goku
