// What cuBLASLt's documentation says of a product, for the emulated device: it tests what we ask the library
// for, not the library.
#include <vector>

#include "native/cuda/cublaslt.h"
#include "native/cuda/device.h"

namespace goku {
namespace {

/// Rows x columns of an operand in the host's memory, as f32, element (i, j) at [i * columns + j].
std::vector<float> gather(const ColumnMajor& x, DType dtype, int64_t rows, int64_t columns) {
  const int64_t down = x.transposed ? columns : rows, across = x.transposed ? rows : columns;
  GOKU_CHECK(x.stride >= down, "cuBLASLt: a leading dimension of ", x.stride, ", want at least ", down);
  const size_t count = static_cast<size_t>((across - 1) * x.stride + down);
  std::vector<std::byte> raw(count * dtypeBytes(dtype));
  CUDA_CHECK(cudaMemcpyAsync(raw.data(), x.data, raw.size(), cudaMemcpyDefault, computeStream()));
  std::vector<float> dense(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      const auto at = static_cast<size_t>(x.transposed ? i * x.stride + j : j * x.stride + i);
      dense[static_cast<size_t>(i * columns + j)] =
          dtype == DType::kBf16 ? toFloat(reinterpret_cast<const bf16*>(raw.data())[at])
                                : reinterpret_cast<const float*>(raw.data())[at];
    }
  return dense;
}

}  // namespace

class CublasLt::Library {};
CublasLt::CublasLt() = default;
CublasLt::~CublasLt() = default;

void CublasLt::run(const MatrixProduct& p) {
  GOKU_CHECK(p.m >= 1 && p.n >= 1 && p.k >= 1, "cuBLASLt: an empty product");
  const std::vector<float> a = gather(p.a, p.operands, p.m, p.k), b = gather(p.b, p.operands, p.k, p.n);
  const auto size = static_cast<size_t>(p.m * p.n);
  std::vector<float> sums(size);
  if (p.accumulate) {
    const std::vector<float> before = gather({p.c, false, p.m}, p.result, p.m, p.n);
    for (int64_t i = 0; i < p.m; i++)
      for (int64_t j = 0; j < p.n; j++)
        sums[static_cast<size_t>(j * p.m + i)] = before[static_cast<size_t>(i * p.n + j)];
  }
  if (p.bias != nullptr) {
    const std::vector<float> bias = gather({p.bias, false, p.m}, p.result, p.m, 1);
    for (size_t at = 0; at < size; at++) sums[at] += bias[at % static_cast<size_t>(p.m)];
  }
  for (int64_t j = 0; j < p.n; j++)
    for (int64_t k = 0; k < p.k; k++)
      for (int64_t i = 0; i < p.m; i++)
        sums[static_cast<size_t>(j * p.m + i)] +=
            a[static_cast<size_t>(i * p.k + k)] * b[static_cast<size_t>(k * p.n + j)];
  std::vector<bf16> rounded;
  for (const float sum : sums) rounded.push_back(toBf16(sum));
  const bool half = p.result == DType::kBf16;
  const void* from = half ? static_cast<const void*>(rounded.data()) : sums.data();
  CUDA_CHECK(cudaMemcpyAsync(p.c, from, size * dtypeBytes(p.result), cudaMemcpyDefault, computeStream()));
}

}  // namespace goku
