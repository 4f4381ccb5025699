// A checksum covers a MiB, which a block cuts into 256 parts, a thread each, and joins (native/cuda/crc32.h).
#include "native/cuda/checksums.h"
#include "native/cuda/crc32.h"
#include "native/kernels/optimizer.h"

namespace goku {
namespace {

constexpr int kThreads = 256;

/// checksums[chunk] of each MiB.
__global__ void __launch_bounds__(kThreads)
    crcKernel(uint32_t* checksums, const uint8_t* data, int64_t bytes) {
  constexpr int64_t kPart = static_cast<int64_t>(kChecksumBytes) / kThreads;
  __shared__ uint32_t table[256];
  __shared__ uint32_t parts[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  table[thread] = crcOfByte(static_cast<uint32_t>(thread));
  __syncthreads();
  const int64_t chunk = int64_t{blockIdx.x} * static_cast<int64_t>(kChecksumBytes);
  const int64_t left = bytes - chunk,
                chunkBytes = left < int64_t{kThreads} * kPart ? left : int64_t{kThreads} * kPart;
  const auto until = [&](int64_t part) { return part * kPart < chunkBytes ? part * kPart : chunkBytes; };
  uint32_t crc = 0xffffffffu;
  int64_t at = chunk + until(thread);
  const int64_t end = chunk + until(thread + 1);
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    for (; at + 16 <= end; at += 16) {
      const uint4 quad = *reinterpret_cast<const uint4*>(data + at);
      const uint32_t words[4] = {quad.x, quad.y, quad.z, quad.w};
      for (int i = 0; i < 16; i++) crc = (crc >> 8) ^ table[(crc ^ (words[i / 4] >> (i % 4 * 8))) & 0xff];
    }
  }
  for (; at < end; at++) crc = (crc >> 8) ^ table[(crc ^ data[at]) & 0xff];
  parts[thread] = ~crc;
  for (int width = 1; width < kThreads; width *= 2) {
    __syncthreads();
    if (thread % (2 * width) != 0) continue;
    const int64_t second = until(thread + 2 * width) - until(thread + width);
    parts[thread] = crcJoin(parts[thread], parts[thread + width], static_cast<uint64_t>(second));
  }
  if (thread == 0) checksums[blockIdx.x] = parts[0];
}

}  // namespace

void checksumChunks(uint32_t* checksums, const uint8_t* data, int64_t bytes, cudaStream_t stream) {
  launchOn(stream, crcKernel, "checksumChunks", {checksumsOf(bytes), kThreads}, checksums, data, bytes);
}

}  // namespace goku
