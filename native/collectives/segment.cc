#include "native/collectives/segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "native/collectives/fault.h"

namespace goku::collectives {

struct SegmentCell {
  alignas(64) std::atomic<uint32_t> bell;
  std::atomic<bool> withdrawn;
  std::atomic<uint64_t> sleep;  // 0 awake, else the bell that the sleeper has seen << 32 | Sleep
  // Entries alternate: a member enters collective n+2 only after all have entered n+1, so after all have left
  // n.
  struct alignas(64) Entry {
    std::atomic<uint64_t> sequence;
    Announcement to[kLocalMembersMax];
  } entries[2];
};

namespace {

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

constexpr size_t kPage = 4096;
size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// All pair rings together should stay in a last-level cache of a few MiB; below 32 KiB a slot costs more in
// hand-overs than it saves in memory traffic.
constexpr size_t kPairBudget = 3 << 20;
constexpr uint32_t kSlotBytesMin = 8 << 10;
constexpr uint32_t kSlotBytesMax = 64 << 10;
constexpr uint32_t kPairSlots = 2;
constexpr uint32_t kSharedSlots = 4;
constexpr uint32_t kSharedSlotBytes = kSlotBytesMax;
static_assert(kPairSlots <= kEntriesMax && kSharedSlots <= kEntriesMax);

std::string systemError(const char* what) {
  return concat(what, " shared memory failed (", std::strerror(errno), ")");
}

std::byte* mapWhole(int fd, size_t bytes) {
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (base == MAP_FAILED) throw FaultError(ErrorCode::kIo, -1, systemError("mapping"));
  return static_cast<std::byte*>(base);
}

}  // namespace

SegmentShape::SegmentShape(int count) : members(count) {
  const size_t pairs = static_cast<size_t>(count) * count;
  const size_t share = kPairBudget / kPairSlots / std::max<size_t>(1, pairs - count);
  pairSlotBytes =
      std::clamp<uint32_t>(std::bit_floor(static_cast<uint32_t>(share)), kSlotBytesMin, kSlotBytesMax);
  cells = kPage;
  pairLines = cells + roundUp(count * sizeof(SegmentCell), kPage);
  sharedLines = pairLines + roundUp(pairs * (sizeof(RingLine) + sizeof(Cursor)), kPage);
  pairData = sharedLines + roundUp(count * (sizeof(RingLine) + count * sizeof(Cursor)), kPage);
  sharedData = pairData + pairs * kPairSlots * pairSlotBytes;
  bytes = sharedData + static_cast<size_t>(count) * kSharedSlots * kSharedSlotBytes;
}

Segment Segment::create(int members, UniqueFd* fd) {
  const SegmentShape shape(members);
  fd->reset(::memfd_create("goku-comm", MFD_CLOEXEC));
  if (!*fd) throw FaultError(ErrorCode::kIo, -1, systemError("creating"));
  // Allocated now: a page that cannot be had later would be a SIGBUS in the middle of a collective.
  const int failed = ::posix_fallocate(fd->get(), 0, static_cast<off_t>(shape.bytes));
  if (failed != 0) {
    errno = failed;
    const bool full = failed == ENOSPC || failed == ENOMEM;
    throw FaultError(full ? ErrorCode::kOutOfMemory : ErrorCode::kIo, -1,
                     concat(systemError("allocating"), ", ", shape.bytes >> 10, " KiB wanted"));
  }
  Segment segment(members, mapWhole(fd->get(), shape.bytes));
  uint64_t* nonce = reinterpret_cast<uint64_t*>(segment.base_);
  if (::getrandom(nonce, sizeof(*nonce), 0) != sizeof(*nonce)) *nonce = static_cast<uint64_t>(::getpid());
  return segment;
}

Segment Segment::open(Place place, int members, uint64_t nonce) {
  const std::string file = concat("/proc/", place.pid, "/fd/", place.fd);
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) {
    throw FaultError(
        ErrorCode::kIo, -1,
        concat(systemError("opening"), " at ", file,
               ", members of one nodeId must run under one user and see each other's processes"));
  }
  const SegmentShape shape(members);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || info.st_size != static_cast<off_t>(shape.bytes)) {
    throw FaultError(ErrorCode::kIo, -1,
                     concat("shared memory ", file, " has ", info.st_size, " bytes, want ", shape.bytes));
  }
  Segment segment(members, mapWhole(fd.get(), shape.bytes));
  if (segment.nonce() != nonce) {
    throw FaultError(ErrorCode::kIo, -1,
                     concat("shared memory ", file, " is not the one that its creator announced"));
  }
  return segment;
}

Segment::Segment(Segment&& other) noexcept
    : shape_(other.shape_), base_(std::exchange(other.base_, nullptr)) {}

Segment::~Segment() {
  if (base_ != nullptr) ::munmap(base_, shape_.bytes);
}

uint64_t Segment::nonce() const { return *reinterpret_cast<const uint64_t*>(base_); }

SegmentCell& Segment::cell(int member) const {
  return reinterpret_cast<SegmentCell*>(base_ + shape_.cells)[member];
}

void Segment::enter(int self, uint64_t sequence, std::span<const Announcement> announcements) {
  SegmentCell::Entry& entry = cell(self).entries[sequence % 2];
  std::copy(announcements.begin(), announcements.end(), entry.to);
  entry.sequence.store(sequence, std::memory_order_release);
}

bool Segment::entered(int member, int self, uint64_t sequence, Announcement* announcement) const {
  const SegmentCell::Entry& entry = cell(member).entries[sequence % 2];
  if (entry.sequence.load(std::memory_order_acquire) != sequence) return false;
  *announcement = entry.to[self];
  return true;
}

void Segment::withdraw(int self) {
  cell(self).withdrawn.store(true, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

bool Segment::withdrawn(int member) const {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return cell(member).withdrawn.load(std::memory_order_relaxed);
}

std::byte* Segment::pairLine(int from, int to) const {
  const size_t index = static_cast<size_t>(from) * shape_.members + to;
  return base_ + shape_.pairLines + index * (sizeof(RingLine) + sizeof(Cursor));
}

RingSlots Segment::pairSlots(int from, int to) const {
  const size_t index = static_cast<size_t>(from) * shape_.members + to;
  return {base_ + shape_.pairData + index * kPairSlots * shape_.pairSlotBytes, kPairSlots,
          shape_.pairSlotBytes};
}

RingWriter Segment::pairWriter(int from, int to) const {
  std::byte* line = pairLine(from, to);
  return RingWriter(reinterpret_cast<RingLine*>(line), reinterpret_cast<Cursor*>(line + sizeof(RingLine)), 1,
                    pairSlots(from, to));
}

RingReader Segment::pairReader(int from, int to, PeerMemory& writer) const {
  std::byte* line = pairLine(from, to);
  return RingReader(reinterpret_cast<RingLine*>(line), reinterpret_cast<Cursor*>(line + sizeof(RingLine)),
                    pairSlots(from, to), writer);
}

std::byte* Segment::sharedLine(int from) const {
  return base_ + shape_.sharedLines + from * (sizeof(RingLine) + shape_.members * sizeof(Cursor));
}

RingSlots Segment::sharedSlots(int from) const {
  return {base_ + shape_.sharedData + static_cast<size_t>(from) * kSharedSlots * kSharedSlotBytes,
          kSharedSlots, kSharedSlotBytes};
}

// The readers of member w's shared ring are all members but w, in order.
RingWriter Segment::sharedWriter(int from) const {
  std::byte* line = sharedLine(from);
  return RingWriter(reinterpret_cast<RingLine*>(line), reinterpret_cast<Cursor*>(line + sizeof(RingLine)),
                    shape_.members - 1, sharedSlots(from));
}

RingReader Segment::sharedReader(int from, int to, PeerMemory& writer) const {
  std::byte* line = sharedLine(from);
  Cursor* cursors = reinterpret_cast<Cursor*>(line + sizeof(RingLine));
  return RingReader(reinterpret_cast<RingLine*>(line), cursors + (to < from ? to : to - 1), sharedSlots(from),
                    writer);
}

uint32_t Segment::bell(int member) const { return cell(member).bell.load(std::memory_order_seq_cst); }

// Either the ringer sees the sleep, or the sleeper sees the bell: both sides write first and read second, in
// one total order. A ringer clears only the sleep of someone who has not seen its ring: a late one that
// cleared a newer sleep would let the next ring go unheard.
Segment::Sleep Segment::ring(int member) const {
  SegmentCell& target = cell(member);
  const uint32_t rung = target.bell.fetch_add(1, std::memory_order_seq_cst) + 1;
  uint64_t sleep = target.sleep.load(std::memory_order_seq_cst);
  if (sleep == 0 || static_cast<int32_t>(static_cast<uint32_t>(sleep >> 32) - rung) >= 0)
    return Sleep::kAwake;
  if (!target.sleep.compare_exchange_strong(sleep, 0, std::memory_order_seq_cst)) return Sleep::kAwake;
  const Sleep how = static_cast<Sleep>(static_cast<uint32_t>(sleep));
  if (how == Sleep::kFutex) {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&target.bell), FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
  return how;
}

bool Segment::fallAsleep(int member, uint32_t seen, Sleep how) const {
  SegmentCell& self = cell(member);
  self.sleep.store(static_cast<uint64_t>(seen) << 32 | static_cast<uint32_t>(how), std::memory_order_seq_cst);
  if (self.bell.load(std::memory_order_seq_cst) == seen) return true;
  self.sleep.store(0, std::memory_order_relaxed);
  return false;
}

void Segment::futexWait(int member, uint32_t seen, int timeoutMs) const {
  const timespec timeout{timeoutMs / 1000, timeoutMs % 1000 * 1'000'000L};
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&cell(member).bell), FUTEX_WAIT, seen, &timeout, nullptr,
            0);
}

void Segment::wakeUp(int member) const { cell(member).sleep.store(0, std::memory_order_relaxed); }

}  // namespace goku::collectives
