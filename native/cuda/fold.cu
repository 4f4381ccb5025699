// Elements of every member folded in member order; see fold.h. A thread takes one element: neighbours read
// neighbours.
#include "native/cuda/device.h"
#include "native/cuda/fold.h"

namespace goku {
namespace {

constexpr int kThreads = 256;

using collectives::Reduction;

/// As Sum, Max and Min of native/collectives/fold.cc: a NaN of either side goes through.
template <class T>
__device__ inline T combine(Reduction op, T a, T b) {
  if (op == Reduction::kSum) return a + b;
  if (op == Reduction::kMax) return a > b || a != a ? a : b;
  return a < b || a != a ? a : b;
}

template <class T>
__global__ void foldKernel(Reduction op, T* out_N, const T* first_N, const T* const* rest_KN, int K,
                           int64_t N) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= N) return;
  T value = first_N[i];
  for (int k = 0; k < K; k++) value = combine(op, value, rest_KN[k][i]);
  out_N[i] = value;
}

template <class T>
void run(Reduction op, std::byte* out, const std::byte* first, std::span<const std::byte* const> rest,
         size_t count) {
  const Uploaded<const std::byte*> list(rest);
  launch(foldKernel<T>, "fold", {ceilDivide(static_cast<int64_t>(count), kThreads), kThreads}, op,
         reinterpret_cast<T*>(out), reinterpret_cast<const T*>(first),
         reinterpret_cast<const T* const*>(list.data()), static_cast<int>(rest.size()),
         static_cast<int64_t>(count));
}

}  // namespace

void foldOnDevice(DType dtype, Reduction op, std::byte* out, const std::byte* first,
                  std::span<const std::byte* const> rest, size_t count) {
  if (dtype == DType::kF64) return run<double>(op, out, first, rest, count);
  run<float>(op, out, first, rest, count);
}

}  // namespace goku
