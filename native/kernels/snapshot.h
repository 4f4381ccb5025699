// A snapshot of tensors that are about to change: copies of them elsewhere (on a device: in page-locked
// memory of the host), and checksums, made beside whatever is launched later.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "native/tensor.h"

namespace goku {

/// One under way; holds its tensors. Used by the thread that started it. Its end waits for the copies.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  /// What is launched from here on may write the tensors that are copied; the host goes on at once.
  virtual void fence() = 0;
  /// Waits for the copies; checksums (empty: not wanted) (=) CRC-32 of each MiB of each tensor, one tensor
  /// after another.
  virtual void wait(std::span<uint32_t> checksums) = 0;
};

/// to[i] (=) from[i], as it is after all that has been launched; of one dtype and length, and none that
/// overlap.
std::unique_ptr<Snapshot> startSnapshot(std::vector<Tensor> from, std::vector<Tensor> to);

}  // namespace goku
