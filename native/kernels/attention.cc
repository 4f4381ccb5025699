// Checks of the two directions of attention; the arithmetic is in attention_forward.cc and
// attention_backward.cc.
#include "native/kernels/attention.h"

#include "native/kernels/attention_tiles.h"
#include "native/kernels/checks.h"

namespace goku {
namespace {

using attention::Shape;

Shape shapeOf(const checks::AttentionShape& checked) {
  return {checks::samplesOf(checked.qOffsets), checked.heads, checked.width, checked.qOffsets.data(),
          checked.kOffsets.data()};
}

}  // namespace

void attentionForward(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                      std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets, int64_t heads,
                      int64_t width) {
  const char* name = "attentionForward";
  const checks::AttentionShape shape(name, qOffsets, kOffsets, heads, width, kAttentionWidthMax);
  shape.forward(name, out, lse, q, k, v);
  if (heads == 0) return;
  attention::forward(Target(out), lse.as<float>(), {Source(q), Source(k), Source(v)}, shapeOf(shape));
}

void attentionBackward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                       const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                       const Tensor& v, std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets,
                       int64_t heads, int64_t width) {
  const char* name = "attentionBackward";
  const checks::AttentionShape shape(name, qOffsets, kOffsets, heads, width, kAttentionWidthMax);
  shape.backward(name, dq, dk, dv, dout, out, lse, q, k, v);
  if (heads == 0) return;
  attention::backward({Target(dq), Target(dk), Target(dv)}, {Source(dout), Source(out), lse.as<float>()},
                      {Source(q), Source(k), Source(v)}, shapeOf(shape));
}

}  // namespace goku
