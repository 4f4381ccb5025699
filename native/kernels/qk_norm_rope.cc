// QK-norm and RoPE in one pass:
//   h = x r,  r = 1 / sqrt(mean over H*d (x^2) + eps)      u = h w      y = R u
//   R turns every pair (2j, 2j+1) of a head: (a c - b s, a s + b c)
//   v = R^T dy      dw += sum over rows of v h      g = v w      dx = r (g - h mean(g h))
// QK-norm spans all heads, before they are split, as in the authors' block (Goku, arXiv:2502.04896,
// section 2.2); RoPE: arXiv:2104.09864. N rows, H heads, d channels a head.
#include "native/kernels/qk_norm_rope.h"

#include <cmath>

#include "native/kernels/checks.h"
#include "native/kernels/row_blocks.h"

namespace goku {
namespace {

/// The two numbers of every pair exchanged.
Vec swapPairs(Vec v) {
  VecInt order;
  for (int i = 0; i < static_cast<int>(kLanes); i++) order[i] = i ^ 1;
  return __builtin_shuffle(v, order);
}

/// One token's angles spread over the channels of a head: cos twice each, sin as (-s, s).
struct Rotation {
  float* cos;  // [d], null: no rotation
  float* sin;  // [d]

  void set(const float* cosRow, const float* sinRow, int64_t d) const {
    for (int64_t j = 0; j < d / 2; j++) {
      cos[2 * j] = cos[2 * j + 1] = cosRow[j];
      sin[2 * j] = -sinRow[j];
      sin[2 * j + 1] = sinRow[j];
    }
  }
  Vec turn(Vec u, int64_t c, int64_t lanes) const {
    return fma(swapPairs(u), loadLanes(sin + c, lanes), u * loadLanes(cos + c, lanes));
  }
  Vec turnBack(Vec y, int64_t c, int64_t lanes) const {
    return fma(swapPairs(y), -loadLanes(sin + c, lanes), y * loadLanes(cos + c, lanes));
  }
};

float normRow(float* y, const float* x, const float* w, const Rotation& rotation, int64_t H, int64_t d,
              double eps) {
  const int64_t D = H * d;
  float total[1];
  sumRow(D, total, [&](int64_t c, int64_t lanes, Vec(&sums)[1]) {
    const Vec number = loadLanes(x + c, lanes);
    sums[0] = fma(number, number, sums[0]);
  });
  const float r =
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(total[0]) / static_cast<double>(D) + eps));
  const auto weigh = [&](int64_t c, int64_t lanes) {
    return loadLanes(x + c, lanes) * r * loadLanes(w + c, lanes);
  };
  if (rotation.cos == nullptr) {
    forLanes(D, [&](int64_t c, int64_t lanes) { storeLanes(y + c, weigh(c, lanes), lanes); });
    return r;
  }
  for (int64_t start = 0; start < D; start += d) {
    forLanes(d, [&](int64_t c, int64_t lanes) {
      storeLanes(y + start + c, rotation.turn(weigh(start + c, lanes), c, lanes), lanes);
    });
  }
  return r;
}

/// dw is added to. v: D numbers of scratch.
void differentiateRow(float* dx, float* dw, float* v, const float* dy, const float* x, float r,
                      const float* w, const Rotation& rotation, int64_t H, int64_t d) {
  const int64_t D = H * d;
  const float* turned = dy;
  if (rotation.cos != nullptr) {
    for (int64_t start = 0; start < D; start += d) {
      forLanes(d, [&](int64_t c, int64_t lanes) {
        storeLanes(v + start + c, rotation.turnBack(loadLanes(dy + start + c, lanes), c, lanes), lanes);
      });
    }
    turned = v;
  }
  float total[1];
  sumRow(D, total, [&](int64_t c, int64_t lanes, Vec(&sums)[1]) {
    const Vec gradientH = loadLanes(turned + c, lanes) * (loadLanes(x + c, lanes) * r);
    sums[0] = fma(gradientH, loadLanes(w + c, lanes), sums[0]);
    storeLanes(dw + c, loadLanes(dw + c, lanes) + gradientH, lanes);
  });
  const float mean = total[0] / static_cast<float>(D);
  forLanes(D, [&](int64_t c, int64_t lanes) {
    const Vec h = loadLanes(x + c, lanes) * r;
    const Vec g = loadLanes(turned + c, lanes) * loadLanes(w + c, lanes);
    storeLanes(dx + c, fma(h, broadcast(-mean), g) * r, lanes);
  });
}

}  // namespace

void qkNormRopeForward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w,
                       const Tensor* cos, const Tensor* sin, int64_t N, int64_t H, int64_t d, double eps) {
  const char* name = "qkNormRopeForward";
  checks::qkNormRope(name, rstd, w, cos, sin, N, H, d);
  checkRows(name, "y", y, N, H * d);
  checkRows(name, "x", x, N, H * d);
  const int64_t D = H * d, part = Arena::room(D), angles = Arena::room(d);
  Arena weights(part);
  const float* weight = Source(w).read(0, D, weights.take(D));
  const Source in(x);
  const Target out(y);
  forRowBlocks(cutRows(N), 2 * part + 2 * angles, [&](const RowBlock& block, int64_t, float* scratch) {
    float* spread = scratch + 2 * part;
    const Rotation rotation{cos == nullptr ? nullptr : spread, spread + angles};
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      if (cos != nullptr) rotation.set(cos->as<float>() + row * (d / 2), sin->as<float>() + row * (d / 2), d);
      float* to = out.begin(row * D, scratch + part);
      rstd.as<float>()[row] = normRow(to, in.read(row * D, D, scratch), weight, rotation, H, d, eps);
      out.finish(row * D, to, D);
    }
  });
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
  const int64_t D = H * d, part = Arena::room(D), angles = Arena::room(d);
  const RowBlocks cut = cutRows(N);
  Arena arena(part + cut.count() * part);
  const float* weight = Source(w).read(0, D, arena.take(part));
  float* partial = arena.take(cut.count() * part);
  const Source gradient(dy), in(x);
  const Target out(dx);
  forRowBlocks(cut, 4 * part + 2 * angles, [&](const RowBlock& block, int64_t index, float* scratch) {
    float* sums = partial + index * part;
    std::fill_n(sums, part, 0.0f);
    float* spread = scratch + 4 * part;
    const Rotation rotation{cos == nullptr ? nullptr : spread, spread + angles};
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      if (cos != nullptr) rotation.set(cos->as<float>() + row * (d / 2), sin->as<float>() + row * (d / 2), d);
      float* to = out.begin(row * D, scratch + 3 * part);
      differentiateRow(to, sums, scratch, gradient.read(row * D, D, scratch + part),
                       in.read(row * D, D, scratch + 2 * part), rstd.as<float>()[row], weight, rotation, H,
                       d);
      out.finish(row * D, to, D);
    }
  });
  float* total = dw.as<float>();
  foldBlocks(partial, part, 0, cut.count(), D, [&](int64_t first, int64_t count, const double* sums) {
    for (int64_t c = 0; c < count; c++) total[first + c] = static_cast<float>(total[first + c] + sums[c]);
  });
}

}  // namespace goku
