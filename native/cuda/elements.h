// Numbers of tensors as kernels see them: always fp32, eight at a time.
//
// A kernel is compiled once, for every mix of dtypes: which one a tensor has is the same for all threads of a
// launch, and asking costs nothing beside the memory that follows. Eight bf16 are one access of 16 bytes,
// eight f32 two; where an address does not allow it (a row of odd width) they are read one by one.
#pragma once

#include <cstdint>

#include "native/bf16.h"
#include "native/cuda/device.h"
#include "native/tensor.h"

namespace goku {

inline constexpr int kEight = 8;

/// A float or bf16 tensor that is read.
struct In {
  const void* data = nullptr;
  bool isBf16 = false;

  In() = default;
  explicit In(const Tensor& x) : data(x.data), isBf16(x.dtype == DType::kBf16) {}

  __device__ float at(int64_t i) const {
    return isBf16 ? toFloat(static_cast<const bf16*>(data)[i]) : static_cast<const float*>(data)[i];
  }
  /// x[j] = element i + j; those from `end` on are 0.
  __device__ void load(int64_t i, int64_t end, float (&x)[kEight]) const {
    const char* from = static_cast<const char*>(data) + i * (isBf16 ? 2 : 4);
    if (i + kEight > end || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
      for (int j = 0; j < kEight; j++) x[j] = i + j < end ? at(i + j) : 0.0f;
      return;
    }
    const auto* quads = reinterpret_cast<const uint4*>(from);
    if (isBf16) {
      const uint4 q = quads[0];
      const uint32_t words[4] = {q.x, q.y, q.z, q.w};
      for (int j = 0; j < 4; j++) {
        x[2 * j] = __builtin_bit_cast(float, words[j] << 16);
        x[2 * j + 1] = __builtin_bit_cast(float, words[j] & 0xffff0000u);
      }
      return;
    }
    for (int half = 0; half < 2; half++) {
      const uint4 q = quads[half];
      const uint32_t words[4] = {q.x, q.y, q.z, q.w};
      for (int j = 0; j < 4; j++) x[4 * half + j] = __builtin_bit_cast(float, words[j]);
    }
  }
};

/// Two numbers rounded to bf16, the first in the lower half.
__device__ inline uint32_t packBf16(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return uint32_t{toBf16(low).bits} | uint32_t{toBf16(high).bits} << 16;
#endif
}

/// A float or bf16 tensor that is written.
struct Out {
  void* data = nullptr;
  bool isBf16 = false;

  Out() = default;
  explicit Out(const Tensor& x) : data(x.data), isBf16(x.dtype == DType::kBf16) {}

  __device__ In read() const {
    In in;
    in.data = data;
    in.isBf16 = isBf16;
    return in;
  }
  __device__ void put(int64_t i, float x) const {
    if (isBf16) {
      static_cast<bf16*>(data)[i] = bf16{static_cast<uint16_t>(packBf16(x, 0.0f))};
    } else {
      static_cast<float*>(data)[i] = x;
    }
  }
  /// Element i + j = x[j], up to `end`.
  __device__ void store(int64_t i, int64_t end, const float (&x)[kEight]) const {
    char* to = static_cast<char*>(data) + i * (isBf16 ? 2 : 4);
    if (i + kEight > end || reinterpret_cast<uintptr_t>(to) % 16 != 0) {
      for (int j = 0; j < kEight; j++)
        if (i + j < end) put(i + j, x[j]);
      return;
    }
    auto* quads = reinterpret_cast<uint4*>(to);
    if (isBf16) {
      quads[0] = {packBf16(x[0], x[1]), packBf16(x[2], x[3]), packBf16(x[4], x[5]), packBf16(x[6], x[7])};
      return;
    }
    for (int half = 0; half < 2; half++) {
      uint32_t words[4];
      for (int j = 0; j < 4; j++) words[j] = __builtin_bit_cast(uint32_t, x[4 * half + j]);
      quads[half] = {words[0], words[1], words[2], words[3]};
    }
  }
};

/// The last i with starts[i] <= at, of a list [count + 1] that begins with 0 and never falls: whose run holds
/// `at`. Runs may be empty. at < starts[count].
template <class T>
__device__ inline int64_t runOf(const T* starts, int64_t count, int64_t at) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (static_cast<int64_t>(starts[middle]) <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// values = their sums over the block's threads, on every thread; always added in the same order. Every
/// thread of the block must call it.
template <int kCount, class T>
__device__ inline void blockSum(T (&values)[kCount]) {
  constexpr int kWarpsMax = 32;
  __shared__ T sums[kWarpsMax][kCount];
  for (int lane = 16; lane > 0; lane /= 2)
    for (int i = 0; i < kCount; i++) values[i] += __shfl_xor_sync(0xffffffffu, values[i], lane);
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0)
    for (int i = 0; i < kCount; i++) sums[warp][i] = values[i];
  __syncthreads();
  for (int i = 0; i < kCount; i++) {
    values[i] = sums[0][i];
    for (int w = 1; w < warps; w++) values[i] += sums[w][i];
  }
  __syncthreads();  // the next call writes there
}

}  // namespace goku
