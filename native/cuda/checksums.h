// Checksums of memory on the device, for operations that make them on a stream of their choice.
#pragma once

#include <cstdint>

#include "native/cuda/device.h"

namespace goku {

/// checksums[checksumsOf(bytes)] = CRC-32 of each MiB of data, both on the device; after what came before on
/// the stream.
void checksumChunks(uint32_t* checksums, const uint8_t* data, int64_t bytes, cudaStream_t stream);

}  // namespace goku
