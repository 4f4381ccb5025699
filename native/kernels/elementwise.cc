#include "native/kernels/elementwise.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "native/kernels/activation.h"
#include "native/kernels/checks.h"
#include "native/parallel.h"
#include "native/simd.h"

namespace goku {
namespace {

/// y[i] = f(x[i])
template <class Y, class X, class F>
void mapOne(Y* y, const X* x, int64_t count, const F& f) {
  parallelFor(count, kElementBlock, [&](int64_t begin, int64_t end) {
    forLanes(end - begin, [&](int64_t i, int64_t lanes) {
      storeLanes(y + begin + i, f(loadLanes(x + begin + i, lanes)), lanes);
    });
  });
}

/// y[i] = f(a[i], b[i])
template <class Y, class A, class B, class F>
void mapTwo(Y* y, const A* a, const B* b, int64_t count, const F& f) {
  parallelFor(count, kElementBlock, [&](int64_t begin, int64_t end) {
    forLanes(end - begin, [&](int64_t i, int64_t lanes) {
      storeLanes(y + begin + i, f(loadLanes(a + begin + i, lanes), loadLanes(b + begin + i, lanes)), lanes);
    });
  });
}

template <class F>
void unary(const char* name, const Tensor& y, const Tensor& x, const F& f) {
  checks::sameCount(name, y, x);
  visitFloat(y.dtype, name, [&](auto yTag) {
    visitFloat(x.dtype, name,
               [&](auto xTag) { mapOne(y.as<decltype(yTag)>(), x.as<decltype(xTag)>(), y.count, f); });
  });
}

template <class F>
void binary(const char* name, const Tensor& y, const Tensor& a, const Tensor& b, const F& f) {
  checks::sameCount(name, y, a);
  checks::sameCount(name, y, b);
  visitFloat(y.dtype, name, [&](auto yTag) {
    visitFloat(a.dtype, name, [&](auto aTag) {
      visitFloat(b.dtype, name, [&](auto bTag) {
        mapTwo(y.as<decltype(yTag)>(), a.as<decltype(aTag)>(), b.as<decltype(bTag)>(), y.count, f);
      });
    });
  });
}

/// f64 to bf16 in one rounding: the f32 in between is rounded to odd, which keeps what the second rounding
/// must know.
bf16 narrow(double x) {
  float f = static_cast<float>(x);
  if (static_cast<double>(f) != x && std::isfinite(f)) {
    const bool up = std::fabs(static_cast<double>(f)) > std::fabs(x);
    const float truncated = up ? std::nextafter(f, 0.0f) : f;
    f = std::bit_cast<float>(std::bit_cast<uint32_t>(truncated) | 1u);
  }
  return toBf16(f);
}
template <class T>
T narrowTo(double x) {
  if constexpr (std::is_same_v<T, bf16>) return narrow(x);
  return static_cast<T>(x);
}
double widen(double x) { return x; }
double widen(float x) { return x; }
double widen(bf16 x) { return toFloat(x); }

template <class T>
void fillWith(T* to, int64_t count, T value) {
  parallelFor(count, kElementBlock,
              [&](int64_t begin, int64_t end) { std::fill(to + begin, to + end, value); });
}

/// Calls body(T{}) with T = float, bf16 or double.
template <class Body>
void visitReal(DType dtype, const char* what, const Body& body) {
  if (dtype == DType::kF64) {
    body(double{});
  } else {
    visitFloat(dtype, what, body);
  }
}

}  // namespace

void tensorFill(const Tensor& dst, double value) {
  if (dst.dtype == DType::kU8) {
    GOKU_CHECK(value >= 0 && value <= 255 && std::trunc(value) == value, "tensorFill: ", value,
               " into u8, want a whole number from 0 to 255");
    std::memset(dst.data, static_cast<int>(value), dst.bytes());
    return;
  }
  visitReal(dst.dtype, "tensorFill: dst", [&](auto tag) {
    using T = decltype(tag);
    fillWith(dst.as<T>(), dst.count, narrowTo<T>(value));
  });
}

void tensorCast(const Tensor& dst, const Tensor& src) {
  checks::sameCount("tensorCast", dst, src);
  if (dst.isFloat() && src.isFloat()) {
    unary("tensorCast", dst, src, [](Vec x) { return x; });
    return;
  }
  visitReal(dst.dtype, "tensorCast: dst", [&](auto dstTag) {
    visitReal(src.dtype, "tensorCast: src", [&](auto srcTag) {
      using D = decltype(dstTag);
      D* to = dst.as<D>();
      const auto* from = src.as<decltype(srcTag)>();
      parallelFor(dst.count, kElementBlock, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) to[i] = narrowTo<D>(widen(from[i]));
      });
    });
  });
}

void tensorAdd(const Tensor& dst, const Tensor& src) {
  binary("tensorAdd", dst, dst, src, [](Vec a, Vec b) { return a + b; });
}

void copy2d(const Tensor& dst, int64_t dstOffset, int64_t dstStride, const Tensor& src, int64_t srcOffset,
            int64_t srcStride, int64_t rows, int64_t cols) {
  GOKU_CHECK(dst.dtype == src.dtype, "copy2d: from ", dtypeName(src.dtype), " to ", dtypeName(dst.dtype),
             ", want the same dtype");
  if (rows == 0 || cols == 0) return;
  checks::copy2d("dst", dst, dstOffset, dstStride, rows, cols);
  checks::copy2d("src", src, srcOffset, srcStride, rows, cols);
  const int64_t size = static_cast<int64_t>(dtypeBytes(dst.dtype));
  std::byte* to = dst.data + dstOffset * size;
  const std::byte* from = src.data + srcOffset * size;
  const int64_t rowBytes = cols * size;
  parallelFor(rows, std::max<int64_t>(1, 65536 / rowBytes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      std::memcpy(to + r * dstStride * size, from + r * srcStride * size, static_cast<size_t>(rowBytes));
  });
}

void geluForward(const Tensor& y, const Tensor& x) {
  unary("geluForward", y, x, [](Vec v) { return geluTanh(v); });
}
void geluBackward(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  binary("geluBackward", dx, dy, x, [](Vec d, Vec v) { return d * geluTanhSlope(v); });
}
void siluForward(const Tensor& y, const Tensor& x) {
  unary("siluForward", y, x, [](Vec v) { return silu(v); });
}
void siluBackward(const Tensor& dx, const Tensor& dy, const Tensor& x) {
  binary("siluBackward", dx, dy, x, [](Vec d, Vec v) { return d * siluSlope(v); });
}

}  // namespace goku
