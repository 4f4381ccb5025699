// The device as launchers see it: CUDA's runtime, or the device that tests emulate on the CPU.
//
// Kernels of a thread of the host run on that thread's own stream, in the order of the calls: a rank has one
// thread that launches, so this is its compute stream, and no operation needs to be handed one. What runs
// beside it (native/cuda/streams.h) is ordered with it by events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>

#include "native/error.h"

#if defined(GOKU_EMULATED_DEVICE)
#include "native/cuda/emulated_device.h"
#else
#include <cuda_runtime.h>
#define GOKU_DYNAMIC_SHARED(type, name)                \
  extern __shared__ __align__(16) unsigned char raw[]; \
  type* name = reinterpret_cast<type*>(raw)
#endif

namespace goku {

/// Of this thread, with the highest priority.
cudaStream_t computeStream();

[[noreturn]] void failCuda(cudaError_t error, const char* expression, const char* file, int line);

inline void checkCuda(cudaError_t error, const char* expression, const char* file, int line) {
  if (error != cudaSuccess) [[unlikely]]
    failCuda(error, expression, file, line);
}

/// Throws NATIVE_OUT_OF_MEMORY or NATIVE_DEVICE with the expression and its place.
#define CUDA_CHECK(expression) ::goku::checkCuda((expression), #expression, __FILE__, __LINE__)

/// Memory for the length of a launch, in the order of the compute stream. Contents are undefined.
class DeviceScratch {
 public:
  explicit DeviceScratch(size_t bytes);
  ~DeviceScratch();
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  /// Copies `bytes` to the host and waits for it, and so for every kernel before.
  void read(void* to, size_t bytes) const;

 private:
  void* data_ = nullptr;
};

/// A small list of the host's, where kernels can read it.
template <class T>
class Uploaded {
 public:
  explicit Uploaded(std::span<const T> list) : memory_(list.size_bytes()) {
    // From pageable memory: the runtime has its own copy when this returns.
    CUDA_CHECK(cudaMemcpyAsync(memory_.template as<T>(), list.data(), list.size_bytes(), cudaMemcpyDefault,
                               computeStream()));
  }
  const T* data() const { return memory_.template as<T>(); }

 private:
  DeviceScratch memory_;
};

struct Grid {
  int64_t blocks;
  int threads;  // a multiple of 32
  size_t sharedBytes = 0;
};

__host__ __device__ constexpr int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Runs the kernel, after what came before on the stream. No blocks: nothing.
template <class... Parameters, class... Arguments>
void launchOn(cudaStream_t stream, void (*kernel)(Parameters...), const char* name, const Grid& grid,
              const Arguments&... arguments) {
  if (grid.blocks == 0) return;
  std::tuple<Parameters...> values(arguments...);
#if defined(GOKU_EMULATED_DEVICE)
  emulated::enqueue(stream, [=] {
    emulated::run(grid.blocks, grid.threads, grid.sharedBytes, [&] { std::apply(kernel, values); });
  });
  static_cast<void>(name);
#else
  GOKU_CHECK(grid.blocks < (int64_t{1} << 31), name, ": ", grid.blocks, " blocks, want less than 2^31");
  // Beyond 48 KiB a kernel must ask; how much there is depends on the device, which refuses by itself.
  if (grid.sharedBytes > (size_t{48} << 10))
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(grid.sharedBytes)));
  const auto start = [&](auto&... value) {
    void* pointers[] = {&value...};
    CUDA_CHECK(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(grid.blocks)),
                                dim3(static_cast<unsigned>(grid.threads)), pointers, grid.sharedBytes,
                                stream));
  };
  std::apply(start, values);
#endif
}

/// On the compute stream.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const char* name, const Grid& grid,
            const Arguments&... arguments) {
  launchOn(computeStream(), kernel, name, grid, arguments...);
}

}  // namespace goku
