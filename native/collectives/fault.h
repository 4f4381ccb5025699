// Why a group cannot go on: thrown inside the group's thread, kept by the group, and told to every caller
// after.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "native/error.h"

namespace goku::collectives {

/// `peer` is a rank of the world, -1 where none is to blame. `reason` is what stands after the colon of the
/// message.
struct Fault {
  ErrorCode code = ErrorCode::kAborted;
  int peer = -1;
  std::string reason;
};

class FaultError : public std::runtime_error {
 public:
  explicit FaultError(Fault fault) : std::runtime_error(fault.reason), fault_(std::move(fault)) {}
  FaultError(ErrorCode code, int peer, std::string reason)
      : FaultError(Fault{code, peer, std::move(reason)}) {}
  const Fault& fault() const { return fault_; }

 private:
  Fault fault_;
};

}  // namespace goku::collectives
