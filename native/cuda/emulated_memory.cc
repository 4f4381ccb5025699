#include "native/cuda/emulated_memory.h"

#include <sys/mman.h>

#include <cstdlib>

#include "native/cuda/emulated_device.h"
#include "native/cuda/emulated_streams.h"

namespace goku {
namespace emulated {
namespace {

/// Page-locked memory of the host.
class Pinned {
 public:
  void add(const void* start, size_t bytes) {
    const std::lock_guard lock(mutex_);
    runs_[static_cast<const std::byte*>(start)] = bytes;
  }
  void remove(const void* start) {
    const std::lock_guard lock(mutex_);
    runs_.erase(static_cast<const std::byte*>(start));
  }
  bool contains(const void* address) {
    const std::lock_guard lock(mutex_);
    const auto next = runs_.upper_bound(static_cast<const std::byte*>(address));
    if (next == runs_.begin()) return false;
    const auto& [start, bytes] = *std::prev(next);
    return static_cast<const std::byte*>(address) < start + bytes;
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, size_t> runs_;
};

Pinned& pinned() {
  static Pinned pinned;
  return pinned;
}

}  // namespace

size_t DeviceMemory::freeBytes() {
  const std::lock_guard lock(mutex_);
  return deviceBytes() - used_;
}

std::byte* DeviceMemory::map(size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (bytes > deviceBytes() - used_) return nullptr;
    used_ += bytes;
  }
  void* start = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  const std::lock_guard lock(mutex_);
  if (start == MAP_FAILED) {
    used_ -= bytes;
    return nullptr;
  }
  if (users_ > 0) mprotect(start, bytes, PROT_READ | PROT_WRITE);
  runs_[static_cast<std::byte*>(start)] = bytes;
  return static_cast<std::byte*>(start);
}

void DeviceMemory::unmap(std::byte* start) {
  const std::lock_guard lock(mutex_);
  const auto found = runs_.find(start);
  if (found == runs_.end()) return;
  munmap(start, found->second);
  used_ -= found->second;
  runs_.erase(found);
}

bool DeviceMemory::contains(const void* address) {
  const std::lock_guard lock(mutex_);
  const auto* at = static_cast<const std::byte*>(address);
  const auto next = runs_.upper_bound(const_cast<std::byte*>(at));
  return next != runs_.begin() && at < std::prev(next)->first + std::prev(next)->second;
}

void DeviceMemory::open() {
  const std::lock_guard lock(mutex_);
  if (users_++ == 0) protect(PROT_READ | PROT_WRITE);
}

void DeviceMemory::close() {
  const std::lock_guard lock(mutex_);
  if (--users_ == 0) protect(PROT_NONE);
}

void DeviceMemory::protect(int how) {
  for (const auto& [start, bytes] : runs_) mprotect(start, bytes, how);
}

DeviceMemory& deviceMemory() {
  static DeviceMemory memory;
  return memory;
}

bool isPageable(const void* address) {
  return !deviceMemory().contains(address) && !pinned().contains(address);
}

}  // namespace emulated

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (!emulated::isVisible()) return cudaErrorNoDevice;
  *memory = emulated::deviceMemory().map(bytes);
  if (*memory == nullptr) {
    emulated::runStreams();  // they may free some
    *memory = emulated::deviceMemory().map(bytes);
  }
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  emulated::runStreams();
  emulated::deviceMemory().unmap(static_cast<std::byte*>(memory));
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  emulated::pinned().add(*memory, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  emulated::pinned().remove(memory);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  emulated::enqueue(stream, [memory] { emulated::deviceMemory().unmap(static_cast<std::byte*>(memory)); });
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned) {
  emulated::pinned().add(memory, bytes);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
  emulated::pinned().remove(memory);
  return cudaSuccess;
}

}  // namespace goku
