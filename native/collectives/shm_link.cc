#include "native/collectives/shm_link.h"

#include <algorithm>
#include <cstring>

#include "native/copy_around.h"

namespace goku::collectives {
namespace {

// Below this size a copy costs less than to wait for the end of a loan.
constexpr size_t kLoanBytesMin = 64 << 10;
// One step of a copy: short enough to serve the other peers in between.
constexpr size_t kStepBytes = 256 << 10;

/// Lends all of the bytes, or copies some into a slot; 0 where none is free.
size_t put(RingWriter& ring, const Allocator& tensors, const std::byte* from, size_t bytes) {
  const std::span<std::byte> slot = ring.reserve();
  if (slot.empty()) return 0;
  if (bytes >= kLoanBytesMin) {
    if (const std::optional<SharedPlace> place = tensors.placeOf(from)) {
      ring.lend({*place, bytes});
      return bytes;
    }
  }
  const size_t count = std::min(slot.size(), bytes);
  std::memcpy(slot.data(), from, count);
  ring.publish(static_cast<uint32_t>(count));
  return count;
}

}  // namespace

ShmLink::ShmLink(const GroupOptions& options, Segment& segment, Waiter& waiter, int self, int peer,
                 int member)
    : options_(options),
      segment_(segment),
      waiter_(waiter),
      self_(self),
      peer_(peer),
      member_(member),
      memory_(member, options.members[member].rank, options.members[member].pid),
      out_(segment.pairWriter(self, peer)),
      in_(segment.pairReader(peer, self, memory_)),
      sharedIn_(segment.sharedReader(peer, self, memory_)) {}

void ShmLink::begin(const Announcement& mine) {
  sequence_ = mine.sequence;
  announced_.reset();
}

const std::optional<Announcement>& ShmLink::announced() {
  if (!announced_) {
    Announcement theirs;
    if (segment_.entered(peer_, self_, sequence_, &theirs)) announced_ = theirs;
  }
  return announced_;
}

size_t ShmLink::send(const std::byte* from, size_t bytes) {
  const size_t count = put(out_, *options_.tensors, from, bytes);
  if (count > 0) waiter_.ring(peer_);
  return count;
}

size_t ShmLink::receive(std::byte* into, size_t bytes, bool around) { return take(in_, into, bytes, around); }

size_t ShmLink::receiveShared(std::byte* into, size_t bytes, bool around) {
  return take(sharedIn_, into, bytes, around);
}

std::span<const std::byte> ShmLink::peek(size_t bytes) {
  const std::span<const std::byte> front = in_.front();
  return front.first(std::min(front.size(), bytes));
}

void ShmLink::consume(size_t bytes) {
  if (bytes > 0) giveBack(in_, bytes);
}

size_t ShmLink::take(RingReader& ring, std::byte* into, size_t bytes, bool around) {
  const std::span<const std::byte> front = ring.front();
  const size_t count = std::min({front.size(), bytes, kStepBytes});
  if (count == 0) return 0;
  if (around) {
    copyAround(into, front.data(), count);
  } else {
    std::memcpy(into, front.data(), count);
  }
  giveBack(ring, count);
  return count;
}

void ShmLink::giveBack(RingReader& ring, size_t bytes) {
  // A neighbour that gave up may have used its memory for something else while it was read here.
  if (ring.lent() && segment_.withdrawn(peer_)) {
    throw LinkBroken{member_, concat("rank ", options_.members[member_].rank, " gave up"),
                     ErrorCode::kAborted};
  }
  if (ring.consume(bytes)) waiter_.ring(peer_);
}

size_t SharedOut::send(const std::byte* from, size_t bytes) {
  const size_t count = put(out_, *options_.tensors, from, bytes);
  if (count > 0) waiter_.ringAll();
  return count;
}

int SharedOut::borrower() const {
  const int reader = out_.borrower();
  return reader < 0 || reader < self_ ? reader : reader + 1;
}

}  // namespace goku::collectives
