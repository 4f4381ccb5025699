// Runs of f32 or bf16 tensors as kernels see them: always fp32.
//
// A kernel that works row by row, or on tiles of rows, reads and writes through here, so that it is written
// once for every mix of dtypes: an f32 row is used where it lies, a bf16 row is widened into scratch that
// stays in L1.
#pragma once

#include <cstdint>

#include "native/simd.h"
#include "native/tensor.h"

namespace goku {

/// to[i] = from[i] with conversion. Rows of a head are short, and for those this beats a call of memcpy.
template <class To, class From>
inline void convertRun(To* to, const From* from, int64_t count) {
  forLanes(count, [&](int64_t i, int64_t lanes) { storeLanes(to + i, loadLanes(from + i, lanes), lanes); });
}

/// A tensor read as fp32. `start` counts elements.
struct Source {
  const void* data;
  DType dtype;  // f32 or bf16

  Source(const void* data, DType dtype) : data(data), dtype(dtype) {}
  explicit Source(const Tensor& tensor) : data(tensor.data), dtype(tensor.dtype) {}

  /// [start, start + count): where they lie when f32, else widened into scratch (count numbers).
  const float* read(int64_t start, int64_t count, float* scratch) const {
    if (dtype == DType::kF32) return static_cast<const float*>(data) + start;
    convertRun(scratch, static_cast<const bf16*>(data) + start, count);
    return scratch;
  }

  /// The same, always copied.
  void copy(float* to, int64_t start, int64_t count) const {
    if (dtype == DType::kF32) {
      convertRun(to, static_cast<const float*>(data) + start, count);
    } else {
      convertRun(to, static_cast<const bf16*>(data) + start, count);
    }
  }

  /// Fetches what a later read of these numbers will want: rows of one head lie far apart, where the machine
  /// does not foresee them.
  void prefetch(int64_t start, int64_t count) const {
    const int64_t elementBytes = dtype == DType::kF32 ? 4 : 2;
    const char* from = static_cast<const char*>(data) + start * elementBytes;
    for (int64_t i = 0; i < count * elementBytes; i += 64) __builtin_prefetch(from + i);
  }
};

/// A tensor written from fp32.
struct Target {
  void* data;
  DType dtype;  // f32 or bf16

  Target(void* data, DType dtype) : data(data), dtype(dtype) {}
  explicit Target(const Tensor& tensor) : data(tensor.data), dtype(tensor.dtype) {}

  /// Where [start, ...) may be formed: in place when f32, else in scratch. finish() puts it where it belongs.
  float* begin(int64_t start, float* scratch) const {
    return dtype == DType::kF32 ? static_cast<float*>(data) + start : scratch;
  }
  void finish(int64_t start, const float* formed, int64_t count) const {
    if (dtype == DType::kBf16) convertRun(static_cast<bf16*>(data) + start, formed, count);
  }

  /// As begin(), but with what is there now, to be added to.
  float* open(int64_t start, int64_t count, float* scratch) const {
    if (dtype == DType::kBf16) convertRun(scratch, static_cast<const bf16*>(data) + start, count);
    return begin(start, scratch);
  }

  void write(int64_t start, const float* from, int64_t count) const {
    if (dtype == DType::kF32) {
      convertRun(static_cast<float*>(data) + start, from, count);
    } else {
      convertRun(static_cast<bf16*>(data) + start, from, count);
    }
  }
};

}  // namespace goku
