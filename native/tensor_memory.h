// Where tensors lie: what differs between the machine's memory and a device's. tensor_memory.cc is the CPU
// backend's side, cuda/tensor_memory.cc the CUDA backend's; an addon links one of them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "native/page.h"
#include "native/unique_fd.h"

namespace goku::memory {

/// A large run of memory that the allocator cuts. `file`: other processes may map it there; none on a device.
struct Segment {
  std::byte* start = nullptr;
  size_t bytes = 0;
  UniqueFd file;
};

/// `start` is null where there is no more.
Segment mapSegment(size_t bytes);
/// What to say of that, for example "the system gives no more".
std::string shortage();
void unmapSegment(const Segment& segment) noexcept;

/// Bytes into a tensor from the host's memory, and back. Both return when `from` and `to` may be used again.
void copyIn(std::byte* to, const void* from, size_t bytes);
void copyOut(void* to, const std::byte* from, size_t bytes);

/// The page, whose memory kernels reach as long as the result is held.
std::shared_ptr<Page> reachable(std::shared_ptr<Page> page);

}  // namespace goku::memory
