#include "native/kernels/flow.h"

#include <cmath>

#include "native/kernels/checks.h"
#include "native/parallel.h"
#include "native/reduce.h"
#include "native/simd.h"

namespace goku {
namespace {

template <class Xt>
void flowPathRows(Xt* xt, float* target, const float* data, const float* noise, float t, int64_t count) {
  const Vec toData = broadcast(t);
  const Vec toNoise = broadcast(1.0f - t);
  forLanes(count, [&](int64_t i, int64_t lanes) {
    const Vec x1 = loadLanes(data + i, lanes);
    const Vec x0 = loadLanes(noise + i, lanes);
    storeLanes(xt + i, toData * x1 + toNoise * x0, lanes);
    storeLanes(target + i, x1 - x0, lanes);
  });
}

/// Sum of (v - target)^2 over [0, count); dv = scale * (v - target) when wanted.
template <class V, class D>
double lossBlock(D* dv, const V* v, const float* target, float scale, int64_t count) {
  SquareSum squares;
  const Vec factor = broadcast(scale);
  forLanes(count, [&](int64_t i, int64_t lanes) {
    const Vec difference = loadLanes(v + i, lanes) - loadLanes(target + i, lanes);
    squares.add(difference);
    if (dv != nullptr) storeLanes(dv + i, factor * difference, lanes);
  });
  return squares.total();
}

}  // namespace

void timestepSinusoid(const Tensor& out, const Tensor& t, int64_t width) {
  GOKU_CHECK(width >= 2 && width % 2 == 0, "timestepSinusoid: width ", width, ", want an even one");
  GOKU_CHECK(out.count == t.count * width, "timestepSinusoid: out has ", out.count, " elements, want ",
             t.count * width);
  const int64_t half = width / 2;
  for (int64_t s = 0; s < t.count; s++) {
    float* row = out.as<float>() + s * width;
    for (int64_t j = 0; j < half; j++) {
      const double frequency =
          std::exp(-std::log(10000.0) * static_cast<double>(j) / static_cast<double>(half));
      const double angle = 1000.0 * static_cast<double>(t.as<float>()[s]) * frequency;
      row[j] = static_cast<float>(std::cos(angle));
      row[half + j] = static_cast<float>(std::sin(angle));
    }
  }
}

void flowPath(const Tensor& xt, const Tensor& target, const Tensor& data, const Tensor& noise,
              const Tensor& t, Offsets offsets, int64_t P) {
  for (const Tensor* x : {&xt, &target, &data, &noise}) checks::packed("flowPath", offsets, P, *x);
  const int64_t samples = static_cast<int64_t>(offsets.size()) - 1;
  GOKU_CHECK(t.count == samples, "flowPath: t has ", t.count, " elements, want ", samples);
  visitFloat(xt.dtype, "flowPath: xt", [&](auto tag) {
    using Xt = decltype(tag);
    for (int64_t s = 0; s < samples; s++) {
      const int64_t start = offsets[static_cast<size_t>(s)] * P;
      const int64_t count = offsets[static_cast<size_t>(s) + 1] * P - start;
      parallelFor(count, kElementBlock, [&](int64_t begin, int64_t end) {
        const int64_t at = start + begin;
        flowPathRows(xt.as<Xt>() + at, target.as<float>() + at, data.as<float>() + at, noise.as<float>() + at,
                     t.as<float>()[s], end - begin);
      });
    }
  });
}

double flowLoss(const Tensor* dv, const Tensor& v, const Tensor& target, std::span<const double> weights,
                std::span<double> perSample, Offsets offsets, int64_t P) {
  checks::packed("flowLoss: v", offsets, P, v);
  checks::packed("flowLoss: target", offsets, P, target);
  if (dv != nullptr) checks::packed("flowLoss: dv", offsets, P, *dv);
  const size_t samples = offsets.size() - 1;
  GOKU_CHECK(weights.size() == samples && perSample.size() == samples, "flowLoss: ", weights.size(),
             " weights and ", perSample.size(), " places, want ", samples);
  double loss = 0;
  visitFloat(v.dtype, "flowLoss: v", [&](auto vTag) {
    visitFloat(dv == nullptr ? DType::kF32 : dv->dtype, "flowLoss: dv", [&](auto dTag) {
      using V = decltype(vTag);
      using D = decltype(dTag);
      for (size_t s = 0; s < samples; s++) {
        const int64_t start = offsets[s] * P;
        const int64_t count = offsets[s + 1] * P - start;
        const auto scale = static_cast<float>(2 * weights[s]);
        perSample[s] = weights[s] * parallelSum(count, kElementBlock, [&](int64_t begin, int64_t end) {
                         const int64_t at = start + begin;
                         return lossBlock(dv == nullptr ? nullptr : dv->as<D>() + at, v.as<V>() + at,
                                          target.as<float>() + at, scale, end - begin);
                       });
        loss += perSample[s];
      }
    });
  });
  return loss;
}

void eulerUpdate(const Tensor& x, const Tensor& v1, const Tensor* v0, double guidance, double dt) {
  GOKU_CHECK(x.count == v1.count && (v0 == nullptr || v0->count == x.count),
             "eulerUpdate: tensors of different counts, want ", x.count, " each");
  GOKU_CHECK(v0 == nullptr || v0->dtype == v1.dtype, "eulerUpdate: v0 is ", dtypeName(v0->dtype), ", v1 ",
             dtypeName(v1.dtype), ", want the same");
  const Vec step = broadcast(static_cast<float>(dt));
  const Vec weight = broadcast(static_cast<float>(guidance));
  visitFloat(v1.dtype, "eulerUpdate: v1", [&](auto tag) {
    using V = decltype(tag);
    parallelFor(x.count, kElementBlock, [&](int64_t begin, int64_t end) {
      float* to = x.as<float>() + begin;
      const V* with = v1.as<V>() + begin;
      const V* without = v0 == nullptr ? nullptr : v0->as<V>() + begin;
      forLanes(end - begin, [&](int64_t i, int64_t lanes) {
        Vec velocity = loadLanes(with + i, lanes);
        if (without != nullptr) {
          const Vec base = loadLanes(without + i, lanes);
          velocity = base + weight * (velocity - base);
        }
        storeLanes(to + i, loadLanes(to + i, lanes) + step * velocity, lanes);
      });
    });
  });
}

}  // namespace goku
