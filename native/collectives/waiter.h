// How a group's thread waits: asleep, yet never longer than a slice without looking at what may end the wait.
//
// Between members of one node the wake-up is a futex in shared memory; where there is a data connection, it
// is poll() over all of them, and neighbours on the node ring through the control connection. Waiting is
// passive, since ranks may be more than cores.
#pragma once

#include <poll.h>

#include <chrono>
#include <vector>

#include "native/collectives/mesh.h"
#include "native/collectives/segment.h"

namespace goku::collectives {

/// A rank notices an abort word, which has no wake-up of its own, within this time.
inline constexpr int kSliceMs = 20;

class Waiter {
 public:
  /// `segment` may be null (no neighbour on this node). `localMembers`: index in the segment -> member of the
  /// group.
  Waiter(const GroupOptions& options, Mesh& mesh, Segment* segment, std::vector<int> localMembers);

  /// Begins a collective: its time runs from now.
  void begin();
  /// What to hand to `sleep`: taken before looking for work.
  uint32_t seen() const;
  /// Sleeps until something has happened since `seen`, at most a slice. Throws the fault that ends the wait;
  /// false when the time of the collective is over.
  bool sleep(uint32_t seen, const std::vector<pollfd>& data);
  /// To be called between pieces of work: notices an abort while there is no need to sleep.
  void glance();
  /// Sleeps for `time` beside work of a device; false when the time of the collective is over. Throws as
  /// sleep().
  bool rest(std::chrono::microseconds time);
  /// Wakes a neighbour on this node after shared memory has changed.
  void ring(int localMember);
  void ringAll();
  /// From any thread: ends the sleep.
  void wake();

 private:
  using Clock = std::chrono::steady_clock;
  bool look();

  const GroupOptions& options_;
  Mesh& mesh_;
  Segment* segment_;
  std::vector<int> localMembers_;
  int self_ = 0;  // index in the segment
  bool remote_ = false;
  Clock::time_point deadline_;
  Clock::time_point looked_;
  std::vector<pollfd> fds_;
};

}  // namespace goku::collectives
