// Runs one collective of a group: moves all its transfers forward, whichever can move, and sleeps when none
// can.
//
// A collective is a list of transfers (bytes to a member, bytes from a member, a fold of what members send).
// All run at once, full duplex over all peers; none waits for another unless its data does. Every pair of
// members exchanges an announcement, whether or not bytes follow: the end of a collective on one member
// implies that all have entered it, and a member that calls something else is found out before its bytes are
// used.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "native/collectives/link.h"
#include "native/collectives/mesh.h"
#include "native/collectives/shm_link.h"
#include "native/collectives/waiter.h"

namespace goku::collectives {

/// A run of bytes on its way. step() moves some of them and tells whether it did.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual bool step() = 0;
  virtual bool done() const = 0;
  /// The member it cannot go on without, -1: none.
  virtual int waitingFor() const { return -1; }
};

/// The lines of a formed group. Built by Forming, used by the group's thread.
struct Lines {
  std::unique_ptr<Segment> segment;
  std::unique_ptr<Waiter> waiter;
  std::vector<std::unique_ptr<Link>> links;  // by member; null for this one
  std::unique_ptr<SharedOut> sharedOut;      // null without neighbours on the node
  std::vector<int> localMembers;             // index in the segment -> member, this one included
  int self = 0;                              // this member's index in the segment
};

/// What every member says of a collective, and what it expects of the others.
struct Terms {
  uint64_t sequence = 0;
  uint32_t signature = 0;
  const char* name = "";
  std::vector<uint64_t> bytesTo;    // payload to each member
  std::vector<uint64_t> bytesFrom;  // payload from each member
};

class Exchange {
 public:
  Exchange(const GroupOptions& options, Mesh& mesh, Lines& lines)
      : options_(options), mesh_(mesh), lines_(lines) {}
  /// Enters, runs the transfers to their end, and returns once all members have entered. Throws FaultError.
  void run(const Terms& terms, std::vector<std::unique_ptr<Transfer>>& transfers);
  Link& link(int member) { return *lines_.links[member]; }
  Lines& lines() { return lines_; }
  /// Whether `member` has entered the running collective on terms that fit ours. Throws where they do not
  /// fit.
  bool entered(int member);

 private:
  void move(std::vector<std::unique_ptr<Transfer>>& transfers);
  void enter(const Terms& terms);
  bool stepAll(std::vector<std::unique_ptr<Transfer>>& transfers, bool* done);
  void checkLeft() const;
  [[noreturn]] void throwTimeout(const std::vector<std::unique_ptr<Transfer>>& transfers);

  const GroupOptions& options_;
  Mesh& mesh_;
  Lines& lines_;
  const Terms* terms_ = nullptr;
  std::vector<bool> entered_;
  std::vector<pollfd> data_;
};

}  // namespace goku::collectives
