// CRC-32 as gzip and zlib compute it (reflected, polynomial 0x04c11db7), by ISA-L: over 40 GB/s on bytes that
// are in the cache, a tenth of that on others.
#pragma once

#include <isa-l/crc.h>

#include <cstddef>
#include <cstdint>

namespace goku {

/// The checksum of what `before` is the checksum of, and then these bytes; 0: of nothing.
inline uint32_t crc32(uint32_t before, const void* data, size_t bytes) {
  return crc32_gzip_refl(before, static_cast<const unsigned char*>(data), bytes);
}

}  // namespace goku
