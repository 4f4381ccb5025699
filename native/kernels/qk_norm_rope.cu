// QK-norm and RoPE in one pass:
//   h = x r,  r = 1 / sqrt(mean over H*d (x^2) + eps)      u = h w      y = R u
//   R turns every pair (2j, 2j+1) of a head: (a c - b s, a s + b c)
//   v = R^T dy      dw += sum over rows of v h      g = v w      dx = r (g - h mean(g h))
// QK-norm spans all heads, before they are split, as in the authors' block (Goku, arXiv:2502.04896,
// section 2.2); RoPE: arXiv:2104.09864. N rows, H heads, d channels a head, D = H d.
//
// d is even, so a pair never leaves a head nor the eight numbers of a thread; eight numbers may lie in two
// heads. A thread reads the numbers of its columns before it writes there: y may be x, dx may be dy.
#include <cmath>

#include "native/cuda/row_sums.h"
#include "native/kernels/checks.h"
#include "native/kernels/qk_norm_rope.h"

namespace goku {
namespace {

struct Rotation {
  const float* cos;  // [N, d/2], null: no rotation
  const float* sin;
  int64_t d;

  Rotation(const Tensor* cos, const Tensor* sin, int64_t d)
      : cos(cos == nullptr ? nullptr : cos->as<float>()),
        sin(sin == nullptr ? nullptr : sin->as<float>()),
        d(d) {}

  /// Turns the pairs of columns c .. c+7 of a row, backwards for a direction of -1.
  __device__ void turn(float (&x)[kEight], int64_t row, int64_t c, int64_t D, float direction) const {
    if (cos == nullptr) return;
    for (int j = 0; j < kEight && c + j < D; j += 2) {
      const int64_t at = row * (d / 2) + (c + j) % d / 2;
      const float a = x[j], b = x[j + 1], co = cos[at], si = direction * sin[at];
      x[j] = fmaf(b, -si, a * co);
      x[j + 1] = fmaf(a, si, b * co);
    }
  }
};

__global__ void __launch_bounds__(kRowThreads)
    forwardKernel(Out y_ND, float* rstd_N, In x_ND, In w_D, Rotation rotation, int64_t D, double eps) {
  const int64_t row = blockIdx.x, begin = row * D, end = begin + D;
  const float r = inverseRms(x_ND, begin, D, eps);
  float x[kEight], w[kEight];
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, end, x);
    w_D.load(c, D, w);
    for (int j = 0; j < kEight; j++) x[j] = x[j] * r * w[j];
    rotation.turn(x, row, c, D, 1.0f);
    y_ND.store(begin + c, end, x);
  }
  if (threadIdx.x == 0) rstd_N[row] = r;
}

/// partial: [blocks][D], the sums of v h.
__global__ void __launch_bounds__(kRowThreads)
    backwardKernel(Out dx_ND, float* partial, In dy_ND, In x_ND, const float* rstd_N, In w_D,
                   Rotation rotation, RowBlocksView rows, int64_t D) {
  GOKU_DYNAMIC_SHARED(float, sums);  // [D]; a column belongs to one thread throughout
  const RowBlock block = rows.at(blockIdx.x);
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight)
    for (int j = 0; j < kEight && c + j < D; j++) sums[c + j] = 0;
  float v[kEight], x[kEight], w[kEight];
  for (int64_t row = block.first; row < block.first + block.count; row++) {
    const int64_t begin = row * D, end = begin + D;
    const float r = rstd_N[row];
    float total[1] = {0};
    const auto load = [&](int64_t c) {
      dy_ND.load(begin + c, end, v);
      rotation.turn(v, row, c, D, -1.0f);
      x_ND.load(begin + c, end, x);
      w_D.load(c, D, w);
    };
    for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
      load(c);
      for (int j = 0; j < kEight && c + j < D; j++) {
        const float vH = v[j] * (x[j] * r);
        total[0] = fmaf(vH, w[j], total[0]);
        sums[c + j] += vH;
      }
    }
    blockSum(total);
    const float mean = total[0] / static_cast<float>(D);
    for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
      load(c);
      for (int j = 0; j < kEight; j++) v[j] = fmaf(x[j] * r, -mean, v[j] * w[j]) * r;
      dx_ND.store(begin + c, end, v);
    }
  }
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight)
    for (int j = 0; j < kEight && c + j < D; j++) partial[int64_t{blockIdx.x} * D + c + j] = sums[c + j];
}

__global__ void addKernel(float* dw_D, const double* sums_D, int64_t D) {
  const int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= D) return;
  dw_D[c] = static_cast<float>(static_cast<double>(dw_D[c]) + sums_D[c]);
}

}  // namespace

void qkNormRopeForward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w,
                       const Tensor* cos, const Tensor* sin, int64_t N, int64_t H, int64_t d, double eps) {
  const char* name = "qkNormRopeForward";
  checks::qkNormRope(name, rstd, w, cos, sin, N, H, d);
  checkRows(name, "y", y, N, H * d);
  checkRows(name, "x", x, N, H * d);
  launch(forwardKernel, name, {N, kRowThreads}, Out(y), rstd.as<float>(), In(x), In(w), Rotation(cos, sin, d),
         H * d, eps);
}

void qkNormRopeBackward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x,
                        const Tensor& rstd, const Tensor& w, const Tensor* cos, const Tensor* sin, int64_t N,
                        int64_t H, int64_t d) {
  const char* name = "qkNormRopeBackward";
  checks::qkNormRope(name, rstd, w, cos, sin, N, H, d);
  checkFloatRows(name, "dw", dw, H, d);
  checkRows(name, "dx", dx, N, H * d);
  checkRows(name, "dy", dy, N, H * d);
  checkRows(name, "x", x, N, H * d);
  const int64_t D = H * d;
  checkSumColumns(name, D);
  const int32_t offsets[] = {0, static_cast<int32_t>(N)};
  const RowSums sums(offsets, D);
  launch(backwardKernel, name, {sums.blocks(), kRowThreads, static_cast<size_t>(D) * sizeof(float)}, Out(dx),
         sums.partial(), In(dy), In(x), rstd.as<float>(), In(w), Rotation(cos, sin, d), sums.view(), D);
  sums.fold();
  launch(addKernel, name, {ceilDivide(D, kRowThreads), kRowThreads}, dw.as<float>(), sums.sums(), D);
}

}  // namespace goku
