// RMSNorm, modulated or not (scale_s = shift_s = 0):
//   h = x r,  r = 1 / sqrt(mean(x^2) + eps)      y = h w (1 + scale_s) + shift_s
//   g = dy w (1 + scale_s)                       dx += r (g - h mean(g h))
//   a_s = sum of dy h over the rows of sample s  dw += sum over s of (1 + scale_s) a_s
//   dscale_s = w a_s                             dshift_s = sum of dy over the rows of sample s
// arXiv:1910.07467; Goku, arXiv:2502.04896, section 2.2. N rows, D columns, S samples.
// Both gradients of vectors come from the one sum a_s, so a row adds to two vectors and not to three.
#include "native/kernels/rms_norm.h"

#include <cmath>

#include "native/kernels/checks.h"
#include "native/kernels/row_blocks.h"

namespace goku {
namespace {

/// shift and scale may be null.
float normRow(float* y, const float* x, const float* w, const float* shift, const float* scale, int64_t D,
              double eps) {
  float total[1];
  sumRow(D, total, [&](int64_t c, int64_t lanes, Vec(&sums)[1]) {
    const Vec number = loadLanes(x + c, lanes);
    sums[0] = fma(number, number, sums[0]);
  });
  const float r =
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(total[0]) / static_cast<double>(D) + eps));
  if (scale == nullptr) {
    forLanes(D, [&](int64_t c, int64_t lanes) {
      storeLanes(y + c, loadLanes(x + c, lanes) * r * loadLanes(w + c, lanes), lanes);
    });
  } else {
    forLanes(D, [&](int64_t c, int64_t lanes) {
      const Vec normed = loadLanes(x + c, lanes) * r * loadLanes(w + c, lanes);
      storeLanes(y + c, fma(normed, loadLanes(scale + c, lanes) + 1.0f, loadLanes(shift + c, lanes)), lanes);
    });
  }
  return r;
}

/// factor = w (1 + scale); a and dshift are added to, dshift may be null.
void differentiateRow(float* dx, float* a, float* dshift, const float* dy, const float* x, float r,
                      const float* factor, int64_t D) {
  float total[1];
  sumRow(D, total, [&](int64_t c, int64_t lanes, Vec(&sums)[1]) {
    const Vec gradient = loadLanes(dy + c, lanes);
    const Vec gradientH = gradient * (loadLanes(x + c, lanes) * r);
    sums[0] = fma(gradientH, loadLanes(factor + c, lanes), sums[0]);
    storeLanes(a + c, loadLanes(a + c, lanes) + gradientH, lanes);
    if (dshift != nullptr) storeLanes(dshift + c, loadLanes(dshift + c, lanes) + gradient, lanes);
  });
  const float mean = total[0] / static_cast<float>(D);
  forLanes(D, [&](int64_t c, int64_t lanes) {
    const Vec h = loadLanes(x + c, lanes) * r;
    const Vec g = loadLanes(dy + c, lanes) * loadLanes(factor + c, lanes);
    const Vec inner = fma(h, broadcast(-mean), g);
    storeLanes(dx + c, fma(inner, broadcast(r), loadLanes(dx + c, lanes)), lanes);
  });
}

/// From a and dshift of every block: dw += sum over samples, in order, of (1 + scale) a; dscale = w a;
/// dshift.
void foldSums(float* dw, const Tensor* dmod, const Tensor* mod, int64_t modWidth, int64_t shiftColumn,
              int64_t scaleColumn, const float* w, const RowBlocks& cut, const float* partial, int64_t stride,
              int64_t D) {
  if (mod == nullptr) {
    foldBlocks(partial, stride, 0, cut.count(), D, [&](int64_t first, int64_t count, const double* sums) {
      for (int64_t c = 0; c < count; c++) dw[first + c] = static_cast<float>(dw[first + c] + sums[c]);
    });
    return;
  }
  std::vector<double> all(static_cast<size_t>(D));
  for (size_t s = 0; s + 1 < cut.starts.size(); s++) {
    const float* scale = mod->as<float>() + static_cast<int64_t>(s) * modWidth + scaleColumn;
    float* dscale = dmod->as<float>() + static_cast<int64_t>(s) * modWidth + scaleColumn;
    foldBlocks(partial, stride, cut.starts[s], cut.starts[s + 1], D,
               [&](int64_t first, int64_t count, const double* sums) {
                 for (int64_t c = 0; c < count; c++) {
                   dscale[first + c] = static_cast<float>(sums[c] * w[first + c]);
                   all[static_cast<size_t>(first + c)] += sums[c] * (1.0 + scale[first + c]);
                 }
               });
  }
  for (int64_t c = 0; c < D; c++) dw[c] = static_cast<float>(dw[c] + all[static_cast<size_t>(c)]);
  foldModulation(dmod->as<float>(), modWidth, cut, partial + Arena::room(D), stride, D, shiftColumn);
}

}  // namespace

void rmsNormForward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, const Tensor* mod,
                    int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                    std::span<const int32_t> offsets, int64_t D, double eps) {
  const char* name = "rmsNormForward";
  checks::rmsNorm(name, rstd, w, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  checkRows(name, "y", y, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  Arena weights(Arena::room(D));
  const float* weight = Source(w).read(0, D, weights.take(D));
  const Source in(x);
  const Target out(y);
  forRowBlocks(cutRows(offsets), Arena::room(D, D), [&](const RowBlock& block, int64_t, float* scratch) {
    float* formed = scratch + Arena::room(D);
    const float* modulation = mod == nullptr ? nullptr : mod->as<float>() + block.sample * modWidth;
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      float* to = out.begin(row * D, formed);
      rstd.as<float>()[row] = normRow(to, in.read(row * D, D, scratch), weight,
                                      modulation == nullptr ? nullptr : modulation + shiftColumn,
                                      modulation == nullptr ? nullptr : modulation + scaleColumn, D, eps);
      out.finish(row * D, to, D);
    }
  });
}

void rmsNormBackward(const Tensor& dx, const Tensor& dw, const Tensor* dmod, const Tensor& dy,
                     const Tensor& x, const Tensor& rstd, const Tensor& w, const Tensor* mod,
                     int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn,
                     std::span<const int32_t> offsets, int64_t D) {
  const char* name = "rmsNormBackward";
  checks::rmsNorm(name, rstd, w, mod, modWidth, shiftColumn, scaleColumn, offsets, D);
  GOKU_CHECK((dmod == nullptr) == (mod == nullptr), name, ": one of dmod and mod is 0, want both or neither");
  const int64_t samples = static_cast<int64_t>(offsets.size()) - 1;
  if (dmod != nullptr) checkFloatRows(name, "dmod", *dmod, samples, modWidth);
  checkFloatRows(name, "dw", dw, 1, D);
  checkRows(name, "dx", dx, offsets.back(), D);
  checkRows(name, "dy", dy, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  const RowBlocks cut = cutRows(offsets);
  const int64_t part = Arena::room(D);
  const int64_t stride = mod == nullptr ? part : 2 * part;  // one block's sums: a, then dshift
  Arena arena(part + cut.count() * stride);
  const float* weight = Source(w).read(0, D, arena.take(part));
  float* partial = arena.take(cut.count() * stride);
  const Source gradient(dy), in(x);
  const Target out(dx);
  forRowBlocks(cut, 4 * part, [&](const RowBlock& block, int64_t index, float* scratch) {
    float* sums = partial + index * stride;
    std::fill_n(sums, stride, 0.0f);
    const float* factor = weight;
    if (mod != nullptr) {
      const float* scale = mod->as<float>() + block.sample * modWidth + scaleColumn;
      float* product = scratch + 3 * part;
      for (int64_t c = 0; c < D; c++) product[c] = weight[c] * (1.0f + scale[c]);
      factor = product;
    }
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      float* to = out.open(row * D, D, scratch + 2 * part);
      differentiateRow(to, sums, mod == nullptr ? nullptr : sums + part, gradient.read(row * D, D, scratch),
                       in.read(row * D, D, scratch + part), rstd.as<float>()[row], factor, D);
      out.finish(row * D, to, D);
    }
  });
  foldSums(dw.as<float>(), dmod, mod, modWidth, shiftColumn, scaleColumn, weight, cut, partial, stride, D);
}

}  // namespace goku
