// native/collectives/fold.h on the device: the same sums in the same order, and so the same bits.
#pragma once

#include <cstddef>
#include <span>

#include "native/collectives/options.h"
#include "native/tensor.h"

namespace goku {

/// out[i] = op(... op(op(first[i], rest[0][i]), rest[1][i]) ..., rest[K-1][i]) on the compute stream of the
/// calling thread. Device memory, aligned to dtype, which is f32 or f64. `out` may be `first` or any of
/// `rest` (same place, not shifted).
void foldOnDevice(DType dtype, collectives::Reduction op, std::byte* out, const std::byte* first,
                  std::span<const std::byte* const> rest, size_t count);

}  // namespace goku
