#include "native/collectives/shm_link.h"

#include <algorithm>
#include <cstring>

#include "native/collectives/copy.h"

namespace goku::collectives {

ShmLink::ShmLink(Segment& segment, Waiter& waiter, int self, int peer)
    : segment_(segment),
      waiter_(waiter),
      self_(self),
      peer_(peer),
      out_(segment.pairWriter(self, peer)),
      in_(segment.pairReader(peer, self)),
      sharedIn_(segment.sharedReader(peer, self)) {}

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
  const std::span<std::byte> slot = out_.reserve();
  const size_t count = std::min(slot.size(), bytes);
  if (count == 0) return 0;
  std::memcpy(slot.data(), from, count);  // stays in the cache for its readers
  out_.publish(static_cast<uint32_t>(count));
  waiter_.ring(peer_);
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
  if (bytes > 0 && in_.consume(bytes)) waiter_.ring(peer_);
}

size_t ShmLink::take(RingReader& ring, std::byte* into, size_t bytes, bool around) {
  const std::span<const std::byte> front = ring.front();
  const size_t count = std::min(front.size(), bytes);
  if (count == 0) return 0;
  if (around) {
    copyAround(into, front.data(), count);
  } else {
    std::memcpy(into, front.data(), count);
  }
  if (ring.consume(count)) waiter_.ring(peer_);
  return count;
}

size_t SharedOut::send(const std::byte* from, size_t bytes) {
  const std::span<std::byte> slot = out_.reserve();
  const size_t count = std::min(slot.size(), bytes);
  if (count == 0) return 0;
  std::memcpy(slot.data(), from, count);  // stays in the cache for its readers
  out_.publish(static_cast<uint32_t>(count));
  waiter_.ringAll();
  return count;
}

}  // namespace goku::collectives
