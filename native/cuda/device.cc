#include "native/cuda/device.h"

#include <string>

#include "native/tensor_memory.h"

namespace goku {

void failCuda(cudaError_t error, const char* expression, const char* file, int line) {
  const bool memory = error == cudaErrorMemoryAllocation;
  cudaGetLastError();  // an error that was reported must not be reported again by the next call
  // The path from native/ on: a message must not depend on where the sources were built.
  const std::string path(file);
  const size_t start = path.rfind("native/");
  throw NativeError(memory ? ErrorCode::kOutOfMemory : ErrorCode::kDevice,
                    concat("Cannot go on with the CUDA device: ", cudaGetErrorName(error), ", ",
                           cudaGetErrorString(error), " (", expression, " at ",
                           start == std::string::npos ? path : path.substr(start), ":", line, ")"));
}

DeviceScratch::DeviceScratch(size_t bytes) {
  if (bytes == 0) return;
  const cudaError_t error = cudaMallocAsync(&data_, bytes, computeStream());
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // told here, and not again by the next call
    throw NativeError(ErrorCode::kOutOfMemory,
                      concat("Cannot allocate ", bytes, " bytes for a kernel: ", memory::shortage(),
                             ", use more ranks or smaller packs"));
  }
  CUDA_CHECK(error);
}

DeviceScratch::~DeviceScratch() {
  // In the stream's order: kernels that were launched with it end first. What fails here fails at the next
  // call.
  if (data_ != nullptr) cudaFreeAsync(data_, computeStream());
}

void DeviceScratch::read(void* to, size_t bytes) const {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, data_, bytes, cudaMemcpyDefault, computeStream()));
  CUDA_CHECK(cudaStreamSynchronize(computeStream()));
}

}  // namespace goku
