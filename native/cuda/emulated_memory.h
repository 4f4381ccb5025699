// Memory of the emulated device, and which memory of the host it reaches.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace goku::emulated {

size_t deviceBytes();
/// This process sees a device.
bool isVisible();

/// Out of the host's reach but for kernels and copies.
class DeviceMemory {
 public:
  size_t freeBytes();
  /// Null: there is not so much left.
  std::byte* map(size_t bytes);
  void unmap(std::byte* start);
  bool contains(const void* address);
  void open();
  void close();

 private:
  void protect(int how);
  std::mutex mutex_;
  std::map<std::byte*, size_t> runs_;
  size_t used_ = 0;
  int users_ = 0;
};

DeviceMemory& deviceMemory();

/// The device's memory is within reach for the length of a scope.
class Opened {
 public:
  Opened() { deviceMemory().open(); }
  ~Opened() { deviceMemory().close(); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
};

/// Pageable memory of the host: copies to and from it are over, or have read it, when their call returns.
bool isPageable(const void* address);

}  // namespace goku::emulated
