// Rotary position angles of packed tokens in three axes.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "native/tensor.h"

namespace goku {

/// cos, sin: f32 [count, d/2] = of tokens tokenStart .. tokenStart + count - 1 of the pack whose samples have
/// the patch grids (t, y, x) in grids[3 S]; tokens of a sample run t-major, then y, then x.
void ropeTable(const Tensor& cos, const Tensor& sin, std::span<const int32_t> grids, int64_t tokenStart,
               int64_t count, int64_t d, double theta);

}  // namespace goku
