// The shared memory of a group's members on one node.
//
// Layout, in this order, each part on its own cache lines:
//   header             nonce, the mark of this segment
//   cells[L]           per member: its bell (futex word), the collective it has entered, whether it gave up
//   pair lines[L*L]    cursors of the ring from member w to member r
//   shared lines[L]    cursors of the ring that member w writes once and all others read
//   slots              payload of the rings
// One writer per word, all lock-free: a member that is killed at any instruction leaves nothing locked.
//
// Large payloads are lent (ring.h), small ones are copied through the slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "native/collectives/ring.h"
#include "native/unique_fd.h"

namespace goku::collectives {

/// One node's members of a group; bounds the arrays below.
inline constexpr int kLocalMembersMax = 64;

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
  uint32_t pairSlotBytes;
  size_t cells, pairLines, sharedLines, pairData, sharedData, bytes;  // offsets, then the size of all
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

  /// What `self` has lent is not to be believed from now on; to be called before it is used for anything
  /// else.
  void withdraw(int self);
  /// To be asked after lent bytes were read.
  bool withdrawn(int member) const;

  RingWriter pairWriter(int from, int to) const;
  RingReader pairReader(int from, int to, PeerMemory& writer) const;
  RingWriter sharedWriter(int from) const;
  RingReader sharedReader(int from, int to, PeerMemory& writer) const;

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
  std::byte* pairLine(int from, int to) const;
  RingSlots pairSlots(int from, int to) const;
  std::byte* sharedLine(int from) const;
  RingSlots sharedSlots(int from) const;

  SegmentShape shape_;
  std::byte* base_;
};

}  // namespace goku::collectives
