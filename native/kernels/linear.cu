// The linear layer y = x w^T + bias and its gradients:
//   dx = dy w      dw = dy^T x      dbias = column sums of dy
// N rows (tokens), K in-width, F out-width, row-major and dense. Products are cuBLASLt's; what is around them
// is here.
//
// GELU is a kernel of its own, applied to the pre-activation as stored: recomputation then gives the same
// bits.
#include <optional>

#include "native/cuda/elements.h"
#include "native/cuda/matrix_product.h"
#include "native/kernels/checks.h"
#include "native/kernels/elementwise.h"
#include "native/kernels/linear.h"

namespace goku {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 32;  // of a warp: columns side by side
constexpr int kSlices = kThreads / kLanes;

/// The tensor in the dtype that a product wants: itself, or a rounded or widened copy.
class InType {
 public:
  InType(const Tensor& x, DType dtype, const char* name) {
    GOKU_CHECK(x.isFloat(), name, " is ", dtypeName(x.dtype), ", want f32 or bf16");
    data_ = x.data;
    if (x.dtype == dtype) return;
    copy_.emplace(static_cast<size_t>(x.count) * dtypeBytes(dtype));
    Tensor to = x;
    to.data = copy_->as<std::byte>();
    to.dtype = dtype;
    tensorCast(to, x);
    data_ = to.data;
  }
  const void* data() const { return data_; }

 private:
  std::optional<DeviceScratch> copy_;
  const void* data_;
};

struct Product {
  int64_t M, N, K;
  const Tensor* a;
  const Tensor* b;
  bool aTransposed, bTransposed;
  const Tensor* c;
  const Tensor* bias = nullptr;
  bool accumulate = false;
};

/// c[n, f] = bias[f], where there is nothing to multiply.
__global__ void biasKernel(Out c, In bias, int64_t count, int64_t columns) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  c.put(i, bias.at(i % columns));
}

void multiply(const ProductResources& resources, const Product& p) {
  if (p.c->count == 0) return;
  if (p.K == 0) {
    if (p.bias != nullptr) {
      launch(biasKernel, "linearForward", {ceilDivide(p.c->count, kThreads), kThreads}, Out(*p.c),
             In(*p.bias), p.c->count, p.N);
    } else if (!p.accumulate) {
      tensorFill(*p.c, 0);
    }
    return;
  }
  // bf16 where both are, and then only into bf16 or f32; anything else in f32.
  const bool half = p.a->dtype == DType::kBf16 && p.b->dtype == DType::kBf16;
  const DType operands = half ? DType::kBf16 : DType::kF32;
  const InType a(*p.a, operands, "a factor"), b(*p.b, operands, "a factor");
  // f32 operands have an f32 result, which is rounded afterwards where bf16 was asked for.
  const bool direct = half || p.c->dtype == DType::kF32;
  Tensor result = *p.c;
  std::optional<DeviceScratch> wide;
  if (!direct) {
    wide.emplace(static_cast<size_t>(result.count) * sizeof(float));
    result.data = wide->as<std::byte>();
    result.dtype = DType::kF32;
    if (p.accumulate) tensorCast(result, *p.c);
  }
  std::optional<InType> bias;
  if (p.bias != nullptr) bias.emplace(*p.bias, result.dtype, "linearForward: bias");
  const int64_t aColumns = p.aTransposed ? p.M : p.K, bColumns = p.bTransposed ? p.K : p.N;
  MatrixProduct product = fromRowMajor(p.M, p.N, p.K, {a.data(), aColumns, p.aTransposed},
                                       {b.data(), bColumns, p.bTransposed}, operands, result);
  product.bias = bias ? bias->data() : nullptr;
  product.accumulate = p.accumulate;
  resources.library.run(product);
  if (!direct) tensorCast(*p.c, result);
}

/// dbias[f] = sum over the rows of dy[n, f], or +=. A warp's lanes take columns side by side, its slices
/// every kSlices-th row, added in order.
__global__ void __launch_bounds__(kThreads)
    biasGradientKernel(float* dbias_F, In dy_NF, int64_t N, int64_t F, bool accumulate) {
  __shared__ double slices[kSlices][kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, slice = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t f = int64_t{blockIdx.x} * kLanes + lane;
  double sum = 0;
  if (f < F)
    for (int64_t n = slice; n < N; n += kSlices) sum += static_cast<double>(dy_NF.at(n * F + f));
  slices[slice][lane] = sum;
  __syncthreads();
  if (slice > 0 || f >= F) return;
  for (int s = 1; s < kSlices; s++) sum += slices[s][lane];
  dbias_F[f] = static_cast<float>((accumulate ? static_cast<double>(dbias_F[f]) : 0.0) + sum);
}

}  // namespace

void linearForward(const ProductResources& resources, const Tensor& y, const Tensor& x, const Tensor& w,
                   const Tensor* bias, const LinearShape& shape, const Tensor* preActivation) {
  const auto [N, K, F] = shape;
  checks::linearForward(y, x, w, bias, shape, preActivation);
  multiply(resources, {.M = N,
                       .N = F,
                       .K = K,
                       .a = &x,
                       .b = &w,
                       .aTransposed = false,
                       .bTransposed = true,
                       .c = preActivation == nullptr ? &y : preActivation,
                       .bias = bias});
  if (preActivation != nullptr) geluForward(y, *preActivation);
}

void linearBackwardInput(const ProductResources& resources, const Tensor& dx, const Tensor& dy,
                         const Tensor& w, const LinearShape& shape, bool accumulate) {
  const auto [N, K, F] = shape;
  checks::linearBackwardInput(dx, dy, w, shape);
  multiply(resources, {.M = N,
                       .N = K,
                       .K = F,
                       .a = &dy,
                       .b = &w,
                       .aTransposed = false,
                       .bTransposed = false,
                       .c = &dx,
                       .accumulate = accumulate});
}

void linearBackwardWeight(const ProductResources& resources, const Tensor& dw, const Tensor* dbias,
                          const Tensor& dy, const Tensor& x, const LinearShape& shape, bool accumulate) {
  const auto [N, K, F] = shape;
  checks::linearBackwardWeight(dw, dbias, dy, x, shape);
  if (dbias != nullptr) {
    launch(biasGradientKernel, "linearBackwardWeight", {ceilDivide(F, kLanes), kThreads}, dbias->as<float>(),
           In(dy), N, F, accumulate);
  }
  multiply(resources, {.M = F,
                       .N = K,
                       .K = N,
                       .a = &dy,
                       .b = &x,
                       .aTransposed = true,
                       .bTransposed = false,
                       .c = &dw,
                       .accumulate = accumulate});
}

}  // namespace goku
