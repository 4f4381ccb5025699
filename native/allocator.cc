#include "native/allocator.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <utility>

#include "native/error.h"

namespace goku {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSegmentBytes = size_t{256} << 20;

size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

uint32_t nextSegmentNumber() {
  static std::atomic<uint32_t> last = 0;
  return ++last;
}

Allocator::~Allocator() {
  for (const auto& [start, segment] : segments_) memory::unmapSegment(segment.memory);
}

std::byte* Allocator::allocate(size_t bytes) {
  const size_t size = std::max(roundUp(bytes, kAlignment), kAlignment);
  std::lock_guard lock(mutex_);
  auto fit = free_.lower_bound({size, nullptr});
  if (fit == free_.end()) {
    addSegment(size);
    fit = free_.lower_bound({size, nullptr});
  }
  std::byte* start = fit->second;
  free_.erase(fit);
  const auto block = blocks_.find(start);
  if (block->second.bytes > size) {
    std::byte* rest = start + size;
    const size_t restBytes = block->second.bytes - size;
    blocks_.emplace_hint(std::next(block), rest, Block{restBytes, block->second.segment, true});
    free_.emplace(restBytes, rest);
    block->second.bytes = size;
  }
  block->second.free = false;
  Segment& segment = block->second.segment->second;
  const size_t end = static_cast<size_t>(start - block->second.segment->first) + size;
  segment.touchedBytes = std::max(segment.touchedBytes, end);
  segment.liveBytes += size;
  live_.emplace(start, block);
  liveBytes_ += size;
  peakBytes_ = std::max(peakBytes_, liveBytes_);
  return start;
}

void Allocator::release(std::byte* start) noexcept {
  std::lock_guard lock(mutex_);
  const auto entry = live_.find(start);
  if (entry == live_.end()) return;
  auto block = entry->second;
  live_.erase(entry);
  liveBytes_ -= block->second.bytes;
  block->second.segment->second.liveBytes -= block->second.bytes;
  block->second.free = true;
  const auto joins = [&](Blocks::iterator other) {
    return other != blocks_.end() && other->second.free && other->second.segment == block->second.segment;
  };
  if (const auto next = std::next(block); joins(next)) {
    free_.erase({next->second.bytes, next->first});
    block->second.bytes += next->second.bytes;
    blocks_.erase(next);
  }
  if (block != blocks_.begin()) {
    if (const auto previous = std::prev(block); joins(previous)) {
      free_.erase({previous->second.bytes, previous->first});
      previous->second.bytes += block->second.bytes;
      blocks_.erase(block);
      block = previous;
    }
  }
  free_.emplace(block->second.bytes, block->first);
}

std::optional<SharedPlace> Allocator::placeOf(const std::byte* address) const {
  std::lock_guard lock(mutex_);
  if (const auto next = segments_.upper_bound(address); next != segments_.begin()) {
    const auto& [start, segment] = *std::prev(next);
    const auto offset = static_cast<size_t>(address - start);
    if (offset < segment.memory.bytes) {
      if (!segment.memory.file) return std::nullopt;
      return SharedPlace{segment.memory.file.get(), segment.number, offset};
    }
  }
  if (const auto next = announced_.upper_bound(address); next != announced_.begin()) {
    const auto& [start, announced] = *std::prev(next);
    const auto offset = static_cast<size_t>(address - start);
    if (offset < announced.bytes)
      return SharedPlace{announced.place.fd, announced.place.segment, announced.place.offset + offset};
  }
  return std::nullopt;
}

void Allocator::announce(const std::byte* start, size_t bytes, const SharedPlace& place) {
  std::lock_guard lock(mutex_);
  Announced& announced = announced_[start];
  announced.bytes = std::max(announced.bytes, bytes);
  announced.place = place;
  announced.holders++;
}

void Allocator::takeBack(const std::byte* start) noexcept {
  std::lock_guard lock(mutex_);
  const auto found = announced_.find(start);
  if (found != announced_.end() && --found->second.holders == 0) announced_.erase(found);
}

AllocatorStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  size_t touched = 0;
  for (const auto& [start, segment] : segments_) touched += segment.touchedBytes;
  return {liveBytes_, peakBytes_, touched - liveBytes_};
}

void Allocator::resetPeak() {
  std::lock_guard lock(mutex_);
  peakBytes_ = liveBytes_;
}

void Allocator::addSegment(size_t wanted) {
  const size_t bytes = roundUp(std::max(wanted, kSegmentBytes), kHugePage);
  memory::Segment memory;
  if (bytes >= wanted) {
    memory = memory::mapSegment(bytes);
    if (memory.start == nullptr) {
      dropFreeSegments();
      memory = memory::mapSegment(bytes);
    }
  }
  std::byte* start = memory.start;
  if (start == nullptr) {
    throw NativeError(
        ErrorCode::kOutOfMemory,
        concat("Cannot allocate a tensor of ", wanted, " bytes: ", liveBytes_, " bytes are in use and ",
               memory::shortage(), ", use more ranks or smaller packs"));
  }
  const auto segment = segments_.emplace(start, Segment{std::move(memory), 0, 0, nextSegmentNumber()}).first;
  blocks_.emplace(start, Block{bytes, segment, true});
  free_.emplace(bytes, start);
}

void Allocator::dropFreeSegments() noexcept {
  for (auto segment = segments_.begin(); segment != segments_.end();) {
    if (segment->second.liveBytes > 0) {
      ++segment;
      continue;
    }
    // Neighbours join when freed, so a segment without live bytes is one free block.
    free_.erase({segment->second.memory.bytes, segment->first});
    blocks_.erase(segment->first);
    memory::unmapSegment(segment->second.memory);
    segment = segments_.erase(segment);
  }
}

}  // namespace goku
