#include "native/collectives/fold.h"

#include <algorithm>
#include <array>

namespace goku::collectives {
namespace {

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
// Both let a NaN of either side through: a != a is true for NaN only, and a > NaN is false.
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

// Members folded in one pass over memory; each is one more stream to read.
constexpr size_t kPassWidth = 7;
// Longer lists are folded in blocks that stay in the first-level cache between passes.
constexpr size_t kBlock = 1024;

template <class T, class Op, size_t K>
void foldPass(T* out, const T* first, const T* const* rest, size_t count) {
  std::array<const T*, K> in;
  std::copy_n(rest, K, in.begin());
  // Element i is read from every input before it is written, so an input may be the output.
#pragma GCC ivdep
  for (size_t i = 0; i < count; ++i) {
    T value = first[i];
    for (size_t k = 0; k < K; ++k) value = Op{}(value, in[k][i]);
    out[i] = value;
  }
}

template <class T, class Op>
void foldSome(T* out, const T* first, const T* const* rest, size_t width, size_t count) {
  switch (width) {
    case 0:
      if (out != first) std::copy_n(first, count, out);
      return;
    case 1:
      return foldPass<T, Op, 1>(out, first, rest, count);
    case 2:
      return foldPass<T, Op, 2>(out, first, rest, count);
    case 3:
      return foldPass<T, Op, 3>(out, first, rest, count);
    case 4:
      return foldPass<T, Op, 4>(out, first, rest, count);
    case 5:
      return foldPass<T, Op, 5>(out, first, rest, count);
    case 6:
      return foldPass<T, Op, 6>(out, first, rest, count);
    default:
      return foldPass<T, Op, kPassWidth>(out, first, rest, count);
  }
}

template <class T, class Op>
void foldAll(std::byte* outBytes, const std::byte* firstBytes, std::span<const std::byte* const> restBytes,
             size_t count) {
  T* out = reinterpret_cast<T*>(outBytes);
  const T* first = reinterpret_cast<const T*>(firstBytes);
  if (restBytes.size() <= kPassWidth) {
    const T* rest[kPassWidth];
    for (size_t k = 0; k < restBytes.size(); ++k) rest[k] = reinterpret_cast<const T*>(restBytes[k]);
    return foldSome<T, Op>(out, first, rest, restBytes.size(), count);
  }
  // The result of one pass goes into the next, beside `out`: a later input may be `out` itself.
  alignas(64) T block[kBlock];
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t length = std::min(kBlock, count - begin);
    const T* from = first + begin;
    for (size_t k = 0; k < restBytes.size(); k += kPassWidth) {
      const size_t width = std::min(kPassWidth, restBytes.size() - k);
      const T* rest[kPassWidth];
      for (size_t j = 0; j < width; ++j) rest[j] = reinterpret_cast<const T*>(restBytes[k + j]) + begin;
      foldSome<T, Op>(block, from, rest, width, length);
      from = block;
    }
    std::copy_n(block, length, out + begin);
  }
}

template <class T>
void foldTyped(Reduction op, std::byte* out, const std::byte* first, std::span<const std::byte* const> rest,
               size_t count) {
  switch (op) {
    case Reduction::kSum:
      return foldAll<T, Sum>(out, first, rest, count);
    case Reduction::kMax:
      return foldAll<T, Max>(out, first, rest, count);
    case Reduction::kMin:
      return foldAll<T, Min>(out, first, rest, count);
  }
}

}  // namespace

void fold(DType dtype, Reduction op, std::byte* out, const std::byte* first,
          std::span<const std::byte* const> rest, size_t count) {
  if (dtype == DType::kF64) return foldTyped<double>(op, out, first, rest, count);
  foldTyped<float>(op, out, first, rest, count);
}

}  // namespace goku::collectives
