// Checks of the two directions of attention; the arithmetic is in attention_forward.cc and
// attention_backward.cc.
#include "native/kernels/attention.h"

#include "native/kernels/attention_tiles.h"

namespace goku {
namespace {

using attention::Shape;

Shape checkShape(const char* name, std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets,
                 int64_t heads, int64_t width) {
  GOKU_CHECK(width >= 2 && width <= kAttentionWidthMax && width % 2 == 0, name, ": d is ", width,
             ", want an even number from 2 to ", kAttentionWidthMax);
  GOKU_CHECK(qOffsets.size() == kOffsets.size(), name, ": qOffsets has ", qOffsets.size(),
             " entries, kOffsets ", kOffsets.size(), ", want as many");
  return {static_cast<int64_t>(qOffsets.size()) - 1, heads, width, qOffsets.data(), kOffsets.data()};
}

void checkTensor(const char* name, const char* what, const Tensor& x, int64_t rows, int64_t columns) {
  GOKU_CHECK(x.isFloat(), name, ": ", what, " is ", dtypeName(x.dtype), ", want f32 or bf16");
  GOKU_CHECK(x.count == rows * columns, name, ": ", what, " has ", x.count, " elements, want ", rows,
             " rows of ", columns);
}

void checkLse(const char* name, const Tensor& lse, int64_t rows, int64_t heads) {
  GOKU_CHECK(lse.dtype == DType::kF32, name, ": lse is ", dtypeName(lse.dtype), ", want f32");
  checkTensor(name, "lse", lse, rows, heads);
}

}  // namespace

void attentionForward(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                      std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets, int64_t heads,
                      int64_t width) {
  const char* name = "attentionForward";
  const Shape shape = checkShape(name, qOffsets, kOffsets, heads, width);
  checkTensor(name, "out", out, qOffsets.back(), heads * width);
  checkTensor(name, "q", q, qOffsets.back(), heads * width);
  checkTensor(name, "k", k, kOffsets.back(), heads * width);
  checkTensor(name, "v", v, kOffsets.back(), heads * width);
  checkLse(name, lse, qOffsets.back(), heads);
  if (heads == 0) return;
  attention::forward(Target(out), lse.as<float>(), {Source(q), Source(k), Source(v)}, shape);
}

void attentionBackward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                       const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                       const Tensor& v, std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets,
                       int64_t heads, int64_t width) {
  const char* name = "attentionBackward";
  const Shape shape = checkShape(name, qOffsets, kOffsets, heads, width);
  checkTensor(name, "dq", dq, qOffsets.back(), heads * width);
  checkTensor(name, "dk", dk, kOffsets.back(), heads * width);
  checkTensor(name, "dv", dv, kOffsets.back(), heads * width);
  checkTensor(name, "dout", dout, qOffsets.back(), heads * width);
  checkTensor(name, "out", out, qOffsets.back(), heads * width);
  checkTensor(name, "q", q, qOffsets.back(), heads * width);
  checkTensor(name, "k", k, kOffsets.back(), heads * width);
  checkTensor(name, "v", v, kOffsets.back(), heads * width);
  checkLse(name, lse, qOffsets.back(), heads);
  if (heads == 0) return;
  attention::backward({Target(dq), Target(dk), Target(dv)}, {Source(dout), Source(out), lse.as<float>()},
                      {Source(q), Source(k), Source(v)}, shape);
}

}  // namespace goku
