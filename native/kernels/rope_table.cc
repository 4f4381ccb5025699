// Rotary tables:
//   angle(token, axis a, pair j) = position_a * theta^(-2j / c_a)
// with c_a channels of a head for axis a: y and x get 2 floor(3d / 16) each, t the rest (64 -> 16, 24, 24).
// arXiv:2104.09864 in three axes as in Goku, arXiv:2502.04896, section 2.2; rope_split of the reference.
//
// Angles are formed in f64 and rounded once, after the cosine: at position 100 an f32 angle would be off by
// 4e-6. A token's row is put together from three small tables, one an axis, as there are far fewer positions
// than tokens.
#include "native/kernels/rope_table.h"

#include <algorithm>

#include "native/kernels/rope_axes.h"
#include "native/parallel.h"

namespace goku {

void ropeTable(const Tensor& cos, const Tensor& sin, std::span<const int32_t> grids, int64_t tokenStart,
               int64_t count, int64_t d, double theta) {
  const RopeAxes made(cos, sin, grids, tokenStart, count, d, theta);
  const std::vector<RopeGrid>& laid = made.grids;
  const std::vector<RopeAxis>& axes = made.axes;
  parallelFor(count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t token = tokenStart + row;
      const auto after = std::upper_bound(laid.begin(), laid.end(), token,
                                          [](int64_t at, const RopeGrid& grid) { return at < grid.start; });
      const RopeGrid& grid = *(after - 1);
      const int64_t local = token - grid.start, plane = grid.extent[1] * grid.extent[2];
      const int64_t position[3] = {local / plane, local % plane / grid.extent[2], local % grid.extent[2]};
      float* toCos = cos.as<float>() + row * (d / 2);
      float* toSin = sin.as<float>() + row * (d / 2);
      for (size_t a = 0; a < 3; a++) {
        toCos = std::copy_n(axes[a].cos.data() + position[a] * axes[a].pairs, axes[a].pairs, toCos);
        toSin = std::copy_n(axes[a].sin.data() + position[a] * axes[a].pairs, axes[a].pairs, toSin);
      }
    }
  });
}

}  // namespace goku
