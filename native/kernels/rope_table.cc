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
#include <cmath>
#include <vector>

#include "native/parallel.h"

namespace goku {
namespace {

/// cos and sin of every position of one axis: [positions][pairs].
struct Axis {
  int64_t pairs;
  std::vector<float> cos, sin;

  Axis(int64_t channels, int64_t positions, double theta) : pairs(channels / 2) {
    for (int64_t position = 0; position < positions; position++) {
      for (int64_t j = 0; j < pairs; j++) {
        const double frequency =
            std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(channels));
        const double angle = static_cast<double>(position) * frequency;
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
};

struct Grid {
  int64_t start;  // first token in the pack
  int64_t extent[3];
};

std::vector<Grid> layOut(std::span<const int32_t> grids, int64_t tokenEnd) {
  GOKU_CHECK(grids.size() % 3 == 0, "ropeTable: grids has ", grids.size(), " entries, want a multiple of 3");
  std::vector<Grid> laid;
  int64_t tokens = 0;
  for (size_t i = 0; i < grids.size(); i += 3) {
    const Grid grid{tokens, {grids[i], grids[i + 1], grids[i + 2]}};
    const bool valid = std::all_of(grid.extent, grid.extent + 3, [](int64_t n) { return n >= 1; });
    GOKU_CHECK(valid, "ropeTable: grid ", i / 3, " is ", grids[i], " x ", grids[i + 1], " x ", grids[i + 2],
               ", want at least 1 each");
    laid.push_back(grid);
    tokens += grid.extent[0] * grid.extent[1] * grid.extent[2];
  }
  GOKU_CHECK(tokenEnd <= tokens, "ropeTable: tokens up to ", tokenEnd, " asked, the grids have ", tokens);
  return laid;
}

}  // namespace

std::array<int64_t, 3> ropeSplit(int64_t d) {
  const int64_t spatial = 2 * (3 * d / 16);
  return {d - 2 * spatial, spatial, spatial};
}

void ropeTable(const Tensor& cos, const Tensor& sin, std::span<const int32_t> grids, int64_t tokenStart,
               int64_t count, int64_t d, double theta) {
  GOKU_CHECK(d >= 2 && d % 2 == 0, "ropeTable: d is ", d, ", want an even number from 2");
  GOKU_CHECK(theta > 0, "ropeTable: theta is ", theta, ", want above 0");
  for (const Tensor* x : {&cos, &sin}) {
    GOKU_CHECK(x->dtype == DType::kF32 && x->count == count * d / 2, "ropeTable: cos or sin is ",
               dtypeName(x->dtype), " of ", x->count, " elements, want f32 of ", count * d / 2);
  }
  const std::vector<Grid> laid = layOut(grids, tokenStart + count);
  const std::array<int64_t, 3> channels = ropeSplit(d);
  std::vector<Axis> axes;
  for (size_t a = 0; a < 3; a++) {
    int64_t positions = 0;
    for (const Grid& grid : laid) positions = std::max(positions, grid.extent[a]);
    axes.emplace_back(channels[a], positions, theta);
  }
  parallelFor(count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t token = tokenStart + row;
      const auto after = std::upper_bound(laid.begin(), laid.end(), token,
                                          [](int64_t at, const Grid& grid) { return at < grid.start; });
      const Grid& grid = *(after - 1);
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
