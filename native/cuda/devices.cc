#include "native/devices.h"

#include "native/cuda/device.h"

namespace goku {

std::vector<DeviceInfo> devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice) {
    cudaGetLastError();  // an answer, not a failure of the next call
    return {};
  }
  CUDA_CHECK(error);
  std::vector<DeviceInfo> found;
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, i));
    found.push_back({properties.name, properties.totalGlobalMem});
  }
  return found;
}

}  // namespace goku
