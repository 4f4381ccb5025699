// The arithmetic of collectives.
//
//   out[i] = op(... op(op(first[i], rest[0][i]), rest[1][i]) ..., rest[K-1][i])
//
// Elements are folded in exactly this order, whatever the vector width: the bits of a sum depend on the order
// of members alone. Slow twin: the fold in test/native/collectives.test.ts.
#pragma once

#include <cstddef>
#include <span>

#include "native/collectives/options.h"
#include "native/tensor.h"

namespace goku::collectives {

/// `out` may be `first` or any of `rest` (same place, not shifted). dtype is f32 or f64; pointers are aligned
/// to it.
void fold(DType dtype, Reduction op, std::byte* out, const std::byte* first,
          std::span<const std::byte* const> rest, size_t count);

}  // namespace goku::collectives
