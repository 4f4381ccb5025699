// Collectives of the host work on the host's memory. Tensors of the CPU backend lie there; those of the CUDA
// backend are copied there before a collective starts, and back when its caller has waited for it. An addon
// links staging.cc or cuda/staging.cc.
#pragma once

#include <memory>

#include "native/collectives/operation.h"

namespace goku::collectives {

/// Copies that stand for an operation's tensors while it runs; used by the caller's thread alone.
class Staged {
 public:
  virtual ~Staged() = default;
  /// The operation has ended well: its result goes where it belongs.
  virtual void place() = 0;
};

/// Puts copies in the place of the operation's tensors. Null: they can be used as they are.
std::unique_ptr<Staged> stage(Operation& operation);

}  // namespace goku::collectives
