// Memory for tensors: large segments from the system, cut best-fit, neighbours joined again when freed.
//
// A training step asks for the same sizes every time; going to the system for each would cost a page fault
// per 4 KiB (longer than most kernels take on those bytes), and caching by exact size would keep one copy of
// every size ever seen. Segments are only touched as far as they were ever used, so resident memory follows
// the peak.
//
// A segment of the machine's memory is a file without a name: other ranks of the node map it and read a
// tensor where it lies (docs/decisions/013). A segment of a device is nobody else's. What is freed may be
// handed out again at once: kernels of one process run in the order of their calls, so the next user comes
// later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <unordered_map>

#include "native/tensor_memory.h"

namespace goku {

struct AllocatorStats {
  size_t liveBytes = 0;    // handed out, rounded up to 64 each
  size_t peakBytes = 0;    // high-water mark of liveBytes since resetPeak
  size_t cachedBytes = 0;  // touched before, free now
};

/// A number for memory that other processes may map, never given twice in this process.
uint32_t nextSegmentNumber();

/// Where another process finds memory of this one.
struct SharedPlace {
  int fd = -1;           // /proc/PID/fd/FD, open as long as the segment is there
  uint32_t segment = 0;  // never that of another segment, as `fd` may be later
  size_t offset = 0;     // bytes from the segment's start
};

class Allocator {
 public:
  Allocator() = default;
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  /// 64-byte aligned, contents undefined; zero bytes give a valid block too. Throws NATIVE_OUT_OF_MEMORY.
  std::byte* allocate(size_t bytes);
  /// Any thread.
  void release(std::byte* block) noexcept;
  /// Empty for memory that is neither of this allocator nor announced to it.
  std::optional<SharedPlace> placeOf(const std::byte* address) const;
  /// Announces memory of somebody else's that other processes find at `place`; to be taken back as often.
  void announce(const std::byte* start, size_t bytes, const SharedPlace& place);
  void takeBack(const std::byte* start) noexcept;
  AllocatorStats stats() const;
  void resetPeak();

 private:
  struct Segment {
    memory::Segment memory;
    size_t touchedBytes = 0;  // from its start; beyond that no page was ever used
    size_t liveBytes = 0;
    uint32_t number = 0;
  };
  using Segments = std::map<std::byte*, Segment, std::less<>>;
  struct Block {
    size_t bytes;
    Segments::iterator segment;
    bool free;
  };
  using Blocks = std::map<std::byte*, Block>;

  void addSegment(size_t bytes);
  void dropFreeSegments() noexcept;

  struct Announced {
    size_t bytes = 0;
    SharedPlace place;
    int holders = 0;
  };

  mutable std::mutex mutex_;
  Segments segments_;
  std::map<const std::byte*, Announced> announced_;
  Blocks blocks_;                                 // all, by address, without gaps inside a segment
  std::set<std::pair<size_t, std::byte*>> free_;  // by size, then address
  std::unordered_map<std::byte*, Blocks::iterator> live_;
  size_t liveBytes_ = 0;
  size_t peakBytes_ = 0;
};

/// A block of allocator memory for the length of a scope. Contents are undefined.
class Scratch {
 public:
  Scratch(Allocator& allocator, size_t bytes) : allocator_(allocator), data_(allocator.allocate(bytes)) {}
  ~Scratch() { allocator_.release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::byte* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }

 private:
  Allocator& allocator_;
  std::byte* data_;
};

}  // namespace goku
