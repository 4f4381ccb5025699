// What a rotary table is put together from: angles of every position of each axis, and where a pack's grids
// begin. Made on the host on every backend, in f64: there are far fewer positions than tokens.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "native/kernels/rope_table.h"

namespace goku {

/// cos and sin of every position of one axis: [positions][pairs].
struct RopeAxis {
  int64_t pairs;
  std::vector<float> cos, sin;

  RopeAxis(int64_t channels, int64_t positions, double theta) : pairs(channels / 2) {
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

struct RopeGrid {
  int64_t start;  // first token in the pack
  int64_t extent[3];
};

inline std::vector<RopeGrid> layOut(std::span<const int32_t> grids, int64_t tokenEnd) {
  GOKU_CHECK(grids.size() % 3 == 0, "ropeTable: grids has ", grids.size(), " entries, want a multiple of 3");
  std::vector<RopeGrid> laid;
  int64_t tokens = 0;
  for (size_t i = 0; i < grids.size(); i += 3) {
    const RopeGrid grid{tokens, {grids[i], grids[i + 1], grids[i + 2]}};
    const bool valid = std::all_of(grid.extent, grid.extent + 3, [](int64_t n) { return n >= 1; });
    GOKU_CHECK(valid, "ropeTable: grid ", i / 3, " is ", grids[i], " x ", grids[i + 1], " x ", grids[i + 2],
               ", want at least 1 each");
    laid.push_back(grid);
    tokens += grid.extent[0] * grid.extent[1] * grid.extent[2];
  }
  GOKU_CHECK(tokenEnd <= tokens, "ropeTable: tokens up to ", tokenEnd, " asked, the grids have ", tokens);
  return laid;
}

inline std::array<int64_t, 3> ropeSplit(int64_t d) {
  const int64_t spatial = 2 * (3 * d / 16);
  return {d - 2 * spatial, spatial, spatial};
}

/// The checked operands of ropeTable.
struct RopeAxes {
  std::vector<RopeGrid> grids;
  std::vector<RopeAxis> axes;

  RopeAxes(const Tensor& cos, const Tensor& sin, std::span<const int32_t> gridList, int64_t tokenStart,
           int64_t count, int64_t d, double theta) {
    GOKU_CHECK(d >= 2 && d % 2 == 0, "ropeTable: d is ", d, ", want an even number from 2");
    GOKU_CHECK(theta > 0, "ropeTable: theta is ", theta, ", want above 0");
    for (const Tensor* x : {&cos, &sin}) {
      GOKU_CHECK(x->dtype == DType::kF32 && x->count == count * d / 2, "ropeTable: cos or sin is ",
                 dtypeName(x->dtype), " of ", x->count, " elements, want f32 of ", count * d / 2);
    }
    grids = layOut(gridList, tokenStart + count);
    const std::array<int64_t, 3> channels = ropeSplit(d);
    for (size_t a = 0; a < 3; a++) {
      int64_t positions = 0;
      for (const RopeGrid& grid : grids) positions = std::max(positions, grid.extent[a]);
      axes.emplace_back(channels[a], positions, theta);
    }
  }
};

}  // namespace goku
