// The shared memory of a group's members on one node.
//
// Layout, in this order, each part on its own cache lines:
//   header             nonce, the mark of this segment
//   cells[L]           per member: its bell (futex word), and the collective it has entered
//   pair lines[L*L]    cursors of the ring from member w to member r
//   shared lines[L]    cursors of the ring that member w writes once and all others read
//   slots              payload of the rings
// One writer per word, all lock-free: a member that is killed at any instruction leaves nothing locked.
//
// Payload is copied through small slots: they stay in the cache, and one copy serves all readers. Reading the
// sender's memory with process_vm_readv instead was built, measured and dropped; alternating runs, 64 MB
// among 4 ranks on 2 cores, ms against slots: all-gather 29 (20), broadcast 26 (15), all-reduce 48 (40),
// reduce-scatter 24 (24), all-to-all 28 (27). It would also need the permission to trace the peer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "native/collectives/unique_fd.h"

namespace goku::collectives {

/// One node's members of a group; bounds the arrays below.
inline constexpr int kLocalMembersMax = 64;
inline constexpr uint32_t kSlotsMax = 8;

/// What a member announces when it enters a collective.
struct Announcement {
  uint64_t sequence = 0;
  uint32_t signature = 0;
  uint64_t bytes = 0;   // payload that it sends to the reader
  uint64_t wanted = 0;  // payload that it expects of the reader
};

struct SegmentShape {
  explicit SegmentShape(int members);
  int members;
  uint32_t pairSlots, pairSlotBytes;
  uint32_t sharedSlots, sharedSlotBytes;
  size_t cells, pairLines, sharedLines, pairData, sharedData, bytes;  // offsets, then the size of all
};

/// A cursor on its own cache line.
struct alignas(64) Cursor {
  std::atomic<uint64_t> value;
};
struct alignas(64) RingLine {
  std::atomic<uint64_t> written;  // slots published so far
  uint32_t lengths[kSlotsMax];    // bytes in each slot, written before `written`
};

/// Writing end of a ring. The other ends are one reader (pair) or all other members (shared).
class RingWriter {
 public:
  RingWriter() = default;
  RingWriter(RingLine* line, Cursor* taken, int readers, std::byte* slots, uint32_t slotCount,
             uint32_t slotBytes)
      : line_(line),
        taken_(taken),
        readers_(readers),
        slots_(slots),
        slotCount_(slotCount),
        slotBytes_(slotBytes) {}
  /// A free slot, empty when the readers have not taken enough.
  std::span<std::byte> reserve();
  void publish(uint32_t bytes);

 private:
  RingLine* line_ = nullptr;
  Cursor* taken_ = nullptr;
  int readers_ = 0;
  std::byte* slots_ = nullptr;
  uint32_t slotCount_ = 0, slotBytes_ = 0;
  uint64_t written_ = 0;
  uint64_t takenByAll_ = 0;  // as last seen
};

class RingReader {
 public:
  RingReader() = default;
  RingReader(RingLine* line, Cursor* taken, const std::byte* slots, uint32_t slotCount, uint32_t slotBytes)
      : line_(line), taken_(taken), slots_(slots), slotCount_(slotCount), slotBytes_(slotBytes) {}
  /// What is left of the oldest slot, empty when nothing has arrived.
  std::span<const std::byte> front();
  /// True when that gave a slot back to the writer.
  bool consume(size_t bytes);

 private:
  RingLine* line_ = nullptr;
  Cursor* taken_ = nullptr;
  const std::byte* slots_ = nullptr;
  uint32_t slotCount_ = 0, slotBytes_ = 0;
  uint64_t takenSlots_ = 0;
  size_t offset_ = 0;
};

struct SegmentCell;

class Segment {
 public:
  /// Where other members find a segment: a descriptor of the process that created it.
  struct Place {
    uint32_t pid;
    uint32_t fd;
  };
  /// Creates a segment without a name: it goes with the last process that maps it, however that ends. `fd` is
  /// to stay open until all members have opened it. Throws FaultError.
  static Segment create(int members, UniqueFd* fd);
  /// Maps the segment that another member has created. Throws FaultError where its nonce or size is not the
  /// wanted.
  static Segment open(Place place, int members, uint64_t nonce);
  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&&) = delete;
  ~Segment();

  uint64_t nonce() const;
  size_t bytes() const { return shape_.bytes; }

  /// `announcements`: what to tell each member of this node; the one to itself is not read.
  void enter(int self, uint64_t sequence, std::span<const Announcement> announcements);
  /// Whether `member` has entered that collective; if so, what it announced to `self`.
  bool entered(int member, int self, uint64_t sequence, Announcement* announcement) const;

  RingWriter pairWriter(int from, int to) const;
  RingReader pairReader(int from, int to) const;
  RingWriter sharedWriter(int from) const;
  RingReader sharedReader(int from, int to) const;

  // Bells: a counter to sleep on. The sleeper reads it, finds nothing to do, and sleeps only if it has not
  // changed.
  enum class Sleep : uint32_t { kAwake = 0, kFutex = 1, kPoll = 2 };
  uint32_t bell(int member) const;
  /// Rings; tells how the member was sleeping. One in futex is awake now, one in poll() must be woken by its
  /// socket.
  Sleep ring(int member) const;
  /// Announces the sleep; false when the bell has rung since `seen`.
  bool fallAsleep(int member, uint32_t seen, Sleep how) const;
  void futexWait(int member, uint32_t seen, int timeoutMs) const;
  void wakeUp(int member) const;

 private:
  Segment(int members, std::byte* base) : shape_(members), base_(base) {}
  SegmentCell& cell(int member) const;

  SegmentShape shape_;
  std::byte* base_;
};

}  // namespace goku::collectives
