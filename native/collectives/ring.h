// A ring of entries in shared memory, from one member to one other (pair) or to all its neighbours (shared).
//
// An entry holds bytes in its slot, or lends memory: the slot then says where in the writer's process the
// bytes lie, and a reader copies or folds them from there. The writer touches lent memory again only once all
// readers have taken the entry.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "native/allocator.h"

namespace goku::collectives {

class PeerMemory;

inline constexpr uint32_t kEntriesMax = 8;

/// A cursor on its own cache line.
struct alignas(64) Cursor {
  std::atomic<uint64_t> value;
};
struct alignas(64) RingLine {
  std::atomic<uint64_t> written;  // entries published so far
  uint32_t lengths[kEntriesMax];  // bytes in each slot, or kLent; written before `written`
};
/// The length of an entry whose slot holds a Loan.
inline constexpr uint32_t kLent = 0xffffffff;
struct Loan {
  SharedPlace place;  // in the writer's process
  size_t bytes = 0;
};

struct RingSlots {
  std::byte* base = nullptr;
  uint32_t count = 0;
  uint32_t bytes = 0;  // of each
  std::byte* at(uint64_t entry) const { return base + entry % count * bytes; }
};

/// Writing end. The other ends are one reader (pair) or all other members (shared).
class RingWriter {
 public:
  RingWriter(RingLine* line, Cursor* taken, int readers, RingSlots slots)
      : line_(line), taken_(taken), readers_(readers), slots_(slots) {}
  /// A free slot, empty when the readers have not taken enough.
  std::span<std::byte> reserve();
  /// The reserved slot holds that many bytes.
  void publish(uint32_t bytes);
  /// The reserved slot is to lend that memory.
  void lend(const Loan& loan);
  /// A reader that has not given back all that was lent to it; -1: none.
  int borrower() const;

 private:
  RingLine* line_;
  Cursor* taken_;
  int readers_;
  RingSlots slots_;
  uint64_t written_ = 0;
  uint64_t lent_ = 0;        // entries up to the last loan
  uint64_t takenByAll_ = 0;  // as last seen
};

class RingReader {
 public:
  RingReader(RingLine* line, Cursor* taken, RingSlots slots, PeerMemory& writer)
      : line_(line), taken_(taken), slots_(slots), writer_(writer) {}
  /// What is left of the oldest entry, empty when nothing has arrived.
  std::span<const std::byte> front();
  bool lent() const { return line_->lengths[takenEntries_ % slots_.count] == kLent; }
  /// True when that gave the entry back to the writer.
  bool consume(size_t bytes);

 private:
  size_t length() const;
  Loan loan() const;

  RingLine* line_;
  Cursor* taken_;
  RingSlots slots_;
  PeerMemory& writer_;
  uint64_t takenEntries_ = 0;
  size_t offset_ = 0;
};

}  // namespace goku::collectives
