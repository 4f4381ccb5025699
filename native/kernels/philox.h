// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC11) and Box-Muller normals.
//   words(counter c, key k) -> 4 words;  counter of element e: (e / 4, which, step, stream), key: the two
//   halves of seed u = (word + 0.5) / 2^32;  radius = sqrt(-2 ln u1), angle = 2 pi u2;  normals: radius
//   cos(angle), radius sin(angle)
// Elements 4i, 4i+1 come from words 0, 1 of counter i, elements 4i+2, 4i+3 from words 2, 3.
//
// A number depends on its counter only, never on where a rank's part begins, and its bits must be the same on
// every machine: logarithm, sine and cosine are our own, in f64 with fixed operations, and not the C
// library's.
#pragma once

#include <array>
#include <cstdint>

#include "native/tensor.h"

namespace goku {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

struct NormalStream {
  uint64_t seed;
  uint32_t stream;
  uint32_t step;
  uint32_t which;
};

/// out[offset + i] = float(scale * normal(elementStart + i)) for i < count; each normal is rounded to f32
/// before it is scaled in f64. elementStart + count may be 2^34 at most.
void philoxNormal(const Tensor& out, int64_t offset, int64_t count, const NormalStream& stream,
                  int64_t elementStart, double scale);

}  // namespace goku
