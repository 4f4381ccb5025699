// Rings to and from one neighbour on this node.
#pragma once

#include "native/collectives/link.h"
#include "native/collectives/waiter.h"

namespace goku::collectives {

class ShmLink : public Link {
 public:
  /// `self` and `peer` are indices in the segment.
  ShmLink(Segment& segment, Waiter& waiter, int self, int peer);
  void begin(const Announcement& mine) override;
  bool flush() override { return true; }  // Segment::enter has told all neighbours at once
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

  Segment& segment_;
  Waiter& waiter_;
  int self_;
  int peer_;
  RingWriter out_;
  RingReader in_;
  RingReader sharedIn_;
  uint64_t sequence_ = 0;
  std::optional<Announcement> announced_;
};

/// The ring that this member writes once and all its neighbours read.
class SharedOut {
 public:
  SharedOut(Segment& segment, Waiter& waiter, int self) : waiter_(waiter), out_(segment.sharedWriter(self)) {}
  /// Takes some of the bytes, 0 where a reader is too far behind.
  size_t send(const std::byte* from, size_t bytes);

 private:
  Waiter& waiter_;
  RingWriter out_;
};

}  // namespace goku::collectives
