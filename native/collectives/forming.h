// From a list of members to connected lines: the whole of commCreate that involves peers.
//
//   1. The member with the higher index dials the listener of the lower one: a control connection to
//   everybody, a
//      data connection where no memory is shared.
//   2. On each node the first member creates a shared-memory segment without a name, and tells its mark and
//   which
//      descriptor of its process it is, by which the others open it (/proc): no crash leaves anything behind.
//   3. Everyone tells everyone that it is ready: the group exists on all members or on none.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "native/collectives/exchange.h"
#include "native/collectives/listener.h"
#include "native/collectives/mesh.h"

namespace goku::collectives {

class Forming {
 public:
  /// `listener` may be null where nobody dials this member: in a group of one.
  Forming(const GroupOptions& options, Mesh& mesh, Listener* listener);
  ~Forming();
  /// Runs on the group's thread; throws FaultError.
  Lines run();

 private:
  using Clock = std::chrono::steady_clock;
  /// One outgoing connection on its way.
  struct Dial {
    Dial(int member, Channel channel) : member(member), channel(channel) {}
    int member;
    Channel channel;
    UniqueFd fd;
    bool connected = false;
    Welcome welcome;
    size_t welcomeBytes = 0;
    Clock::time_point retryAt;
    Clock::time_point refusedSince;  // epoch: never
    Clock::time_point begun;
    bool done = false;
  };
  void startDials();
  void stepDial(Dial& dial);
  void dialFailed(Dial& dial, int error);
  void requireAnswer(const Dial& dial) const;
  void readWelcome(Dial& dial);
  void takeArrivals();
  void adopt(int member, Channel channel, UniqueFd fd);
  bool connected() const;
  void connectAll();
  void wait(int timeoutMs);
  std::unique_ptr<Segment> shareMemory();
  std::unique_ptr<Segment> createMemory();
  void awaitAllReady();
  template <class Ready>
  void waitUntil(const char* what, const std::vector<int>& members, const Ready& ready);
  [[noreturn]] void throwTimeout(int member, const char* what) const;

  const GroupOptions& options_;
  Mesh& mesh_;
  Listener* listener_;
  std::shared_ptr<Mailbox> mailbox_;
  Clock::time_point deadline_;
  std::vector<Dial> dials_;
  std::vector<UniqueFd> data_;  // by member
  std::vector<int> local_;      // members of this node, this one included
};

/// What members compare before they trust each other's idea of the group.
uint64_t membersDigest(const GroupOptions& options);

}  // namespace goku::collectives
