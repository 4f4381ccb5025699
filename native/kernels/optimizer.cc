#include "native/kernels/optimizer.h"

#include <cmath>

#include "native/parallel.h"
#include "native/reduce.h"
#include "native/simd.h"

namespace goku {
namespace {

void checkRange(const char* name, const Tensor& x, int64_t start, int64_t count) {
  GOKU_CHECK(count <= x.count && start <= x.count - count, name, ": elements [", start, ", ", start + count,
             ") of a tensor of ", x.count);
}

/// The settings as vectors, each rounded to f32 once.
struct Factors {
  Vec beta1, beta1Rest, beta2, beta2Rest, correction1, correction2, lr, eps, keep, gradScale, ema, emaRest;

  explicit Factors(const AdamwSettings& s)
      : beta1(of(s.beta1)),
        beta1Rest(of(1 - s.beta1)),
        beta2(of(s.beta2)),
        beta2Rest(of(1 - s.beta2)),
        correction1(of(1 - std::pow(s.beta1, static_cast<double>(s.step)))),
        correction2(of(1 - std::pow(s.beta2, static_cast<double>(s.step)))),
        lr(of(s.lr)),
        eps(of(s.eps)),
        keep(of(1 - s.lr * s.weightDecay)),
        gradScale(of(s.gradScale)),
        ema(of(s.emaDecay)),
        emaRest(of(1 - s.emaDecay)) {}

 private:
  static Vec of(double x) { return broadcast(static_cast<float>(x)); }
};

template <class W>
void adamwBlock(float* master, float* m, float* v, float* ema, const float* grad, W* weights,
                const Factors& f, int64_t count) {
  forLanes(count, [&](int64_t i, int64_t lanes) {
    const Vec g = loadLanes(grad + i, lanes) * f.gradScale;
    const Vec mean = fma(f.beta1Rest, g, loadLanes(m + i, lanes) * f.beta1);
    const Vec square = fma(f.beta2Rest, g * g, loadLanes(v + i, lanes) * f.beta2);
    const Vec update = f.lr * (mean / f.correction1) / (sqrt(square / f.correction2) + f.eps);
    const Vec weight = loadLanes(master + i, lanes) * f.keep - update;
    storeLanes(m + i, mean, lanes);
    storeLanes(v + i, square, lanes);
    storeLanes(master + i, weight, lanes);
    storeLanes(ema + i, fma(f.emaRest, weight, loadLanes(ema + i, lanes) * f.ema), lanes);
    if (weights != nullptr) storeLanes(weights + i, weight, lanes);
  });
}

}  // namespace

void adamwStep(const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& ema, const Tensor& grad,
               const Tensor* weights, int64_t start, int64_t count, const AdamwSettings& settings) {
  for (const Tensor* x : {&master, &m, &v, &ema, &grad}) checkRange("adamwStep", *x, start, count);
  if (weights != nullptr) checkRange("adamwStep: weights", *weights, start, count);
  GOKU_CHECK(settings.step >= 1, "adamwStep: step ", settings.step, ", want 1 or more");
  const Factors factors(settings);
  visitFloat(weights == nullptr ? DType::kF32 : weights->dtype, "adamwStep: weights", [&](auto tag) {
    using W = decltype(tag);
    W* to = weights == nullptr ? nullptr : weights->as<W>();
    parallelFor(count, kElementBlock, [&](int64_t begin, int64_t end) {
      const int64_t at = start + begin;
      adamwBlock(master.as<float>() + at, m.as<float>() + at, v.as<float>() + at, ema.as<float>() + at,
                 grad.as<float>() + at, to == nullptr ? nullptr : to + at, factors, end - begin);
    });
  });
}

double sumSquares(const Tensor& x, int64_t start, int64_t count) {
  checkRange("sumSquares", x, start, count);
  return visitFloat(x.dtype, "sumSquares: x", [&](auto tag) {
    const auto* from = x.as<decltype(tag)>() + start;
    return parallelSum(count, kElementBlock, [&](int64_t begin, int64_t end) {
      SquareSum squares;
      forLanes(end - begin,
               [&](int64_t i, int64_t lanes) { squares.add(loadLanes(from + begin + i, lanes)); });
      return squares.total();
    });
  });
}

}  // namespace goku
