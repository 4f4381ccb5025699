#include "native/kernels/linear.h"

#include "native/kernels/checks.h"
#include "native/kernels/elementwise.h"
#include "native/kernels/gemm.h"
#include "native/parallel.h"
#include "native/simd.h"

namespace goku {
namespace {

MatrixView rowMajor(const Tensor& x, int64_t columns) { return {x.data, x.dtype, columns, 1}; }
MatrixOut out(const Tensor* x) { return x == nullptr ? MatrixOut{} : MatrixOut{x->data, x->dtype}; }

void multiply(const ProductResources& resources, const Gemm& g) {
  const bool bf16 = g.a.dtype == DType::kBf16 && g.b.dtype == DType::kBf16;
  if (bf16 && resources.library.multipliesBf16() && resources.library.run(g, resources.scratch)) return;
  gemm(g, resources.scratch);
}

/// Columns of dy that one thread sums, and rows it sums in f32 before going on in f64.
constexpr int64_t kBiasColumns = 64;
constexpr int64_t kBiasRows = 128;

/// to[j] = (or +=) sums over the rows of columns [begin, end) of dy.
template <class T>
void sumColumns(float* to, const T* dy, int64_t rows, int64_t stride, int64_t begin, int64_t end,
                bool accumulate) {
  double total[kBiasColumns] = {};
  for (int64_t first = 0; first < rows; first += kBiasRows) {
    float partial[kBiasColumns] = {};
    const int64_t last = std::min(rows, first + kBiasRows);
    for (int64_t r = first; r < last; r++) {
      const T* row = dy + r * stride + begin;
      forLanes(end - begin, [&](int64_t j, int64_t lanes) {
        store(partial + j, load(partial + j) + loadLanes(row + j, lanes));
      });
    }
    for (int64_t j = 0; j < end - begin; j++) total[j] += static_cast<double>(partial[j]);
  }
  for (int64_t j = begin; j < end; j++)
    to[j] = static_cast<float>((accumulate ? static_cast<double>(to[j]) : 0.0) + total[j - begin]);
}

void biasGradient(const Tensor& dbias, const Tensor& dy, int64_t N, int64_t F, bool accumulate) {
  visitFloat(dy.dtype, "linearBackwardWeight: dy", [&](auto tag) {
    const auto* from = dy.as<decltype(tag)>();
    parallelFor(F, kBiasColumns, [&](int64_t begin, int64_t end) {
      sumColumns(dbias.as<float>(), from, N, F, begin, end, accumulate);
    });
  });
}

}  // namespace

void linearForward(const ProductResources& resources, const Tensor& y, const Tensor& x, const Tensor& w,
                   const Tensor* bias, const LinearShape& shape, const Tensor* preActivation) {
  const auto [N, K, F] = shape;
  checks::linearForward(y, x, w, bias, shape, preActivation);
  Gemm product{.M = N,
               .N = F,
               .K = K,
               .a = rowMajor(x, K),
               .b = rowMajor(w, K).transposed(),
               .c = out(&y),
               .bias = bias};
  if (preActivation != nullptr && resources.library.multipliesBf16() && x.dtype == DType::kBf16) {
    product.c = out(preActivation);
    multiply(resources, product);
    geluForward(y, *preActivation);
    return;
  }
  product.gelu = preActivation != nullptr;
  product.preActivation = out(preActivation);
  multiply(resources, product);
}

void linearBackwardInput(const ProductResources& resources, const Tensor& dx, const Tensor& dy,
                         const Tensor& w, const LinearShape& shape, bool accumulate) {
  const auto [N, K, F] = shape;
  checks::linearBackwardInput(dx, dy, w, shape);
  multiply(resources, {.M = N,
                       .N = K,
                       .K = F,
                       .a = rowMajor(dy, F),
                       .b = rowMajor(w, K),
                       .c = out(&dx),
                       .accumulate = accumulate});
}

void linearBackwardWeight(const ProductResources& resources, const Tensor& dw, const Tensor* dbias,
                          const Tensor& dy, const Tensor& x, const LinearShape& shape, bool accumulate) {
  const auto [N, K, F] = shape;
  checks::linearBackwardWeight(dw, dbias, dy, x, shape);
  if (dbias != nullptr) biasGradient(*dbias, dy, N, F, accumulate);
  multiply(resources, {.M = F,
                       .N = K,
                       .K = N,
                       .a = rowMajor(dy, F).transposed(),
                       .b = rowMajor(x, K),
                       .c = out(&dw),
                       .accumulate = accumulate});
}

}  // namespace goku
