// The one listening socket of a process, shared by all its groups.
//
// An accept thread reads each Hello and hands the connection to the group that it names. A group may be
// created here later than elsewhere, so connections of unknown groups are parked, bounded in number and time.
// Generations fence: once a group of generation g of a job was created here, whoever comes with less than g
// is refused.
#pragma once

#include <atomic>
#include <chrono>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "native/collectives/wire.h"
#include "native/unique_fd.h"

namespace goku::collectives {

/// Where the connections of a group under formation arrive.
class Mailbox {
 public:
  Mailbox(GroupKey key, uint64_t membersDigest, uint32_t member, uint32_t size);

  struct Arrival {
    UniqueFd fd;
    uint32_t fromMember;
    Channel channel;
  };
  const GroupKey& key() const { return key_; }
  /// Readable when something arrived.
  int wakeFd() const { return wake_.get(); }
  std::vector<Arrival> take();

 private:
  friend class Listener;
  /// Whether the hello fits this group and that connection has not come yet; if so it is booked.
  bool book(const Hello& hello);
  void unbook(const Hello& hello);
  void put(Arrival arrival);

  const GroupKey key_;
  const uint64_t membersDigest_;
  const uint32_t member_;
  const uint32_t size_;
  UniqueFd wake_;
  std::mutex mutex_;
  std::vector<Arrival> arrivals_;
  std::vector<bool> booked_;  // [member * 2 + channel]
};

struct ListenerCounters {
  uint64_t accepted = 0;
  uint64_t refusedStale = 0;
  uint64_t refusedUnknown = 0;  // its group never came, or too many were parked
  uint64_t refusedMismatch = 0;
  uint64_t refusedMalformed = 0;
  uint64_t parked = 0;  // now
};

class Listener {
 public:
  /// Throws FaultError(kIo) where the address cannot be bound.
  explicit Listener(const std::string& host);
  ~Listener();
  uint16_t port() const { return port_; }

  /// Begins handing connections to the mailbox, parked ones first. Throws FaultError where the key is taken
  /// (kArgument) or a newer generation of the job was here before (kAborted).
  void expect(std::shared_ptr<Mailbox> mailbox);
  void forget(const std::shared_ptr<Mailbox>& mailbox);
  ListenerCounters counters();

 private:
  using Clock = std::chrono::steady_clock;
  struct Guest {
    UniqueFd fd;
    Clock::time_point deadline;
    std::vector<std::byte> bytes;
    Hello hello;
    bool parked = false;
    bool done = false;
  };
  void run();
  void accept();
  void read(Guest& guest);
  void route(Guest& guest);
  void refuse(Guest& guest, WelcomeStatus status, uint64_t ListenerCounters::*counter);
  uint64_t newestOf(const std::string& job) const;
  int pollTimeoutMs() const;

  UniqueFd listening_;
  UniqueFd wake_;
  uint16_t port_ = 0;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // guards everything below
  std::list<Guest> guests_;
  std::vector<std::shared_ptr<Mailbox>> mailboxes_;
  std::map<std::string, uint64_t> newest_;
  ListenerCounters counters_;
  Clock::time_point acceptAgainAt_;
  std::thread thread_;
};

}  // namespace goku::collectives
