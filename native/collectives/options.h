// What a group is made of: CommOptions and CommEndpoint of worker/engine/native.ts, same names, same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "native/allocator.h"

namespace goku::collectives {

struct Endpoint {
  int rank = 0;  // in the world
  std::string nodeId;
  std::string host;
  uint16_t port = 0;
  int64_t pid = 0;
};

struct GroupOptions {
  std::string name;
  std::string job;
  uint64_t generation = 0;
  int rank = 0;  // index of this process in `members`
  std::vector<Endpoint> members;
  std::shared_ptr<const std::byte> abortPage;  // held, so that it outlives pageUnmap
  std::shared_ptr<std::byte> progressPage;
  std::shared_ptr<const Allocator> tensors;  // whose memory may be lent to members on this node
  double timeoutMs = 0;
  double reachMs = 0;
  bool tcpOnly = false;   // transport "tcp"
  bool hostOnly = false;  // transport "tcp" or "host": no lines between devices

  int size() const { return static_cast<int>(members.size()); }
  /// Whether members `a` and `b` exchange payload through shared memory.
  bool local(int a, int b) const { return !tcpOnly && members[a].nodeId == members[b].nodeId; }
};

/// `op` of allReduceStart. Max and min let NaN through, whichever member holds it.
enum class Reduction : uint8_t { kSum = 0, kMax = 1, kMin = 2 };

}  // namespace goku::collectives
