// Memory for tensors: large segments from the system, cut best-fit, neighbours joined again when freed.
//
// A training step asks for the same sizes every time; going to the system for each would cost a page fault
// per 4 KiB (longer than most kernels take on those bytes), and caching by exact size would keep one copy of
// every size ever seen. Segments are only touched as far as they were ever used, so resident memory follows
// the peak.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace goku {

struct AllocatorStats {
  size_t liveBytes = 0;    // handed out, rounded up to 64 each
  size_t peakBytes = 0;    // high-water mark of liveBytes since resetPeak
  size_t cachedBytes = 0;  // touched before, free now
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
  AllocatorStats stats() const;
  void resetPeak();

 private:
  struct Segment {
    size_t bytes = 0;
    size_t touchedBytes = 0;  // from its start; beyond that no page was ever used
    size_t liveBytes = 0;
  };
  using Segments = std::map<std::byte*, Segment>;
  struct Block {
    size_t bytes;
    Segments::iterator segment;
    bool free;
  };
  using Blocks = std::map<std::byte*, Block>;

  void addSegment(size_t bytes);
  void dropFreeSegments() noexcept;

  mutable std::mutex mutex_;
  Segments segments_;
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
