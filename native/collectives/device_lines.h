// Lines from device to device, beside those of the host (exchange.h), for payload that lies on devices. The
// members of a group agree on them when it forms; every operation is announced over the host's lines first,
// so that a member that is late, has died or calls something else is known by name before a device waits for
// it. An addon links device_lines.cc, which has none, or cuda/nccl_lines.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "native/collectives/operation.h"
#include "native/collectives/waiter.h"

namespace goku::collectives {

/// Without further word used by the group's thread.
class DeviceLines {
 public:
  virtual ~DeviceLines() = default;
  /// Whether this operation's payload goes over them: the same answer on every member. Any thread.
  virtual bool carries(const Operation& operation) const = 0;
  /// For Operation::before: stands for what the calling thread has given the device to do until now.
  virtual std::shared_ptr<void> mark() const = 0;
  /// Returns when the device has done what was marked: this member enters the operation now. No time limit:
  /// how long a device computes is not the group's to judge.
  virtual void arrive(const Operation& operation) = 0;
  /// Returns when the result is there. Every member has entered, and its time has begun (Waiter::begin).
  virtual void run(const Operation& operation) = 0;
  /// The group goes on no more. Returns when the device uses no operation's memory any longer.
  virtual void abort() noexcept = 0;
  /// Every operation has ended well.
  virtual void close() noexcept = 0;
};

/// Over the host's lines: `all` holds `bytesEach` bytes of every member in order, this one's are there
/// already. Throws FaultError.
using HostGather = std::function<void(std::byte* all, size_t bytesEach)>;

struct DeviceLinesFormed {
  std::unique_ptr<DeviceLines> lines;  // null: payload goes over the host's
  /// What carries payload between devices; for a backend without devices empty.
  std::string carrier;
};

/// Either all members get them or none; one that cannot have them is no fault. Throws FaultError.
DeviceLinesFormed formDeviceLines(const GroupOptions& options, Waiter& waiter, const HostGather& gather);

}  // namespace goku::collectives
