// Which bytes go where in each collective: from an Operation to the transfers of one member.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "native/collectives/exchange.h"
#include "native/collectives/operation.h"

namespace goku::collectives {

struct Schedule {
  Terms terms;
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::vector<std::byte> scratch;
  /// What is left to do here once all bytes are there; may be empty.
  std::function<void()> finish;
  /// Payload of this member, sent and received, for the progress page.
  uint64_t bytes() const;
  /// Leaves what is said of the collective; its payload goes from device to device.
  void announceOnly();
};

/// The operation's counts and types have been checked by the caller. `sequence` counts from 1 in the group.
Schedule makeSchedule(const GroupOptions& options, Exchange& exchange, const Operation& operation,
                      uint64_t sequence);

}  // namespace goku::collectives
