// A CUDA device emulated on the CPU, for tests: the same kernel sources compile for it, so indices, tails,
// barriers and exchanges between lanes are tested where there is no GPU. It shows what a kernel computes, not
// how fast, nor what a compiler for the device makes of it.
//
// Every thread of a block is a fiber. A warp's run one after the other from exchange to exchange, until all
// of them are at a barrier of the block; only then does the next warp begin: forwards in even blocks,
// backwards in odd ones, so that a missing barrier shows in one of the two orders. A barrier that not all
// threads reach is an error. Shared memory starts as NaN in every block. What an asynchronous copy goes to is
// NaN from the moment the copy begins until its thread has waited for it: who reads too early, or begins a
// copy to what others still read, gets NaN. Device memory cannot be touched outside kernels and copies: a
// host that reads it crashes here as it would there.
//
// Work on a stream is queued, and runs when the host waits for it, or when work does that the host waits for:
// as late as may be, and no stream's before another's unless an event says so. Who forgets to wait reads what
// was there before, or what has come since.
//
// GOKU_EMULATED_DEVICES says how many devices there are (1), of which CUDA_VISIBLE_DEVICES shows a process
// some, by number; GOKU_EMULATED_MIB how much memory each has (8192).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
// One block runs at a time on a thread of the host.
#define __shared__ static thread_local
#define GOKU_DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::goku::emulated::dynamicShared())

namespace goku {

namespace emulated {
class Queue;
}
/// Work that was queued, and groups of operations that a library has given it (test/support/fake_nccl.cc),
/// which do not wait for each other.
struct CUstream_st {
  struct Groups {
    std::atomic<uint64_t> given{0};
    std::atomic<uint64_t> done{0};  // of those, in their order
  };
  std::shared_ptr<Groups> groups = std::make_shared<Groups>();
  std::shared_ptr<emulated::Queue> queue;
};
using cudaStream_t = CUstream_st*;

struct Index {
  unsigned x;
};
inline thread_local constinit Index threadIdx{0}, blockIdx{0}, blockDim{0}, gridDim{0};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace emulated {

inline constexpr int kLanesPerWarp = 32;
inline constexpr int kWordsPerLane = 8;
using WarpWords = uint32_t[kLanesPerWarp][kWordsPerLane];

/// Queues work on a stream.
void enqueue(cudaStream_t stream, std::function<void()> work);
/// Calls `thread` for every thread of `blocks` blocks, now. Throws NATIVE_DEVICE where a barrier is not
/// reached by all.
void run(int64_t blocks, int threads, size_t sharedBytes, const std::function<void()>& thread);
std::byte* dynamicShared();
void syncBlock();
/// What every lane of the warp gave; valid until the lane's second exchange from here. A barrier of the warp.
const WarpWords& exchange(std::span<const uint32_t> words);

// Asynchronous copies of a thread (native/cuda/async_copy.h). `from` null: zeros.
void beginCopy(void* shared, const void* from, size_t bytes);
void commitCopies();
void waitCopies(unsigned groups);

}  // namespace emulated

inline void __syncthreads() { emulated::syncBlock(); }
inline void __syncwarp() { emulated::exchange({}); }
inline float __shfl_xor_sync(uint32_t, float value, int mask) {
  const uint32_t word = __builtin_bit_cast(uint32_t, value);
  const auto& words = emulated::exchange({&word, 1});
  return __builtin_bit_cast(float, words[(threadIdx.x % 32) ^ static_cast<unsigned>(mask)][0]);
}
inline double __shfl_xor_sync(uint32_t, double value, int mask) {
  uint32_t word[2];
  __builtin_memcpy(word, &value, sizeof value);
  const auto& words = emulated::exchange(word);
  __builtin_memcpy(&value, words[(threadIdx.x % 32) ^ static_cast<unsigned>(mask)], sizeof value);
  return value;
}
inline uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int mask) {
  return emulated::exchange({&value, 1})[(threadIdx.x % 32) ^ static_cast<unsigned>(mask)][0];
}

// The runtime's calls that the backend uses; those of CUDA where these have the same name.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorNotReady = 600,
  cudaErrorHostMemoryAlreadyRegistered = 712
};
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
struct CUevent_st;
using cudaEvent_t = CUevent_st*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline constexpr unsigned cudaHostRegisterDefault = 0;

/// As far as it is asked for.
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
};

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocHost(void** memory, size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t toPitch, const void* from, size_t fromPitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* memory);

}  // namespace goku
