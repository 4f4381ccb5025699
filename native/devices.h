// The devices that a backend computes on, as this process sees them. devices.cc is the CPU backend's side,
// cuda/devices.cc the CUDA backend's; an addon links one of them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace goku {

struct DeviceInfo {
  std::string name;
  size_t memoryBytes = 0;
};

/// Those of CUDA_VISIBLE_DEVICES, in its order; none on the CPU backend. Takes no memory of a device. Throws
/// NATIVE_DEVICE where the driver refuses to say.
std::vector<DeviceInfo> devices();

}  // namespace goku
