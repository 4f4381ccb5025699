// The tensor memory of a neighbour in another process, as far as it has lent of it.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "native/allocator.h"

namespace goku::collectives {

class PeerMemory {
 public:
  /// `member` of the group is process `pid`, whose rank is `rank`.
  PeerMemory(int member, int rank, int64_t pid) : member_(member), rank_(rank), pid_(pid) {}
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  /// The bytes at that place. The first view of a segment maps all of it, for as long as this lives: also
  /// when the process has died. Throws LinkBroken where that cannot be done: the member may have died or
  /// given up meanwhile.
  std::span<const std::byte> view(const SharedPlace& place, size_t bytes);

 private:
  std::span<const std::byte> map(const SharedPlace& place);

  int member_;
  int rank_;
  int64_t pid_;
  std::unordered_map<uint32_t, std::span<const std::byte>> segments_;
};

}  // namespace goku::collectives
