// What both directions of attention share: packed tiles of one head, panels of queries.
//
// Queries lie along the lanes of vectors. A panel is kPanel queries stored channel by channel, [d][kPanel],
// so scores, softmax and the products around it need no sum across lanes, and d needs no rounding up.
#pragma once

#include <cstdint>

#include "native/kernels/attention_product.h"
#include "native/kernels/rows.h"
#include "native/kernels/scratch.h"

namespace goku::attention {

inline constexpr int64_t kPanel = 2 * kLanes;  // queries in a panel: two vectors

struct Shape {
  int64_t samples;          // S
  int64_t heads;            // H >= 1 in forward() and backward()
  int64_t width;            // d
  const int32_t* qOffsets;  // [S+1]
  const int32_t* kOffsets;  // [S+1]

  int64_t queries(int64_t sample) const { return qOffsets[sample + 1] - qOffsets[sample]; }
  int64_t keys(int64_t sample) const { return kOffsets[sample + 1] - kOffsets[sample]; }
};

struct Inputs {
  Source q, k, v;
};

/// What forward left, and the gradient that came in.
struct Outcome {
  Source dout, out;
  const float* lse;
};

struct Gradients {
  Target dq, dk, dv;
};

void forward(Target out, float* lse, const Inputs& in, const Shape& shape);
void backward(const Gradients& grad, const Outcome& outcome, const Inputs& in, const Shape& shape);

/// Rows [first, first + count) of one head as a dense tile [count][ld]; columns d .. ld-1 are written 0.
inline void packRows(float* tile, int64_t ld, Source x, int64_t first, int64_t count, int64_t head,
                     const Shape& shape) {
  constexpr int64_t kAhead = 8;
  const int64_t stride = shape.heads * shape.width;
  const int64_t start = first * stride + head * shape.width;
  for (int64_t row = 0; row < count; row++) {
    float* to = tile + row * ld;
    if (row + kAhead < count) x.prefetch(start + (row + kAhead) * stride, shape.width);
    x.copy(to, start + row * stride, shape.width);
    for (int64_t c = shape.width; c < ld; c++) to[c] = 0;
  }
}

/// Panels [ceil(count / kPanel)][d][kPanel] from a tile of rows; lanes without a row are written 0.
inline void transposeToPanels(float* panels, const float* tile, int64_t ld, int64_t count, int64_t width) {
  for (int64_t start = 0; start < count; start += kPanel, panels += width * kPanel) {
    const float* rows = tile + start * ld;
    const int64_t lanes = count - start < kPanel ? count - start : kPanel;
    for (int64_t c = 0; c < width; c++) {
      float* to = panels + c * kPanel;
      int64_t lane = 0;
      for (; lane < lanes; lane++) to[lane] = rows[lane * ld + c];
      for (; lane < kPanel; lane++) to[lane] = 0;
    }
  }
}

/// Row `lane` of a panel, times scale.
inline void readPanelRow(float* row, const float* panel, int64_t lane, int64_t width, float scale) {
  for (int64_t c = 0; c < width; c++) row[c] = panel[c * kPanel + lane] * scale;
}

}  // namespace goku::attention
