// The control connections of a group: one to every other member, whether payload goes over TCP or shared
// memory.
//
// They tell in one place everything that can end a wait: the abort word, commAbort, a peer's abort frame (it
// names the culprit), and a peer's death: its connection closes without a goodbye, or its process handle
// fires. Every member watches every other one, so the death of a rank is seen first hand by all, not only by
// its neighbours. Used by the group's own thread only, but for requestAbort.
#pragma once

#include <poll.h>

#include <array>
#include <atomic>
#include <vector>

#include "native/collectives/fault.h"
#include "native/collectives/link.h"
#include "native/collectives/options.h"
#include "native/collectives/wire.h"
#include "native/unique_fd.h"

namespace goku::collectives {

class Mesh {
 public:
  explicit Mesh(const GroupOptions& options);

  /// Adopts the control connection to `member`.
  void connect(int member, UniqueFd control);
  bool connected(int member) const { return static_cast<bool>(peers_[member].control); }

  /// What the members have told while the group formed.
  struct Peer {
    UniqueFd control;
    UniqueFd process;             // pidfd of a member on this node, where the kernel gives one
    bool left = false;            // said goodbye, or why it goes
    const char* death = nullptr;  // how it was seen to die; no death when it had left
    bool ready = false;
    uint64_t segmentNonce = 0;  // of a kSegmentReady or kSegmentMapped frame
    uint64_t segmentPlace = 0;
    std::array<std::byte, sizeof(ControlFrame)> partial;
    size_t partialBytes = 0;
  };
  const Peer& peer(int member) const { return peers_[member]; }

  void send(int member, const ControlFrame& frame) noexcept;
  void sendAll(const ControlFrame& frame) noexcept;

  /// Throws where the abort word or commAbort says so. Cheap: two loads.
  void checkAborted() const;
  /// Reads all that has arrived, then throws the fault that knows most: an abort frame that names a culprit
  /// (its sender saw the cause), else a death seen here, else any abort frame. Never blocks.
  void pump();
  /// Adds what to poll: wake-up event, control connections, process handles.
  void appendPollFds(std::vector<pollfd>& fds) const;
  /// The line to a member has broken: finds out why and throws it.
  [[noreturn]] void explainBroken(const LinkBroken& broken);

  /// From any thread: the group's waits end with COMM_ABORTED.
  void requestAbort();
  /// From any thread: the group's thread leaves poll().
  void wake();

 private:
  void readProcess(int member);
  void read(int member);
  /// False where the frame is none of ours: bytes from the network are not believed.
  bool handle(int member, const ControlFrame& frame);
  Fault toldFault(int member, const ControlFrame& frame) const;
  [[noreturn]] void throwDied(int member, const char* how);

  const GroupOptions& options_;
  std::vector<Peer> peers_;
  UniqueFd wake_;
  std::optional<Fault> told_;  // by an abort frame
  std::atomic<bool> abortRequested_{false};
};

}  // namespace goku::collectives
