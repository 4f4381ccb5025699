#include "native/tensor_memory.h"

#include "native/cuda/device.h"

namespace goku::memory {

Segment mapSegment(size_t bytes) {
  void* start = nullptr;
  const cudaError_t error = cudaMalloc(&start, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the allocator says what is live; the next call must not report this again
    return {};
  }
  CUDA_CHECK(error);
  return {static_cast<std::byte*>(start), bytes, {}};
}

std::string shortage() {
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return concat("the device has ", free, " of its ", total, " bytes left, for all processes on it");
}

void unmapSegment(const Segment& segment) noexcept { cudaFree(segment.start); }

void copyIn(std::byte* to, const void* from, size_t bytes) {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, computeStream()));
  // `from` may be pinned, and is read later then.
  CUDA_CHECK(cudaStreamSynchronize(computeStream()));
}

void copyOut(void* to, const std::byte* from, size_t bytes) {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, computeStream()));
  CUDA_CHECK(cudaStreamSynchronize(computeStream()));
}

std::shared_ptr<Page> reachable(std::shared_ptr<Page> page) {
  std::shared_ptr<void> pin = page->reached.lock();
  if (pin == nullptr) {
    CUDA_CHECK(cudaHostRegister(page->data(), page->bytes(), cudaHostRegisterDefault));
    pin = std::shared_ptr<void>(page.get(), [page](void*) {
      // Kernels and copies of any stream may still write there.
      cudaDeviceSynchronize();
      cudaHostUnregister(page->data());
    });
    page->reached = pin;
  }
  return std::shared_ptr<Page>(pin, page.get());
}

}  // namespace goku::memory
