#include "native/tensor_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace goku::memory {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

/// Maps the whole file, which grows to `bytes`, from an address on where a huge page may begin: matrix
/// kernels gain from fewer address translations. -1: memory that nobody can be lent. Null where the system
/// gives no more.
std::byte* mapAligned(int file, size_t bytes) {
  if (file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) != 0) return nullptr;
  void* room =
      mmap(nullptr, bytes + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* raw = static_cast<std::byte*>(room);
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(raw) % kHugePage) % kHugePage;
  std::byte* start = raw + skip;
  if (skip > 0) munmap(raw, skip);
  if (skip < kHugePage) munmap(start + bytes, kHugePage - skip);
  const int kind = file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (mmap(start, bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED, file, 0) == MAP_FAILED) {
    munmap(start, bytes);
    return nullptr;
  }
  madvise(start, bytes, MADV_HUGEPAGE);  // advice: it may fail without harm
  return start;
}

}  // namespace

Segment mapSegment(size_t bytes) {
  // Without a descriptor (too many are open) it is memory all the same: payloads are copied then.
  UniqueFd file(memfd_create("goku-tensors", MFD_CLOEXEC));
  std::byte* start = mapAligned(file.get(), bytes);
  return {start, bytes, std::move(file)};
}

std::string shortage() { return "the system gives no more"; }

void unmapSegment(const Segment& segment) noexcept {
  munmap(segment.start, segment.bytes);
  if (!segment.file) return;
  // Neighbours keep their mappings, which would keep the pages.
  fallocate(segment.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
            static_cast<off_t>(segment.bytes));
}

void copyIn(std::byte* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void copyOut(void* to, const std::byte* from, size_t bytes) { std::memcpy(to, from, bytes); }

std::shared_ptr<Page> reachable(std::shared_ptr<Page> page) { return page; }

}  // namespace goku::memory
