// What a member says to one other member: an announcement per collective, then the announced bytes, each way.
//
// Two ways to say it: rings in shared memory (ShmLink) and a data connection (TcpLink). Bytes arrive in order
// and are cut anywhere; nothing here blocks. The fixed order of additions lives above, so both give the same
// bits.
#pragma once

#include <poll.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/collectives/segment.h"
#include "native/error.h"

namespace goku::collectives {

class Link {
 public:
  virtual ~Link() = default;
  /// Enters a collective; its announcement goes out with the first send() or flush().
  virtual void begin(const Announcement& mine) = 0;
  /// True once the announcement is out and the peer reads no more of the memory that was sent from.
  virtual bool flush() = 0;
  /// The peer's announcement of the collective begun here, once it has arrived.
  virtual const std::optional<Announcement>& announced() = 0;

  /// Takes some of the bytes, 0 where there is no room now.
  virtual size_t send(const std::byte* from, size_t bytes) = 0;
  /// Copies some bytes out, 0 where none have arrived. `around`: past the caches, for large payloads.
  virtual size_t receive(std::byte* into, size_t bytes, bool around) = 0;
  /// Bytes that have arrived, where they lie, at most `bytes`; stays valid until consume().
  virtual std::span<const std::byte> peek(size_t bytes) = 0;
  virtual void consume(size_t bytes) = 0;
  /// As receive(), from what the peer writes once for all its neighbours; those without shared memory have no
  /// such.
  virtual size_t receiveShared(std::byte* into, size_t bytes, bool around) = 0;

  /// Adds the connection with what the calls since the last round() could not do.
  virtual void appendPollFds(std::vector<pollfd>& fds) const = 0;
  virtual void round() = 0;
};

/// The line to `member`, a connection or its memory, broke: its reason is on the control connection.
struct LinkBroken {
  int member;
  /// What is told where the control connection gives no reason: that the member died, or, with another code,
  /// what could not be done with it.
  std::string how = "its data connection broke";
  ErrorCode code = ErrorCode::kPeerDied;
};

}  // namespace goku::collectives
