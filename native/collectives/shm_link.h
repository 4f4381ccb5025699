// Rings to and from one neighbour on this node.
#pragma once

#include "native/collectives/link.h"
#include "native/collectives/peer_memory.h"
#include "native/collectives/waiter.h"

namespace goku::collectives {

class ShmLink : public Link {
 public:
  /// `self` and `peer` are indices in the segment, `member` is the peer's in the group; `tensors` holds what
  /// may be lent.
  ShmLink(const GroupOptions& options, Segment& segment, Waiter& waiter, int self, int peer, int member);
  void begin(const Announcement& mine) override;
  // Segment::enter has told all neighbours of the collective at once.
  bool flush() override { return out_.borrower() < 0; }
  const std::optional<Announcement>& announced() override;
  size_t send(const std::byte* from, size_t bytes) override;
  size_t receive(std::byte* into, size_t bytes, bool around) override;
  std::span<const std::byte> peek(size_t bytes) override;
  void consume(size_t bytes) override;
  size_t receiveShared(std::byte* into, size_t bytes, bool around) override;
  void appendPollFds(std::vector<pollfd>&) const override {}
  void round() override {}

 private:
  size_t take(RingReader& ring, std::byte* into, size_t bytes, bool around);
  void giveBack(RingReader& ring, size_t bytes);

  const GroupOptions& options_;
  Segment& segment_;
  Waiter& waiter_;
  int self_;
  int peer_;
  int member_;
  PeerMemory memory_;
  RingWriter out_;
  RingReader in_;
  RingReader sharedIn_;
  uint64_t sequence_ = 0;
  std::optional<Announcement> announced_;
};

/// The ring that this member writes once and all its neighbours read.
class SharedOut {
 public:
  SharedOut(const GroupOptions& options, Segment& segment, Waiter& waiter, int self)
      : options_(options), waiter_(waiter), self_(self), out_(segment.sharedWriter(self)) {}
  /// Takes some of the bytes, 0 where a reader is too far behind.
  size_t send(const std::byte* from, size_t bytes);
  /// A neighbour, by its index in the segment, that still reads what was sent; -1: none.
  int borrower() const;

 private:
  const GroupOptions& options_;
  Waiter& waiter_;
  int self_;
  RingWriter out_;
};

}  // namespace goku::collectives
