// Elementwise operations on flat tensors: y[i] = f(a[i], b[i]). A thread takes eight elements that lie
// together.
#include <cmath>

#include "native/cuda/activation.h"
#include "native/cuda/elements.h"
#include "native/kernels/checks.h"
#include "native/kernels/elementwise.h"

namespace goku {
namespace {

constexpr int kThreads = 256;

enum class Map { kCopy, kAdd, kGelu, kGeluSlope, kSilu, kSiluSlope };

/// What y becomes of a and, for those of two operands, b.
template <Map map>
__device__ inline float apply(float a, float b) {
  if constexpr (map == Map::kAdd) return a + b;
  if constexpr (map == Map::kGelu) return geluTanh(a);
  if constexpr (map == Map::kGeluSlope) return a * geluTanhSlope(b);
  if constexpr (map == Map::kSilu) return silu(a);
  if constexpr (map == Map::kSiluSlope) return a * siluSlope(b);
  return a;
}

template <Map map>
__global__ void mapKernel(Out y, In a, In b, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kEight;
  if (i >= count) return;
  float x[kEight], z[kEight] = {};
  a.load(i, count, x);
  if constexpr (map == Map::kAdd || map == Map::kGeluSlope || map == Map::kSiluSlope) b.load(i, count, z);
  for (int j = 0; j < kEight; j++) x[j] = apply<map>(x[j], z[j]);
  y.store(i, count, x);
}

template <Map map>
void run(const char* name, const Tensor& y, const Tensor& a, const Tensor& b) {
  checks::sameCount(name, y, a);
  checks::sameCount(name, y, b);
  for (const Tensor* x : {&y, &a, &b})
    GOKU_CHECK(x->isFloat(), name, " is ", dtypeName(x->dtype), ", want f32 or bf16");
  launch(mapKernel<map>, name, {ceilDivide(y.count, kThreads * kEight), kThreads}, Out(y), In(a), In(b),
         y.count);
}

/// f64 to bf16 in one rounding: the f32 in between is rounded to odd, which keeps what the second rounding
/// must know.
__host__ __device__ inline bf16 narrowToBf16(double x) {
  float f = static_cast<float>(x);
  const double back = static_cast<double>(f);
  if (back != x && back - back == 0) {
    uint32_t bits = __builtin_bit_cast(uint32_t, f);
    const bool up = back < 0 ? back < x : back > x;
    if (up) bits -= 1;  // towards 0: the magnitude is in the lower bits
    f = __builtin_bit_cast(float, bits | 1u);
  }
  return toBf16(f);
}

__device__ inline double realAt(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF64) return static_cast<const double*>(data)[i];
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  return toFloat(static_cast<const bf16*>(data)[i]);
}

/// For pairings with f64: checksums and tests, never a hot path.
__global__ void castKernel(void* to, DType toType, const void* from, DType fromType, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const double x = realAt(from, fromType, i);
  if (toType == DType::kF64) {
    static_cast<double*>(to)[i] = x;
  } else if (toType == DType::kF32) {
    static_cast<float*>(to)[i] = static_cast<float>(x);
  } else {
    static_cast<bf16*>(to)[i] = narrowToBf16(x);
  }
}

template <class T>
__global__ void fillKernel(T* to, T value, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  to[i] = value;
}

template <class T>
void fill(const Tensor& dst, T value) {
  launch(fillKernel<T>, "tensorFill", {ceilDivide(dst.count, kThreads), kThreads}, dst.as<T>(), value,
         dst.count);
}

void wantReal(const char* what, const Tensor& x) {
  GOKU_CHECK(x.dtype != DType::kU8, what, " is ", dtypeName(x.dtype), ", want f32 or bf16");
}

}  // namespace

void tensorFill(const Tensor& dst, double value) {
  switch (dst.dtype) {
    case DType::kU8:
      GOKU_CHECK(value >= 0 && value <= 255 && std::trunc(value) == value, "tensorFill: ", value,
                 " into u8, want a whole number from 0 to 255");
      return fill(dst, static_cast<uint8_t>(value));
    case DType::kF32:
      return fill(dst, static_cast<float>(value));
    case DType::kF64:
      return fill(dst, value);
    case DType::kBf16:
      return fill(dst, narrowToBf16(value));
  }
}

void tensorCast(const Tensor& dst, const Tensor& src) {
  checks::sameCount("tensorCast", dst, src);
  if (dst.isFloat() && src.isFloat()) return run<Map::kCopy>("tensorCast", dst, src, src);
  wantReal("tensorCast: dst", dst);
  wantReal("tensorCast: src", src);
  launch(castKernel, "tensorCast", {ceilDivide(dst.count, kThreads), kThreads}, dst.data, dst.dtype, src.data,
         src.dtype, dst.count);
}

void tensorAdd(const Tensor& dst, const Tensor& src) { run<Map::kAdd>("tensorAdd", dst, dst, src); }

void copy2d(const Tensor& dst, int64_t dstOffset, int64_t dstStride, const Tensor& src, int64_t srcOffset,
            int64_t srcStride, int64_t rows, int64_t cols) {
  GOKU_CHECK(dst.dtype == src.dtype, "copy2d: from ", dtypeName(src.dtype), " to ", dtypeName(dst.dtype),
             ", want the same dtype");
  if (rows == 0 || cols == 0) return;
  checks::copy2d("dst", dst, dstOffset, dstStride, rows, cols);
  checks::copy2d("src", src, srcOffset, srcStride, rows, cols);
  const size_t size = dtypeBytes(dst.dtype);
  const auto bytes = [size](int64_t elements) { return static_cast<size_t>(elements) * size; };
  // One row may be wider than the stride that comes with it, which a pitch may not.
  const auto pitch = [&](int64_t stride) { return bytes(rows == 1 ? cols : stride); };
  CUDA_CHECK(cudaMemcpy2DAsync(dst.data + bytes(dstOffset), pitch(dstStride), src.data + bytes(srcOffset),
                               pitch(srcStride), bytes(cols), static_cast<size_t>(rows), cudaMemcpyDefault,
                               computeStream()));
}

void geluForward(const Tensor& y, const Tensor& x) { run<Map::kGelu>("geluForward", y, x, x); }
void geluBackward(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  run<Map::kGeluSlope>("geluBackward", dx, dy, x);
}
void siluForward(const Tensor& y, const Tensor& x) { run<Map::kSilu>("siluForward", y, x, x); }
void siluBackward(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  run<Map::kSiluSlope>("siluBackward", dx, dy, x);
}

}  // namespace goku
