// Checks of operands that every backend makes before it computes: an operation takes the same tensors, and
// refuses the same with the same words, on all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "native/kernels/linear.h"
#include "native/kernels/optimizer.h"
#include "native/kernels/row_cut.h"
#include "native/tensor.h"

namespace goku::checks {

using Offsets = std::span<const int32_t>;

inline int64_t samplesOf(Offsets offsets) { return static_cast<int64_t>(offsets.size()) - 1; }

inline void sameCount(const char* name, const Tensor& a, const Tensor& b) {
  GOKU_CHECK(a.count == b.count, name, ": tensors of ", a.count, " and ", b.count,
             " elements, want the same count");
}

inline void range(const char* name, const Tensor& x, int64_t start, int64_t count) {
  GOKU_CHECK(count <= x.count && start <= x.count - count, name, ": elements [", start, ", ", start + count,
             ") of a tensor of ", x.count);
}

/// copy2d. Rows and columns are at least 1.
inline void copy2d(const char* what, const Tensor& x, int64_t offset, int64_t stride, int64_t rows,
                   int64_t cols) {
  GOKU_CHECK(cols <= stride || rows == 1, "copy2d: ", cols, " columns of ", what, " rows ", stride, " apart");
  // In 128 bits: (rows - 1) * stride of two caller's numbers may pass 2^63.
  const __int128 end = static_cast<__int128>(rows - 1) * stride + offset + cols;
  GOKU_CHECK(end <= x.count, "copy2d: ", rows, " rows of ", cols, " from ", offset, " on, ", stride,
             " apart, of a ", what, " of ", x.count, " elements");
}

/// The matrix of a linear layer.
inline void matrix(const char* name, const Tensor& x, int64_t rows, int64_t columns) {
  GOKU_CHECK(x.isFloat(), name, " is ", dtypeName(x.dtype), ", want f32 or bf16");
  // In 128 bits: the caller's numbers may multiply beyond 64.
  GOKU_CHECK(static_cast<__int128>(rows) * columns == x.count, name, " has ", x.count, " elements, want ",
             rows, " x ", columns);
}

inline void linearForward(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor* bias,
                          const LinearShape& shape, const Tensor* preActivation) {
  const auto [N, K, F] = shape;
  matrix("linearForward: y", y, N, F);
  matrix("linearForward: x", x, N, K);
  matrix("linearForward: w", w, F, K);
  if (bias != nullptr) matrix("linearForward: bias", *bias, 1, F);
  if (preActivation != nullptr) matrix("linearForward: preActivation", *preActivation, N, F);
}

inline void linearBackwardInput(const Tensor& dx, const Tensor& dy, const Tensor& w,
                                const LinearShape& shape) {
  const auto [N, K, F] = shape;
  matrix("linearBackwardInput: dx", dx, N, K);
  matrix("linearBackwardInput: dy", dy, N, F);
  matrix("linearBackwardInput: w", w, F, K);
}

inline void linearBackwardWeight(const Tensor& dw, const Tensor* dbias, const Tensor& dy, const Tensor& x,
                                 const LinearShape& shape) {
  const auto [N, K, F] = shape;
  matrix("linearBackwardWeight: dw", dw, F, K);
  matrix("linearBackwardWeight: dy", dy, N, F);
  matrix("linearBackwardWeight: x", x, N, K);
  if (dbias != nullptr) matrix("linearBackwardWeight: dbias", *dbias, 1, F);
}

inline void layerNormModulate(const char* name, const Tensor& stats, const Tensor& mod, int64_t modWidth,
                              int64_t shiftColumn, int64_t scaleColumn, Offsets offsets, int64_t D) {
  GOKU_CHECK(D >= 1, name, ": D is ", D, ", want at least 1");
  checkFloatRows(name, "stats", stats, offsets.back(), 2);
  checkFloatRows(name, "mod", mod, samplesOf(offsets), modWidth);
  checkColumn(name, "shiftColumn", shiftColumn, D, modWidth);
  checkColumn(name, "scaleColumn", scaleColumn, D, modWidth);
}

inline void rmsNorm(const char* name, const Tensor& rstd, const Tensor& w, const Tensor* mod,
                    int64_t modWidth, int64_t shiftColumn, int64_t scaleColumn, Offsets offsets, int64_t D) {
  GOKU_CHECK(D >= 1, name, ": D is ", D, ", want at least 1");
  checkFloatRows(name, "rstd", rstd, offsets.back(), 1);
  checkRows(name, "w", w, 1, D);
  if (mod == nullptr) return;
  checkFloatRows(name, "mod", *mod, samplesOf(offsets), modWidth);
  checkColumn(name, "shiftColumn", shiftColumn, D, modWidth);
  checkColumn(name, "scaleColumn", scaleColumn, D, modWidth);
}

inline void qkNormRope(const char* name, const Tensor& rstd, const Tensor& w, const Tensor* cos,
                       const Tensor* sin, int64_t N, int64_t H, int64_t d) {
  GOKU_CHECK(H >= 1 && d >= 2 && d % 2 == 0, name, ": H is ", H, " and d ", d,
             ", want H at least 1 and an even d from 2");
  checkFloatRows(name, "rstd", rstd, N, 1);
  checkRows(name, "w", w, H, d);
  GOKU_CHECK((cos == nullptr) == (sin == nullptr), name, ": one of cos and sin is 0, want both or neither");
  if (cos == nullptr) return;
  checkFloatRows(name, "cos", *cos, N, d / 2);
  checkFloatRows(name, "sin", *sin, N, d / 2);
}

inline void gateResidual(const char* name, const Tensor& mod, int64_t modWidth, int64_t gateColumn,
                         Offsets offsets, int64_t D) {
  GOKU_CHECK(D >= 1, name, ": D is ", D, ", want at least 1");
  checkFloatRows(name, "mod", mod, samplesOf(offsets), modWidth);
  checkColumn(name, "gateColumn", gateColumn, D, modWidth);
}

inline void packed(const char* name, Offsets offsets, int64_t P, const Tensor& x) {
  const int64_t rows = offsets.back();
  GOKU_CHECK(x.count == rows * P, name, ": a tensor of ", x.count, " elements, want ", rows, " rows of ", P);
}

inline void philoxNormal(const Tensor& out, int64_t offset, int64_t count, int64_t elementStart) {
  constexpr int64_t kElementLimit = int64_t{1} << 34;  // the counter's first word holds element / 4
  GOKU_CHECK(count <= out.count && offset <= out.count - count, "philoxNormal: elements [", offset, ", ",
             offset + count, ") of a tensor of ", out.count);
  GOKU_CHECK(elementStart <= kElementLimit && count <= kElementLimit - elementStart, "philoxNormal: element ",
             elementStart + count, " is beyond 2^34");
}

/// Runs of elements that decay or not: start, count, decays of each, one after another.
inline void segments(std::span<const double> triples, int64_t count) {
  int64_t end = 0;
  bool joined = triples.size() % 3 == 0;
  for (size_t i = 0; joined && i < triples.size(); i += 3) {
    joined = triples[i] == static_cast<double>(end) && triples[i + 1] >= 0 &&
             triples[i + 1] <= static_cast<double>(count - end);
    if (joined) end += static_cast<int64_t>(triples[i + 1]);
  }
  GOKU_CHECK(joined && end == count, "adamwStep: segments cover ", end, " of ", count,
             " elements, want start, count, decays of each, one after another");
}

inline void adamw(const AdamwState& from, const AdamwState& to, const Tensor& grad, const Tensor* weights,
                  const AdamwSettings& settings, std::span<const uint32_t> checksums) {
  const int64_t count = from.master.count;
  const auto same = [&](const Tensor& x, const char* name) {
    GOKU_CHECK(x.count == count, "adamwStep: ", name, " has ", x.count, " elements, want ", count);
  };
  for (const AdamwState* state : {&from, &to}) {
    same(state->master, "master"), same(state->m, "m"), same(state->v, "v"), same(state->ema, "ema");
  }
  same(grad, "grad");
  if (weights != nullptr) same(*weights, "weights");
  const int64_t chunks = checksumsOf(count * static_cast<int64_t>(sizeof(float)));
  GOKU_CHECK(checksums.empty() || static_cast<int64_t>(checksums.size()) == 4 * chunks,
             "adamwStep: room for ", checksums.size(), " checksums, want 4 x ", chunks);
  GOKU_CHECK(settings.step >= 1, "adamwStep: step ", settings.step, ", want 1 or more");
  const bool inPlace = from.master.data == to.master.data;
  GOKU_CHECK((from.m.data == to.m.data) == inPlace && (from.v.data == to.v.data) == inPlace &&
                 (from.ema.data == to.ema.data) == inPlace,
             "adamwStep: some tensors are changed in place and others not, want all or none");
}

/// startSnapshot. Returns how many checksums there are.
inline int64_t snapshot(const std::vector<Tensor>& from, const std::vector<Tensor>& to) {
  GOKU_CHECK(from.size() == to.size(), "snapshotStart: ", from.size(), " tensors to ", to.size(),
             ", want as many");
  int64_t checksums = 0;
  for (size_t i = 0; i < from.size(); i++) {
    sameCount("snapshotStart", from[i], to[i]);
    GOKU_CHECK(from[i].dtype == to[i].dtype, "snapshotStart: ", dtypeName(from[i].dtype), " to ",
               dtypeName(to[i].dtype), ", want the same dtype");
    checksums += checksumsOf(static_cast<int64_t>(from[i].bytes()));
  }
  return checksums;
}

inline void snapshotChecksums(std::span<const uint32_t> room, size_t wanted) {
  GOKU_CHECK(room.empty() || room.size() == wanted, "snapshotWait: room for ", room.size(),
             " checksums, want ", wanted);
}

/// Queries and keys of packed samples.
struct AttentionShape {
  Offsets qOffsets, kOffsets;
  int64_t heads, width;

  AttentionShape(const char* name, Offsets qOffsets, Offsets kOffsets, int64_t heads, int64_t width,
                 int64_t widthMax)
      : qOffsets(qOffsets), kOffsets(kOffsets), heads(heads), width(width) {
    GOKU_CHECK(width >= 2 && width <= widthMax && width % 2 == 0, name, ": d is ", width,
               ", want an even number from 2 to ", widthMax);
    GOKU_CHECK(qOffsets.size() == kOffsets.size(), name, ": qOffsets has ", qOffsets.size(),
               " entries, kOffsets ", kOffsets.size(), ", want as many");
  }
  void queries(const char* name, const char* what, const Tensor& x) const {
    checkRows(name, what, x, qOffsets.back(), heads * width);
  }
  void keys(const char* name, const char* what, const Tensor& x) const {
    checkRows(name, what, x, kOffsets.back(), heads * width);
  }
  void lse(const char* name, const Tensor& lse) const {
    checkFloatRows(name, "lse", lse, qOffsets.back(), heads);
  }

  void forward(const char* name, const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
               const Tensor& v) const {
    queries(name, "out", out);
    queries(name, "q", q);
    keys(name, "k", k);
    keys(name, "v", v);
    this->lse(name, lse);
  }
  void backward(const char* name, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                const Tensor& v) const {
    queries(name, "dq", dq);
    keys(name, "dk", dk);
    keys(name, "dv", dv);
    queries(name, "dout", dout);
    forward(name, out, lse, q, k, v);
  }
};

}  // namespace goku::checks
