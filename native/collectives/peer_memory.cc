#include "native/collectives/peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "native/collectives/link.h"

namespace goku::collectives {

PeerMemory::~PeerMemory() {
  for (const auto& [number, bytes] : segments_) ::munmap(const_cast<std::byte*>(bytes.data()), bytes.size());
}

std::span<const std::byte> PeerMemory::view(const SharedPlace& place, size_t bytes) {
  auto segment = segments_.find(place.segment);
  if (segment == segments_.end()) segment = segments_.emplace(place.segment, map(place)).first;
  const size_t size = segment->second.size();
  if (place.offset > size || bytes > size - place.offset) {
    throw LinkBroken{
        member_,
        concat("rank ", rank_, " lends ", bytes, " bytes at ", place.offset, " of a segment of ", size),
        ErrorCode::kIo};
  }
  return segment->second.subspan(place.offset, bytes);
}

std::span<const std::byte> PeerMemory::map(const SharedPlace& place) {
  const std::string path = concat("/proc/", pid_, "/fd/", place.fd);
  // Without blocking: of a process that gave up, the descriptor may be a pipe by now.
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (file && ::fstat(file.get(), &info) == 0) {
    const auto bytes = static_cast<size_t>(info.st_size);
    // Not populated: that would give the neighbour pages that it never used.
    void* start = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, file.get(), 0);
    if (start != MAP_FAILED) return {static_cast<const std::byte*>(start), bytes};
  }
  // A process that ends refuses with EACCES until it is reaped: who died is known by its control connection.
  throw LinkBroken{
      member_,
      concat("mapping the memory of rank ", rank_, " at ", path, " failed (", std::strerror(errno), ")"),
      ErrorCode::kIo};
}

}  // namespace goku::collectives
