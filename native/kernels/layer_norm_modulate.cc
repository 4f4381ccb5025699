// LayerNorm without affine, modulated (adaLN):
//   h = (x - mean) r,  r = 1 / sqrt(var + eps)      y = h (1 + scale_s) + shift_s
//   g = dy (1 + scale_s)                            dx += r (g - mean(g) - h mean(g h))
//   dshift_s = sum of dy, dscale_s = sum of dy h over the rows of sample s
// Goku, arXiv:2502.04896, section 2.2; block layout as published by its authors. N rows, D columns, S
// samples.
//
// Memory is passed over once: a row of D numbers is in L1 when it is read again. The variance is the mean of
// squared differences from the mean, never E[x^2] - mean^2, which would lose everything where |mean| >> sd.
#include "native/kernels/layer_norm_modulate.h"

#include <cmath>

#include "native/kernels/checks.h"
#include "native/kernels/row_blocks.h"

namespace goku {
namespace {

struct Columns {
  Modulation mod;
  int64_t shift, scale;
};

void normRow(float* y, float* stats, const float* x, const float* shift, const float* scale, int64_t D,
             double eps) {
  float total[1];
  sumRow(D, total, [&](int64_t c, int64_t lanes, Vec(&sums)[1]) { sums[0] += loadLanes(x + c, lanes); });
  const float mean = total[0] / static_cast<float>(D);
  sumRow(D, total, [&](int64_t c, int64_t lanes, Vec(&sums)[1]) {
    const Vec difference = keepLanes(loadLanes(x + c, lanes) - mean, lanes);
    sums[0] = fma(difference, difference, sums[0]);
  });
  const float r =
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(total[0]) / static_cast<double>(D) + eps));
  forLanes(D, [&](int64_t c, int64_t lanes) {
    const Vec h = (loadLanes(x + c, lanes) - mean) * r;
    storeLanes(y + c, fma(h, loadLanes(scale + c, lanes) + 1.0f, loadLanes(shift + c, lanes)), lanes);
  });
  stats[0] = mean;
  stats[1] = r;
}

/// dshift and dscale are added to.
void differentiateRow(float* dx, float* dshift, float* dscale, const float* dy, const float* x,
                      const float* stats, const float* scale, int64_t D) {
  const float mean = stats[0], r = stats[1];
  float totals[2];
  sumRow(D, totals, [&](int64_t c, int64_t lanes, Vec(&sums)[2]) {
    const Vec gradient = loadLanes(dy + c, lanes);
    const Vec h = (loadLanes(x + c, lanes) - mean) * r;
    const Vec g = gradient * (loadLanes(scale + c, lanes) + 1.0f);
    sums[0] += g;
    sums[1] = fma(g, h, sums[1]);
    storeLanes(dshift + c, loadLanes(dshift + c, lanes) + gradient, lanes);
    storeLanes(dscale + c, fma(gradient, h, loadLanes(dscale + c, lanes)), lanes);
  });
  const float meanG = totals[0] / static_cast<float>(D), meanGh = totals[1] / static_cast<float>(D);
  forLanes(D, [&](int64_t c, int64_t lanes) {
    const Vec h = (loadLanes(x + c, lanes) - mean) * r;
    const Vec g = loadLanes(dy + c, lanes) * (loadLanes(scale + c, lanes) + 1.0f);
    const Vec inner = fma(h, broadcast(-meanGh), g - meanG);
    storeLanes(dx + c, fma(inner, broadcast(r), loadLanes(dx + c, lanes)), lanes);
  });
}

}  // namespace

void layerNormModulateForward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& mod,
                              int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                              std::span<const int32_t> offsets, int64_t D, double eps) {
  const char* name = "layerNormModulateForward";
  checks::layerNormModulate(name, stats, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  checkRows(name, "y", y, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const Modulation modulation{mod.as<float>(), modWidth};
  const Source in(x);
  const Target out(y);
  forRowBlocks(cutRows(offsets), Arena::room(D, D), [&](const RowBlock& block, int64_t, float* scratch) {
    float* formed = scratch + Arena::room(D);
    const float* shift = modulation.at(block.sample, shiftColumn);
    const float* scale = modulation.at(block.sample, scaleColumn);
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      float* to = out.begin(row * D, formed);
      normRow(to, stats.as<float>() + 2 * row, in.read(row * D, D, scratch), shift, scale, D, eps);
      out.finish(row * D, to, D);
    }
  });
}

void layerNormModulateBackward(const Tensor& dx, const Tensor& dmod, const Tensor& dy, const Tensor& x,
                               const Tensor& stats, const Tensor& mod, int64_t modWidth, int64_t shiftColumn,
                               int64_t scaleColumn, std::span<const int32_t> offsets, int64_t D) {
  const char* name = "layerNormModulateBackward";
  checks::layerNormModulate(name, stats, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  checkFloatRows(name, "dmod", dmod, static_cast<int64_t>(offsets.size()) - 1, modWidth);
  checkRows(name, "dx", dx, offsets.back(), D);
  checkRows(name, "dy", dy, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const Modulation modulation{mod.as<float>(), modWidth};
  const Source gradient(dy), in(x);
  const Target out(dx);
  const RowBlocks cut = cutRows(offsets);
  const int64_t half = Arena::room(D), stride = 2 * half;  // one block's sums: shift, then scale
  Arena arena(cut.count() * stride);
  float* partial = arena.take(cut.count() * stride);
  forRowBlocks(cut, 3 * half, [&](const RowBlock& block, int64_t index, float* scratch) {
    float* sums = partial + index * stride;
    std::fill_n(sums, stride, 0.0f);
    const float* scale = modulation.at(block.sample, scaleColumn);
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      float* to = out.open(row * D, D, scratch + 2 * half);
      differentiateRow(to, sums, sums + half, gradient.read(row * D, D, scratch),
                       in.read(row * D, D, scratch + half), stats.as<float>() + 2 * row, scale, D);
      out.finish(row * D, to, D);
    }
  });
  foldModulation(dmod.as<float>(), modWidth, cut, partial, stride, D, shiftColumn);
  foldModulation(dmod.as<float>(), modWidth, cut, partial + half, stride, D, scaleColumn);
}

}  // namespace goku
